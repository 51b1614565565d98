"""A campaign of headless clients, by a scripted stand-in: started again after ends, failures, limits and kills; stopped at the end."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import cli
from autoresearch_mcp.server.commands import campaign as command
from autoresearch_mcp.server.commands.client_limits import LONGEST_S, USUAL_S, wait_s
from autoresearch_mcp.server.commands.headless import Agent, Headless
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Role
from tests.server.measured import MeasuredLab
from tests.waiting import until

STANDIN = shlex.join([sys.executable, str(Path(__file__).with_name("standin_agent.py"))])
Start = Callable[..., "Running"]


class Running:
    """A campaign as a process, and what its agents left."""

    def __init__(self, root: Path, out: Path, script: str, options: list[str]) -> None:
        out.mkdir(exist_ok=True)
        (out / "script").write_text(script)
        self.out = out
        command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "campaign", "--with", STANDIN, "--out", str(out)]
        self.process = subprocess.Popen([*command, *options, str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def pids(self, agent: str = "orchestrator") -> list[int]:
        starts = self.out / agent / "starts"
        return [int(line) for line in starts.read_text().splitlines()] if starts.exists() else []

    def started(self, times: int, agent: str = "orchestrator") -> list[int]:
        until(lambda: len(self.pids(agent)) >= times, 90)
        return self.pids(agent)

    def end(self) -> str:
        return self.process.communicate(timeout=90)[0]

    def transcripts(self, agent: str = "orchestrator") -> str:
        return "".join(path.read_text() for path in sorted((self.out / agent).glob("transcript-*.txt")))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").is_dir() else True


@pytest.fixture
def start(measured: MeasuredLab, tmp_path: Path) -> Iterator[Start]:
    campaigns: list[Running] = []

    def begin(script: str, *options: str) -> Running:
        campaigns.append(Running(measured.root, tmp_path / "out", script, list(options)))
        return campaigns[-1]

    yield begin
    for campaign in campaigns:
        if campaign.process.poll() is None:
            campaign.process.send_signal(signal.SIGTERM)
            campaign.end()


def test_agents_have_their_roles_and_start_again_after_a_limit_and_a_kill_until_they_are_stopped(start: Start) -> None:
    campaign = start("fail You've hit your usage limit, try again in 0 seconds.\ntools", "--workers", "1")
    offered = {}
    for agent in ("orchestrator", "worker-1"):
        listed = campaign.out / agent / "tools"
        until(lambda listed=listed: listed.exists() and listed.read_text() != "", 90)
        offered[agent] = set(listed.read_text().split())
    assert offered["orchestrator"] == set(TOOLS) and "promote_commit" not in offered["worker-1"] and "propose_patch" in offered["worker-1"]
    os.kill(campaign.pids("worker-1")[1], signal.SIGKILL)
    campaign.started(3, "worker-1")
    campaign.process.send_signal(signal.SIGTERM)
    words = campaign.end()
    assert campaign.process.returncode == 0 and "it was stopped" in words and "worker-1 is at its account's limit" in words
    assert [pid for agent in ("orchestrator", "worker-1") for pid in campaign.pids(agent) if alive(pid)] == []
    text = campaign.transcripts("worker-1")
    assert text.startswith("worker-1 worker no token\n") and "Champion" in text and "Direction of the campaign" in text
    assert len(list((campaign.out / "worker-1").glob("transcript-*.txt"))) == 3


def here(root: Path, out: Path, script: str, *options: str) -> int:
    """Run a campaign in this process, from start to end."""
    out.mkdir(exist_ok=True)
    (out / "script").write_text(script)
    return cli.main(["campaign", "--with", STANDIN, "--out", str(out), *options, str(root)])


def test_the_goal_the_owners_pause_and_the_time_end_a_campaign(
    measured: MeasuredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.measure(measured.lab.status().champion.commit, [1.5, 1.6])
    out = tmp_path / "out"
    assert here(measured.root, out, "wait", "--goal", "100") == 0 and "has reached 100" in capsys.readouterr().out
    assert not (out / "orchestrator").exists()  # nobody was started
    assert here(measured.root, out, "wait", "--workers", "0", "--for", "0.2s") == 0 and "its time is up" in capsys.readouterr().out
    monkeypatch.setattr(command, "_LOOK_S", 0.1)
    (out / "orchestrator" / "starts").unlink(missing_ok=True)

    def pause() -> None:
        until((out / "orchestrator" / "starts").exists)
        measured.lab.pause()

    pausing = threading.Thread(target=pause)
    pausing.start()
    assert here(measured.root, out, "wait", "--workers", "0", "--for", "120s") == 0 and "paused" in capsys.readouterr().out
    pausing.join()


def test_at_the_budgets_end_agents_finish_what_they_are_at_and_nobody_starts_again(
    measured: MeasuredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    budget = "the budget covers no more trainings"
    looks = []

    def end(*about: Any) -> str:
        if not all((out / agent / "starts").exists() for agent in ("orchestrator", "worker-1")):
            return ""
        looks.append(about)
        if len(looks) == 2:
            (out / "closing").touch()  # which the agents wait for
        return budget

    monkeypatch.setattr(command, "_LOOK_S", 0.05)
    monkeypatch.setattr(command, "end", end)
    assert here(measured.root, out, "finish its last words", "--workers", "1") == 0
    words = capsys.readouterr().out
    assert "may finish it, for 10 minutes" in words and f"ended: {budget}" in words
    assert [len((out / agent / "starts").read_text().split()) for agent in ("orchestrator", "worker-1")] == [1, 1]
    assert "its last words" in (out / "orchestrator" / "transcript-0001.txt").read_text()
    monkeypatch.setattr(command, "_CLOSING_S", 0.2)
    monkeypatch.setattr(command, "end", lambda *about: budget if len((out / "orchestrator" / "starts").read_text().split()) == 2 else "")
    assert here(measured.root, out, "wait", "--workers", "0") == 0 and f"ended: {budget}" in capsys.readouterr().out


def test_an_agent_that_fails_too_often_is_given_up_with_its_last_words(
    measured: MeasuredLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(measured.root, tmp_path / "out", "fail Invalid API key", "--workers", "0", "--failures", "2") == 1
    assert "failed 2 times in a row, and is given up" in (words := capsys.readouterr().out) and "Invalid API key" in words


def test_no_agent_outlives_a_killed_campaign_for_longer_than_the_next_ones_start(
    start: Start, measured: MeasuredLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start("stay", "--workers", "0")
    (stubborn,) = first.started(1)
    assert here(measured.root, first.out, "stay") == 2 and "runs in" in capsys.readouterr().err and alive(stubborn)
    first.process.kill()
    first.end()
    monkeypatch.setattr(command, "_GRACE_S", 0.1)
    assert here(measured.root, first.out, "stay", "--workers", "0", "--for", "1s") == 0
    assert [pid for pid in first.pids() if alive(pid)] == []


def test_an_agent_whose_folder_is_gone_is_given_up_and_the_others_go_on(start: Start) -> None:
    campaign = start("wait", "--workers", "1", "--failures", "1")
    (worker,), (orchestrator,) = campaign.started(1, "worker-1"), campaign.started(1)
    shutil.rmtree(campaign.out / "worker-1")
    os.kill(worker, signal.SIGKILL)
    line = campaign.process.stdout.readline() if campaign.process.stdout else ""
    assert "worker-1 failed 1 times in a row" in line and "No such file" in line and alive(orchestrator)
    campaign.process.send_signal(signal.SIGTERM)
    assert "it was stopped" in campaign.end() and not alive(orchestrator)


def test_a_lab_that_cannot_be_read_for_a_while_does_not_keep_a_campaign_from_ending(
    measured: MeasuredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = []

    def end(*about: Any) -> str:
        looks.append(about)
        if len(looks) in (2, 3):
            raise LabError("The ledger is busy.", "busy")
        return "it was the fourth look" if len(looks) == 4 else ""

    monkeypatch.setattr(command, "_LOOK_S", 0.05)
    monkeypatch.setattr(command, "end", end)
    assert here(measured.root, tmp_path / "out", "wait", "--workers", "0") == 0
    words = capsys.readouterr().out
    assert words.count("The ledger is busy.") == 1 and "ended: it was the fourth look" in words


def test_an_error_of_the_campaign_itself_leaves_no_agent_behind(
    measured: MeasuredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "out" / "orchestrator" / "starts"

    def end(*about: Any) -> str:
        if starts.exists() and starts.read_text():
            raise RuntimeError("a mistake of ours")
        return ""

    monkeypatch.setattr(command, "_LOOK_S", 0.05)
    monkeypatch.setattr(command, "end", end)
    with pytest.raises(ExceptionGroup):
        here(measured.root, tmp_path / "out", "wait", "--workers", "0")
    pids = [int(line) for line in starts.read_text().split()]
    assert pids and not any(alive(pid) for pid in pids)


def test_over_http_each_agent_gets_a_token_of_its_role_which_ends_with_the_campaign(
    start: Start, measured: MeasuredLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ("--workers", "1", "--url", "https://lab.example/mcp")
    ledger = Ledger(LabPaths(measured.root).ledger)
    ledger.add_token("worker-1", Role.VIEWER, None)
    assert here(measured.root, tmp_path / "out", "wait", *url) == 2 and "worker-1 has a token" in capsys.readouterr().err
    assert [(token.name, token.role) for token in ledger.tokens().values() if token.valid] == [("worker-1", Role.VIEWER)]
    assert ledger.revoke_token("worker-1")
    campaign = start("wait", *url)
    for agent in ("orchestrator", "worker-1"):
        campaign.started(1, agent)
    until(lambda: "\n" in campaign.transcripts("worker-1"), 10)
    secret = campaign.transcripts("worker-1").split()[2]
    holders = {token.name: token.role for token in ledger.tokens().values() if token.valid}
    assert holders == {"orchestrator": Role.ORCHESTRATOR, "worker-1": Role.WORKER} and secret not in campaign.transcripts()
    config = (campaign.out / "worker-1" / ".mcp.json").read_text()
    assert "https://lab.example/mcp" in config and "${AUTORESEARCH_TOKEN}" in config and secret not in config
    campaign.process.kill()
    campaign.end()
    assert here(measured.root, tmp_path / "out", "wait", *url, "--for", "0.2s") == 0  # which takes the killed one's tokens over
    assert [token for token in ledger.tokens().values() if token.valid] == []
    assert here(measured.root, tmp_path / "out", "wait", *url, "--for", "0.2s") == 0
    ledger.close()


NOW = datetime(2026, 11, 27, 22, 0, tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("You've hit your session limit · resets 11:50pm (Europe/Berlin)", 6_600 + 30),
        ("You've hit your limit · resets 3pm (America/Bogota)\nrate limit", 23 * 3600 + 30),
        ("You've hit your usage limit. Upgrade to Pro or try again in 2 days 17 hours 14 minutes.", 234_840 + 1),
        ("You've hit your usage limit. Try again at 10:30 PM.", 1_800 + 30),
        ("You have exhausted your capacity on this model. Your quota will reset after 39s.", 39 + 1),
        ("Usage limit reached for gemini-3-flash-preview. Access resets at 7:00 PM GMT-3.", 3_600 + 30),
        (f"Claude AI usage limit reached|{int(NOW.timestamp()) + 600}", 600 + 30),
        ('API Error: 529 {"type":"error","error":{"type":"overloaded_error"}}', USUAL_S),
        ("rate limit: try again in 90 days", LONGEST_S),
        ("ModuleNotFoundError: no module named torch", None),
        ("I read 4290 lines, and reset the optimizer after 39s.", None),
        ("A learning-rate limit of 0.1 helps; a higher learning rate limits depth.", None),
    ],
)
def test_a_clients_words_say_when_its_limit_ends(words: str, seconds: float | None) -> None:
    assert wait_s(words, NOW) == seconds


@pytest.mark.parametrize(
    ("command", "file", "word", "alone"),  # `alone`: what it needs where nobody answers, in its file or its environment
    [
        ("claude -p", ".mcp.json", "--mcp-config", "'MCP_CONNECTION_NONBLOCKING': '0'"),
        ("/opt/bin/codex exec", ".codex/config.toml", "mcp_servers.autoresearch.args=", "required = true\nstartup_timeout_sec = 60\n"),
        ("gemini -p", ".gemini/settings.json", "the prompt", '"trust": true'),
        ("opencode run {prompt} --model x", "opencode.json", "the prompt", '"timeout": 60000'),
    ],
)
def test_each_client_is_told_of_the_server_in_its_own_way(command: str, file: str, word: str, alone: str, tmp_path: Path) -> None:
    client, agent = Headless.parse(command), Agent("ada", Role.WORKER, tmp_path / "ada")
    client.configure(agent, tmp_path / "lab", "")
    text = (agent.folder / file).read_text()
    assert all(json.dumps(part) in text for part in ("--as", "ada", "--role", "worker", str(tmp_path / "lab")))
    line = client.command("the prompt", agent.folder)
    assert any(part.startswith(word) for part in line) and line.count("the prompt") == 1 and "{prompt}" not in line
    assert alone in f"{text}{client.environment(agent, tmp_path / 'lab', '', '')}"


def test_codex_is_told_of_a_lab_whose_path_has_any_letters(tmp_path: Path) -> None:
    client, agent = Headless.parse("codex exec"), Agent("ada", Role.WORKER, tmp_path / "ada")
    client.configure(agent, tmp_path / "läb 🔬", "")
    given = [word for word in client.command("the prompt", agent.folder) if "=" in word]
    server = tomllib.loads("\n".join(given))["mcp_servers"]["autoresearch"]
    assert server["args"][-1] == str(tmp_path / "läb 🔬")
