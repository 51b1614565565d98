"""A client's configuration gets one entry more or less, and not one byte of the rest changes."""

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoresearch_mcp.server.cli import main
from autoresearch_mcp.server.clients import CLIENTS, JsonText
from autoresearch_mcp.server.clients.entries import url, words
from autoresearch_mcp.server.clients.toml_text import TomlText
from autoresearch_mcp.server.clients.yaml_text import YamlText
from autoresearch_mcp.server.commands.install import Install
from autoresearch_mcp.server.commands.uninstall import uninstall
from autoresearch_mcp.server.errors import LabError

ODD = '{\n\t"theme" : "d\\u00e4rk",\t"n": 1.00,\n\t"mcpServers" :\n\t{ "other": {"command": "x", "env": {"TOKEN": "}\\"{"} } },\n\t"last": [ 1,2 ]\n}'
COMMENTED = """// settings
{
  "theme": "dark", // ends "here", {
  "mcpServers": {
    /* two
       lines */
    "other": { "command": "x" }, // the last one
  },
}
"""
TOML = """model = "o9"  # mine

[mcp_servers.other]
command = "x"
args = [
  "[not.a.table]",
]

# about notices
[notice]
text = '''
[mcp_servers.x]
'''
"""
YAML = """# goose
GOOSE_MODE: auto
extensions:
  other:
    cmd: x
    args:
      - -y
      - '#1'
  # the last one
  "third one": {cmd: z, args: []}

slash_commands:
- a: b
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return a_lab(tmp_path / "lab")


def a_lab(root: Path) -> Path:
    root.mkdir()
    (root / "lab.toml").write_text("", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "CODEX_HOME", "COPILOT_HOME", "CLAUDE_CONFIG_DIR", "CLINE_MCP_SETTINGS_PATH", "AUTORESEARCH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def parsed(path: Path) -> Any:
    text = path.read_text("utf-8")
    return {".toml": tomllib.loads, ".yaml": yaml.safe_load}.get(path.suffix, json.loads)(text)


@pytest.mark.parametrize("scope", ["project", "user"])
@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_gets_its_own_form_in_its_own_place_and_gives_it_back(client: str, scope: Any, lab: Path, home: Path) -> None:
    kind = CLIENTS[client]
    if not (kind.project if scope == "project" else kind.user):
        with pytest.raises(LabError, match="--scope"):
            Install(client, lab, scope=scope)
        return
    path = kind.config(lab, scope)
    assert path.is_relative_to(lab if scope == "project" else home)
    says = Install(client, lab, scope=scope).apply()
    assert str(path) in says and kind.check in says
    entry = parsed(path)[kind.section]["autoresearch"]
    line = words(entry)
    assert Path(line[0]).is_absolute() and line[-2:] == ["serve", str(lab)]
    assert "nothing to do" in Install(client, lab, scope=scope).apply()
    assert "Removed" in uninstall(client, lab, scope=scope)
    assert not (parsed(path) or {}).get(kind.section)
    assert "nothing to do" in uninstall(client, lab, scope=scope)


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_gets_a_running_servers_address_and_the_token_only_where_no_one_else_reads_it(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, project = CLIENTS[client], tmp_path / "project"
    address = "https://lab.example/mcp"

    def install(scope: Any) -> Install:
        return Install(client, project, scope=scope, url=address, token=True)

    if kind.http is None:
        with pytest.raises(LabError, match="Leave out --url"):
            install(None)
        return
    for scope in [scope for scope in ("project", "user") if getattr(kind, scope)]:
        monkeypatch.delenv("AUTORESEARCH_TOKEN", raising=False)
        if kind.token:
            monkeypatch.setenv("AUTORESEARCH_TOKEN", "s3cret")
            install(scope).apply()
        elif scope == "project":
            with pytest.raises(LabError, match="no place for a token"):
                install(scope)
            continue
        else:
            with pytest.raises(LabError, match=r"Set \$AUTORESEARCH_TOKEN"):
                install(scope)
            monkeypatch.setenv("AUTORESEARCH_TOKEN", "s3cret")
            install(scope).apply()
        path = kind.config(project, scope)
        entry = parsed(path)[kind.section]["autoresearch"]
        assert url(entry) == address
        assert "AUTORESEARCH_TOKEN" in str(entry) or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert ("s3cret" in path.read_text("utf-8")) == (not kind.token)


def test_a_dry_run_shows_the_entry_and_no_other_servers_secrets_and_writes_nothing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = CLIENTS["cursor"].config(lab)
    says = Install("cursor", lab).apply(dry_run=True)
    assert str(path) in says and '"autoresearch"' in says and not path.parent.exists()
    path.parent.mkdir()
    path.write_text(ODD, encoding="utf-8")
    assert "TOKEN" not in Install("cursor", lab).apply(dry_run=True)
    assert main(["install", "cursor", str(lab), "--print"]) == 0
    assert json.loads(capsys.readouterr().out)["mcpServers"]["autoresearch"]["args"][-1] == str(lab)
    assert "Would remove" not in uninstall("cursor", lab, dry_run=True)
    assert path.read_text("utf-8") == ODD


@pytest.mark.parametrize(
    ("client", "old"),
    [
        ("cursor", ODD),
        ("cursor", ODD.replace("\n", "\r\n")),
        ("cursor", "\ufeff" + ODD),
        ("cursor", '{"mcpServers": {}}'),
        ("cursor", "{}"),
        ("cursor", '{\n    "a": {\n        "b": [{"mcpServers": 1}]\n    }\n}\n'),
        ("cursor", ""),
        ("cursor", "  \n"),
        ("gemini-cli", COMMENTED),
        ("gemini-cli", COMMENTED.replace("\n", "\r\n")),
        ("gemini-cli", '{"mcpServers": {"other": {} /* x */ } } // end'),
        ("gemini-cli", '{"mcpServers": {\n // none yet\n}}'),
        ("gemini-cli", '{"a": "//,]"}'),
        ("codex", TOML),
        ("codex", TOML.replace("\n", "\r\n")),
        ("codex", ""),
        ("codex", "a = 1"),
        ("codex", "[mcp_servers]\n"),
        ("goose", YAML),
        ("goose", YAML.replace("\n", "\r\n")),
        ("goose", ""),
        ("goose", "a: 1"),
        ("goose", "extensions: {}\nb: 2\n"),
        ("goose", "extensions:\nb: 2\n"),
        ("goose", "---\nextensions:\n    one:\n        cmd: x"),
    ],
)
def test_what_was_there_stays_byte_for_byte(lab: Path, tmp_path: Path, client: str, old: str) -> None:
    kind = CLIENTS[client]
    path = tmp_path / "config"
    path.write_bytes(old.encode())
    before = kind.format.servers(old, kind.section)
    Install(client, lab, path).apply()
    new = path.read_bytes().decode()
    after = kind.format.servers(new, kind.section)
    assert after.pop("autoresearch") and after == before
    if isinstance(kind.format, YamlText):
        whole = yaml.safe_load(new)
        assert whole.pop("extensions").pop("autoresearch") and whole == {
            k: v for k, v in (yaml.safe_load(old) or {}).items() if k != "extensions"
        }
    kept = iter(new)
    removed = "{}" if old.startswith("extensions: {}") else ""
    assert all(character in kept for character in old.replace(removed, "")), "something was changed, not added"
    assert new.count("\r\n") == (new.count("\n") if "\r\n" in old else 0)
    uninstall(client, lab, path)
    if before:
        assert path.read_bytes().decode().rstrip() == old.rstrip(), "what was added is gone, and nothing else"
    assert path.with_name("config.bak").read_bytes().decode() == new


@pytest.mark.parametrize(
    ("client", "old"),
    [
        ("claude-desktop", '{ // mine\n "mcpServers": {} }'),
        ("claude-desktop", '{"mcpServers": {},}'),
        ("claude-desktop", '{"mcpServers": '),
        ("claude-desktop", "[]"),
        ("claude-desktop", '{"mcpServers": []}'),
        ("claude-desktop", "null"),
        ("claude-desktop", "[" * 100_000),
        ("claude-desktop", "\udcff"),
        ("zed", "// only a comment {"[3:]),
        ("zed", '{"context_servers": /* no end'),
        ("codex", "a = "),
        ("codex", "mcp_servers = 1"),
        ("codex", 'mcp_servers = { other = { command = "x" } }'),
        ("codex", 'mcp_servers.autoresearch.command = "x"'),
        ("goose", "extensions: {a: {cmd: x}}\n"),
        ("goose", "extensions: *anchor\n"),
        ("goose", "extensions:\n\ta: 1\n"),
        ("goose", "a: 1\n---\nextensions:\n"),
        ("goose", "{extensions: {}}\n"),
        ("goose", "extensions:\n  - a\n"),
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_left_alone_with_the_lines_to_add_by_hand(
    lab: Path, tmp_path: Path, client: str, old: str
) -> None:
    path = tmp_path / "config"
    path.write_bytes(old.encode("utf-8", "surrogateescape"))
    with pytest.raises(LabError) as error:
        Install(client, lab, path).apply()
    assert error.value.code == ("name_taken" if "autoresearch.command" in old else "bad_config")
    assert error.value.code == "name_taken" or (str(lab) in str(error.value) and CLIENTS[client].section in str(error.value))
    assert path.read_bytes() == old.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (JsonText(), '{"s": {"a": {}, "b": {"x": 1}, "c": {}}}'),
        (TomlText(), '[s.a]\nx = 1\n\n[s.b]\ny = "\\u00e4"\n[s.b.env]\nk = "v"\n\n# of c\n[s.c]\nz = 3\n'),
        (YamlText(), "s:\n  a:\n    x: 1\n  b:\n    y: 2\n    # of y\n  # of c\n  c:\n    z: 3\n"),
    ],
)
def test_an_entry_is_replaced_in_its_place_and_its_neighbours_stay(kind: Any, text: str) -> None:
    new = kind.put(text, "s", "b", {"command": 'a "b"\\', "args": ["ä", "#"]})
    before, after = kind.servers(text, "s"), kind.servers(new, "s")
    assert list(after) == ["a", "b", "c"] and after["b"] == {"command": 'a "b"\\', "args": ["ä", "#"]}
    assert {**after, "b": None} == {**before, "b": None}
    for name in "abc":
        left = kind.servers(kind.remove(text, "s", name), "s")
        assert left == {key: value for key, value in before.items() if key != name}
    assert "# of c" not in text or "# of c" in kind.remove(text, "s", "b")


def test_an_entry_of_the_same_lab_is_renewed_and_one_of_another_lab_is_not(lab: Path, tmp_path: Path) -> None:
    path = lab / ".mcp.json"
    old = '{"mcpServers": {"autoresearch": {"command": "old", "args": ["serve", "."]}, "z": {}}}'
    path.write_text(old, encoding="utf-8")
    assert ".mcp.json.bak" in Install("claude-code", lab).apply() and (lab / ".mcp.json.bak").read_text("utf-8") == old
    servers = json.loads(path.read_text("utf-8"))["mcpServers"]
    assert list(servers) == ["autoresearch", "z"] and servers["autoresearch"]["command"] != "old"
    other = a_lab(tmp_path / "other")
    with pytest.raises(LabError) as error:
        Install("claude-code", other, path).apply()
    assert error.value.code == "name_taken"
    Install("claude-code", other, path, name="autoresearch-2").apply()
    assert list(json.loads(path.read_text("utf-8"))["mcpServers"]) == ["autoresearch", "z", "autoresearch-2"]


def test_a_link_and_its_permissions_stay(lab: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "config.json"
    real.write_text("{}", encoding="utf-8")
    real.chmod(0o600)
    link.symlink_to(real)
    Install("cursor", lab, link).apply()
    assert link.is_symlink() and "autoresearch" in real.read_text("utf-8") and stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "dotfiles.json", "lab"]


def test_a_file_that_is_there_is_preferred_to_the_usual_name(lab: Path) -> None:
    (lab / "opencode.jsonc").write_text("{ /* mine */ }", encoding="utf-8")
    Install("opencode", lab).apply()
    assert "autoresearch" in (lab / "opencode.jsonc").read_text("utf-8") and not (lab / "opencode.json").exists()


def test_what_is_no_lab_or_cannot_be_written_is_refused(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError) as error:
        Install("cursor", tmp_path)
    assert error.value.code == "not_a_lab"
    for path in (tmp_path / "lab", tmp_path / "lab" / "lab.toml" / "config.json"):
        with pytest.raises(LabError) as error:
            Install("cursor", lab, path).apply()
        assert error.value.code in ("bad_config", "not_written")
    for options in ({"url": "lab.example"}, {"url": "https://lab.example/mcp", "scope": "user", "token": True}):
        with pytest.raises(LabError):
            Install("lm-studio", lab, **options)  # type: ignore[arg-type]
