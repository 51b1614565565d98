"""The doctor finds what is wrong, says what to do, and no secret."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import cli, secret
from autoresearch_mcp.server.clients import CLIENTS
from autoresearch_mcp.server.clients.table import Scope
from autoresearch_mcp.server.commands.client_check import examine as examine_clients
from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.commands.install import Install
from autoresearch_mcp.server.lab.findings import Finding
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.lake.records import memory
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn, Faults
from tests.standins.embeddings import KEY as EMBEDDINGS_KEY
from tests.standins.embeddings import EmbeddingsStandIn


def grades(root: Path) -> dict[str, str]:
    return {finding.name: finding.grade for finding in examine(root)}


@pytest.fixture(autouse=True)
def no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the clients' side to its own test: each look at it starts a server."""
    monkeypatch.setattr(
        "autoresearch_mcp.server.commands.client_check.examine", lambda root: [Finding("client", "note", "none was looked at")]
    )


def test_a_sound_lab_has_no_fault(lab_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "bad" not in grades(lab_root).values()
    assert cli.main(["doctor", str(lab_root)]) == 0
    report = capsys.readouterr().out
    assert "Landlock" in report or "not confined" in report
    assert all(word in report for word in ("git", "trainer", "data", "ledger", "log", "shared log", "search", "none was looked at"))


def test_settings_that_cannot_be_read_end_the_examination(make_lab: Callable[..., Path], tmp_path: Path) -> None:
    root = make_lab(toml={"slots = 0": "slots = -1"})
    assert grades(root) == {"settings": "bad"}
    assert grades(tmp_path / "nowhere") == {"settings": "bad"}


def test_a_damaged_log_is_found_and_repaired(lab_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab_root / ".autoresearch" / "lake"
    Lab(lab_root).close()
    EmbeddedLake(folder).append("memories", [memory(1, "note"), memory(2, "another")])
    (folder / "memories.json").write_text("", encoding="utf-8")
    assert grades(lab_root)["log"] == "bad"
    assert cli.main(["doctor", str(lab_root)]) == 1
    assert "autoresearch-mcp repair" in capsys.readouterr().out
    assert cli.main(["repair", str(lab_root)]) == 0
    assert "memories: 2 records, rebuilt" in capsys.readouterr().out
    assert grades(lab_root)["log"] == "ok"


def test_an_embedding_endpoint_is_asked(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    service = EmbeddingsStandIn()
    section = f'[embeddings]\nbackend = "endpoint"\nurl = "{service.url}"\nmodel = "topics"'
    root = make_lab(toml={'[embeddings]\nbackend = "auto"': section})
    try:
        for key, grade, says in ((EMBEDDINGS_KEY, "ok", "topics, 4 dimensions"), ("wrong", "bad", "401")):
            monkeypatch.setenv("AUTORESEARCH_EMBEDDINGS_KEY", key)
            search = {finding.name: finding for finding in examine(root)}["search"]
            assert search.grade == grade and says in search.text and key not in search.text
    finally:
        service.close()
    (root / "lab.toml").write_text((root / "lab.toml").read_text(encoding="utf-8").replace(section, '[embeddings]\nbackend = "none"'))
    assert grades(root)["search"] == "ok"


@pytest.fixture
def deeplake(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeeplakeStandIn]:
    standin = DeeplakeStandIn(postgres_dsn)
    for name, value in {"API_KEY": TOKEN, "ORG_ID": ORG, "WORKSPACE": "doctors", "API_URL": standin.url}.items():
        monkeypatch.setenv(f"DEEPLAKE_{name}", value)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.service.ATTEMPT_S", 1.0)
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.WRITE_S", 1.0)
    yield standin
    standin.close()


def test_the_service_is_asked_for_token_tables_and_latency(
    lab_root: Path, deeplake: DeeplakeStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    secret.write(StatePaths(lab_root / ".autoresearch").secret, bytes(32))
    found = {finding.name: finding for finding in examine(lab_root)}
    shared, held_out = found["shared log"], found["held-out text"]
    assert secret.fingerprint(StatePaths(lab_root / ".autoresearch").secret) in held_out.text and "secret show" in held_out.hint
    assert shared.grade == "ok" and "workspace doctors" in shared.text and "ms a query" in shared.text and "no table of" in shared.text
    for faults, says in (
        (Faults(tokens={"other"}), "DEEPLAKE_API_KEY is wrong"),
        (Faults(statuses=(402,), chance=1.0), "out of credits"),
        (Faults(statuses=(503,), chance=1.0), "out of order"),
        (Faults(down=True), "can't be reached"),
    ):
        deeplake.faults = faults
        assert cli.main(["doctor", str(lab_root)]) == 1
        assert says in capsys.readouterr().out
    deeplake.faults = Faults()
    deeplake.execute("doctors", 'CREATE TABLE "lab_v5_memories" (id text, version bigint) USING deeplake')
    assert cli.main(["doctor", str(lab_root)]) == 1
    output = capsys.readouterr()
    assert "lab_v5_memories is not as this version made it" in output.out
    assert TOKEN not in output.out + output.err


def test_the_tools_say_how_far_the_shared_log_is_behind(lab_root: Path, deeplake: DeeplakeStandIn) -> None:
    deeplake.faults = Faults(statuses=(503,), chance=1.0)
    with runner_lock(LabPaths(lab_root).state) as alone, contextlib.closing(Lab(lab_root)) as lab:
        assert alone  # no runner is started, to wait for the service
        id = lab.write_memory("finding", "muon wants a higher learning rate", "ada").id
        hits = lab.search_memory("muon")
        status = lab.status()
    assert [hit.id for hit in hits.memories] == [id] and "was not reached" in hits.note
    assert status.unflushed == 1 and any("was not reached" in text for text in status.warnings)
    assert TOKEN not in json.dumps(status.model_dump(mode="json")) + hits.note


@pytest.mark.parametrize(("setting", "grade"), [("refuse", "bad"), ("allow", "note")])
def test_a_machine_without_a_sandbox_is_a_fault_unless_the_lab_lets_its_results_count(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, setting: str, grade: str
) -> None:
    root = make_lab("loose", {'unsandboxed = "refuse"': f'unsandboxed = "{setting}"'})
    monkeypatch.setattr("autoresearch_mcp.trainer.sandbox.level", lambda: "unsandboxed")
    (sandbox,) = [finding for finding in examine(root) if finding.name == "sandbox"]
    assert sandbox.grade == grade and "[promotion] unsandboxed" in sandbox.hint


OLDER = """#!{python}
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = {{"serverInfo": {{"name": "autoresearch", "version": "0.0.9"}}, "tools": []}}
        print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


def test_the_side_of_every_client_is_started_and_its_faults_are_named(
    lab_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "CLINE_MCP_SETTINGS_PATH", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (lab_root / ".mcp.json").unlink(missing_ok=True)
    assert [(each.grade, "no client" in each.text) for each in examine_clients(lab_root)] == [("note", True)]
    (tmp_path / "older").write_text(OLDER.format(python=sys.executable))
    (tmp_path / "older").chmod(0o755)
    broken = {"cursor": "/no/such/autoresearch-mcp", "lm-studio": "true", "windsurf": str(tmp_path / "older")}
    for name, client in CLIENTS.items():
        scope: Scope = "user" if client.user else "project"
        if name not in broken:
            Install(name, lab_root, scope=scope).apply()
            continue
        path = client.config(lab_root, scope)
        path.parent.mkdir(parents=True)
        lab = {"command": broken[name], "args": ["serve", str(lab_root)]}
        path.write_text(json.dumps({"mcpServers": {"lab": lab, "other": {"command": "x", "args": ["/elsewhere"]}}}))
    found = examine_clients(lab_root)
    findings = {each.text.split()[0]: each for each in found}
    assert len(found) == len(findings) and set(findings) == set(CLIENTS)
    assert {name: findings.pop(name).grade for name in broken} == {"cursor": "bad", "lm-studio": "bad", "windsurf": "note"}
    assert all(each.grade == "ok" and f"lists {len(TOOLS)} tools" in each.text for each in findings.values())
    texts = " ".join(each.text for each in found)
    assert all(words in texts for words in ("no command /no/such", "`true serve", "doesn't answer", "starts version 0.0.9"))
