"""The stdio server as a process, spoken to in raw lines: probing clients, stray prints, and every way to end."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.pipe import ENVELOPE, HELLO, NO_MESSAGES, Pipe, served


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


def call_status(pipe: Pipe, id: int, **params: Any) -> str:
    reply = pipe.ask(id, "tools/call", name="get_status", arguments={}, **params)
    return str(reply["result"]["structuredContent"]["lab"])


def test_a_client_that_probes_and_then_initializes_is_served(runner_lab: FakeRunnerLab) -> None:
    with served(runner_lab.root) as pipe:
        assert "2026-07-28" in pipe.ask(0, "server/discover", _meta=ENVELOPE)["result"]["supportedVersions"]
        assert "supportedVersions" in pipe.ask(1, "server/discover", _meta=ENVELOPE)["result"]
        assert pipe.ask(2, "initialize", **HELLO)["result"]["protocolVersion"] == "2025-11-25"
        pipe.send({"method": "notifications/initialized"})
        assert call_status(pipe, 3) == "small"
        assert pipe.end()[:2] == (0, "")


def test_each_line_that_is_no_message_is_refused_with_the_reason(runner_lab: FakeRunnerLab) -> None:
    with served(runner_lab.root) as pipe:
        pipe.ask(0, "initialize", **HELLO)
        for line, code, id in NO_MESSAGES:
            pipe.send(line)
            error = pipe.next(id)["error"]
            assert error["code"] == code and "pydantic" not in error["message"] and len(error["message"]) < 200, line
        pipe.send(" ")
        assert call_status(pipe, 3) == "small"
        assert pipe.end()[:2] == (0, "")


def test_an_agents_text_reaches_the_owners_terminal_without_escapes(runner_lab: FakeRunnerLab) -> None:
    broken = "\n".join(
        [
            "import sys",
            "from pathlib import Path",
            "from autoresearch_mcp.server.lab.memories import Memories",
            "from autoresearch_mcp.server.mcp.stdio import serve_stdio",
            "def fail(self, query, *given):",
            "    raise RuntimeError(query)",
            "Memories.search_memory = fail",
            "serve_stdio(Path(sys.argv[1]))",
        ]
    )
    with served(runner_lab.root, broken) as pipe:
        pipe.ask(0, "initialize", **HELLO)
        refused = pipe.ask(1, "tools/call", name="query_experiments", arguments={"sql": "EXPLAIN \x1b[31mSELECT 1"})
        assert refused["result"]["isError"]
        failed = pipe.ask(2, "tools/call", name="search_memory", arguments={"query": "red \x1b[31m text\n2026 ERROR forged: all is lost"})
        assert "Internal error" in failed["result"]["content"][0]["text"]
        _, _, errors = pipe.end()
        assert "\x1b" not in errors and "EXPLAIN" not in errors
        assert "RuntimeError: red  text" in errors and not any(line.startswith("2026 ERROR") for line in errors.splitlines())


def test_an_error_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    for lab in make_runner_lab(tmp_path / "lab"):
        subprocess.run(["git", "-C", str(lab.root), "update-ref", "-d", "refs/heads/research"], check=True)
        with served(lab.root) as pipe:
            pipe.ask(0, "initialize", **HELLO)
            text = pipe.ask(1, "tools/call", name="read_file", arguments={})["result"]["content"][0]["text"]
        assert "The branch research of <lab> is missing" in text


def test_probes_pipelined_with_the_handshake_decide_nothing_even_malformed(runner_lab: FakeRunnerLab) -> None:
    with served(runner_lab.root) as pipe:
        pipe.send({"id": 0, "method": "server/discover"})
        pipe.send({"id": 1, "method": "server/discover", "params": {"_meta": ENVELOPE}})
        pipe.send({"id": 2, "method": "initialize", "params": HELLO})
        assert "error" in pipe.next(0) and "supportedVersions" in pipe.next(1)["result"]
        assert pipe.next(2)["result"]["serverInfo"]["name"] == "autoresearch"


def test_a_client_that_probes_and_stays_modern_is_served(runner_lab: FakeRunnerLab) -> None:
    with served(runner_lab.root) as pipe:
        pipe.ask(0, "server/discover", _meta=ENVELOPE)
        assert call_status(pipe, 1, _meta=ENVELOPE) == "small"
        assert pipe.ask(2, "initialize", **HELLO)["error"]["code"] == -32022
        assert pipe.ask(3, "server/discover", _meta=ENVELOPE)["result"]["instructions"]


def test_stray_prints_never_reach_the_wire(runner_lab: FakeRunnerLab) -> None:
    noisy = "\n".join(
        [
            "import os, subprocess, sys",
            "from pathlib import Path",
            "from autoresearch_mcp.server.mcp import stdio",
            "build = stdio.build_server",
            "def noisy(*given, **more):",
            "    print('python'); os.write(1, b'descriptor\\n'); subprocess.run(['echo', 'child'])",
            "    assert sys.stdin.read() == ''",
            "    return build(*given, **more)",
            "stdio.build_server = noisy",
            "stdio.serve_stdio(Path(sys.argv[1]))",
        ]
    )
    with served(runner_lab.root, noisy) as pipe:
        assert "result" in pipe.ask(1, "initialize", **HELLO)
        code, rest, errors = pipe.end()
    assert (code, rest) == (0, "")
    assert all(word in errors for word in ("python", "descriptor", "child"))


@pytest.mark.parametrize(("escape", "kept"), [(r"\ud83d\ude00", "\U0001f600"), (r"\ud83d", "?"), (r"\\ud83d", r"\ud83d")])
def test_half_a_character_is_lost_and_not_the_call(runner_lab: FakeRunnerLab, escape: str, kept: str) -> None:
    arguments = '{"kind": "finding", "tags": ["cut"], "text": "Cut short: ' + escape + '"}'
    with served(runner_lab.root) as pipe:
        pipe.ask(1, "initialize", **HELLO)
        pipe.send({"method": "notifications/initialized"})
        pipe.send('{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "write_memory", "arguments": ' + arguments + "}}")
        written = pipe.next(2)["result"]["structuredContent"]["id"]
        hits = pipe.ask(3, "tools/call", name="search_memory", arguments={"tag": "cut", "limit": 1})["result"]["structuredContent"]
    assert [(memory["id"], memory["text"]) for memory in hits["memories"]] == [(written, f"Cut short: {kept}")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quickly_and_quietly_in_the_middle_of_a_wait(runner_lab: FakeRunnerLab, number: signal.Signals) -> None:
    with served(runner_lab.root) as pipe:
        pipe.ask(1, "initialize", **HELLO)
        pipe.send({"method": "notifications/initialized"})
        launched = pipe.ask(2, "tools/call", name="launch_training", arguments={"commit": "champion"})["result"]
        ids = launched["structuredContent"]["experiments"]
        pipe.send({"id": 3, "method": "tools/call", "params": {"name": "wait_for_experiments", "arguments": {"ids": ids, "timeout_s": 45}}})
        assert call_status(pipe, 4) == "small"
        os.kill(pipe.process.pid, number)
        assert pipe.process.wait(timeout=15) == 0
        assert pipe.end()[2] == ""


def test_the_end_of_input_ends_a_wait(runner_lab: FakeRunnerLab) -> None:
    with served(runner_lab.root) as pipe:
        pipe.ask(1, "initialize", **HELLO)
        pipe.send({"method": "notifications/initialized"})
        launched = pipe.ask(2, "tools/call", name="launch_training", arguments={"commit": "champion"})["result"]
        arguments = {"ids": launched["structuredContent"]["experiments"], "timeout_s": 45}
        pipe.send({"id": 3, "method": "tools/call", "params": {"name": "wait_for_experiments", "arguments": arguments}})
        code, _, errors = pipe.end()
    assert (code, errors) == (0, "")


def test_a_directory_without_a_lab_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with served(tmp_path) as pipe:
        code, rest, errors = pipe.end()
    assert (code, rest) == (2, "")
    assert errors.startswith("autoresearch-mcp: ") and "init" in errors and "Traceback" not in errors
