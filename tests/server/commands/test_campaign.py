"""A campaign of headless clients, by a scripted stand-in: started again after ends, failures, limits and kills; stopped at the end."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.commands.client_limits import LONGEST_S, USUAL_S, wait_s
from autoresearch_mcp.server.commands.headless import Agent, Headless
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
        until(lambda: len(self.pids(agent)) >= times, 30)
        return self.pids(agent)

    def end(self) -> str:
        return self.process.communicate(timeout=30)[0]

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


def test_agents_have_their_roles_and_start_again_after_a_limit_and_a_kill_until_the_owner_pauses(
    start: Start, measured: MeasuredLab
) -> None:
    campaign = start("fail You've hit your usage limit, try again in 1 second.\nwait\ntools", "--workers", "1")
    for agent in ("orchestrator", "worker-1"):
        os.kill(campaign.started(2, agent)[1], signal.SIGKILL)
    offered = {}
    for agent in ("orchestrator", "worker-1"):
        campaign.started(3, agent)
        listed = campaign.out / agent / "tools"
        until(lambda listed=listed: listed.exists() and listed.read_text() != "", 30)
        offered[agent] = set(listed.read_text().split())
    assert offered["orchestrator"] == set(TOOLS) and "promote_commit" not in offered["worker-1"] and "propose_patch" in offered["worker-1"]
    measured.lab.pause()
    words = campaign.end()
    assert campaign.process.returncode == 0 and "paused" in words and "worker-1 is at its account's limit" in words
    assert [pid for agent in ("orchestrator", "worker-1") for pid in campaign.pids(agent) if alive(pid)] == []
    text = campaign.transcripts("worker-1")
    assert text.startswith("worker-1 worker no token\n") and "Champion" in text and "Direction of the campaign" in text
    assert len(list((campaign.out / "worker-1").glob("transcript-*.txt"))) == 3


def test_a_goal_that_is_reached_starts_nobody(start: Start, measured: MeasuredLab) -> None:
    measured.measure(measured.lab.status().champion.commit, [1.5, 1.6])
    campaign = start("wait", "--goal", "100", "--workers", "0")
    assert "has reached 100" in campaign.end() and campaign.pids() == []


def test_an_agent_that_fails_too_often_is_given_up_with_its_last_words(start: Start) -> None:
    campaign = start("fail Invalid API key", "--workers", "0", "--failures", "2")
    assert "given up" in (words := campaign.end()) and "Invalid API key" in words and campaign.process.returncode == 1


def test_no_agent_outlives_a_killed_campaign_for_longer_than_the_next_ones_start(start: Start) -> None:
    first = start("stay\nwait", "--workers", "0")
    (stubborn,) = first.started(1)
    second = start("stay\nwait", "--workers", "0")
    assert "runs in" in second.end() and second.process.returncode == 2 and alive(stubborn)
    first.process.kill()
    first.end()
    third = start("stay\nwait", "--workers", "0", "--for", "2s")
    third.started(2)
    assert not alive(stubborn)
    assert "its time is up" in third.end() and not alive(third.pids()[1])


def test_over_http_each_agent_gets_a_token_of_its_role_which_ends_with_the_campaign(start: Start, measured: MeasuredLab) -> None:
    campaign = start("wait", "--workers", "1", "--url", "https://lab.example/mcp")
    for agent in ("orchestrator", "worker-1"):
        campaign.started(1, agent)
    ledger = Ledger(LabPaths(measured.root).ledger)
    until(lambda: "\n" in campaign.transcripts("worker-1"), 10)
    secret = campaign.transcripts("worker-1").split()[2]
    holders = {token.name: token.role for token in ledger.tokens().values() if token.valid}
    assert holders == {"orchestrator": Role.ORCHESTRATOR, "worker-1": Role.WORKER} and secret not in campaign.transcripts()
    config = (campaign.out / "worker-1" / ".mcp.json").read_text()
    assert "https://lab.example/mcp" in config and "${AUTORESEARCH_TOKEN}" in config and secret not in config
    campaign.process.send_signal(signal.SIGTERM)
    assert "it was stopped" in campaign.end()
    assert [token for token in ledger.tokens().values() if token.valid] == []
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
    ],
)
def test_a_clients_words_say_when_its_limit_ends(words: str, seconds: float | None) -> None:
    assert wait_s(words, NOW) == seconds


@pytest.mark.parametrize(
    ("command", "file", "word"),
    [
        ("claude -p", ".mcp.json", "--mcp-config"),
        ("/opt/bin/codex exec", ".codex/config.toml", "mcp_servers.autoresearch.args="),
        ("gemini -p", ".gemini/settings.json", "the prompt"),
        ("opencode run {prompt} --model x", "opencode.json", "the prompt"),
    ],
)
def test_each_client_is_told_of_the_server_in_its_own_way(command: str, file: str, word: str, tmp_path: Path) -> None:
    client, agent = Headless.parse(command), Agent("ada", Role.WORKER, tmp_path / "ada")
    client.configure(agent, tmp_path / "lab", "")
    text = (agent.folder / file).read_text()
    assert all(json.dumps(part) in text for part in ("--as", "ada", "--role", "worker", str(tmp_path / "lab")))
    line = client.command("the prompt", agent.folder)
    assert any(part.startswith(word) for part in line) and line.count("the prompt") == 1 and "{prompt}" not in line
