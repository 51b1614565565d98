"""What a coding client's hooks hear of a lab: a wake-up, and to go on where the owner said so, a bounded number of times."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.commands.hook import news
from autoresearch_mcp.server.paths import LabPaths
from tests import plugin
from tests.server.measured import MeasuredLab
from tests.waiting import until

CLI = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "hook"]


def hook(event: str, *arguments: str, cwd: Path, given: str = "{}") -> Any:
    done = subprocess.run([*CLI, event, *arguments], input=given, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def test_a_session_wakes_up_with_what_the_lab_is_about(measured: MeasuredLab) -> None:
    answer = hook("start", cwd=measured.root, given=json.dumps({"cwd": str(measured.root), "source": "startup"}))
    text = answer["hookSpecificOutput"]["additionalContext"]
    assert answer["hookSpecificOutput"]["hookEventName"] == "SessionStart"
    assert "Champion" in text and "val_bpb" in text and "Next: " in text and len(text) <= 2000


def test_a_turn_ends_unless_the_owner_said_otherwise_and_then_goes_on_a_bounded_number_of_times(measured: MeasuredLab) -> None:
    assert hook("stop", cwd=measured.root) == ""
    assert "2 times" in hook("on", "--turns", "2", cwd=measured.root)
    for time in (1, 2):
        answer = hook("stop", cwd=measured.root)
        assert answer["decision"] == "block" and f"{time} of at most 2" in answer["reason"] and "get_status" in answer["reason"]
    ended = hook("stop", cwd=measured.root)
    assert "decision" not in ended and "2 times" in ended["systemMessage"]
    assert hook("stop", cwd=measured.root) == "" and not LabPaths(measured.root).keep_going.exists()


def test_it_ends_where_nothing_more_can_be_trained_or_the_owner_paused_the_lab(measured: MeasuredLab) -> None:
    hook("on", cwd=measured.root)
    measured.lab.pause()
    assert "paused" in hook("stop", cwd=measured.root)["systemMessage"]
    measured.lab.resume()
    toml = measured.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("device_hours = 8.0", "device_hours = 0.0001"), encoding="utf-8")
    hook("on", cwd=measured.root)
    assert "budget" in hook("stop", cwd=measured.root)["systemMessage"]
    hook("on", cwd=measured.root)
    hook("off", cwd=measured.root)
    assert hook("stop", cwd=measured.root) == ""


def test_a_monitor_tells_each_thing_that_happens_once_whomever_it_concerns(measured: MeasuredLab) -> None:
    lab, told = measured.lab, list[str]()
    champion, better = lab.status().champion.commit, measured.propose("DEPTH = 2", "DEPTH = 3")
    lab.unheard("bob")
    acts = iter(
        [
            lambda: (
                measured.measure(champion, [1.50, 1.501, 1.499, 1.5005, 1.4995, 1.502, 1.498, 1.5001])
                and measured.measure(better, [1.30, 1.301, 1.299, 1.29])
            ),
            lambda: lab.promote_commit(better, "cleo"),
            lab.pause,
            lambda: lab.write_memory("idea", "Rotary\x1b[31m positions\nnext", "dan"),
        ]
    )

    def is_wanted() -> bool:
        if (act := next(acts, None)) is not None:
            act()
            return True
        return False

    told += news(measured.root, is_wanted, look_s=0, pause_s=0)
    for each in ("Trainings of ada ended: 4 finished; the best 1.2900.", "The champion moved from", "The lab's owner paused it."):
        assert sum(each in line for line in told) == 1, told
    assert any("dan wrote the idea" in line and "positions next" in line for line in told)
    assert not any(ord(character) < 32 for line in told for character in line)
    assert "The champion moved from" in lab.unheard("bob")[0], "what a monitor tells counts as heard by nobody"


def test_a_monitors_lines_come_through_its_pipe_as_they_are_told(measured: MeasuredLab) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([*CLI, "news", str(measured.root)], stdout=subprocess.PIPE, text=True, env=environment) as monitor:
        assert monitor.stdout is not None

        def is_heard() -> bool:
            measured.lab.write_memory("idea", "Rotary positions.", "dan")
            return bool(select.select([monitor.stdout], [], [], 0.5)[0])

        try:
            until(is_heard)
            assert "dan wrote the idea" in monitor.stdout.readline()
        finally:
            monitor.kill()


@pytest.mark.parametrize("given", ["", "{", "[]", '{"cwd": 5}', '{"cwd": "/no/such/folder"}'])
def test_a_hook_outside_of_a_lab_or_with_nonsense_is_silent(tmp_path: Path, given: str) -> None:
    assert (
        hook("start", cwd=tmp_path, given=given) == hook("stop", cwd=tmp_path, given=given) == hook("news", cwd=tmp_path, given=given) == ""
    )


def test_the_plugin_is_what_the_contracts_and_tools_make_it() -> None:
    for name, text in plugin.files().items():
        assert (plugin.ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run `make reference`"


def test_the_plugins_server_finds_the_lab_that_a_session_is_in(make_lab: Callable[..., Path]) -> None:
    server = json.loads(plugin.files()["plugin/.mcp.json"])["mcpServers"][plugin.SERVER]
    assert server["args"] == ["serve"]
    root = make_lab()
    (root / "deeper").mkdir()
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
    hello["params"] = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}  # type: ignore[assignment]
    done = subprocess.run(
        [*CLI[:-1], *server["args"]],
        input=json.dumps(hello) + "\n",
        capture_output=True,
        text=True,
        cwd=root / "deeper",
        timeout=60,
        check=False,
    )
    assert json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "autoresearch", done.stderr
