"""A client's configuration gets one entry more, and not one byte of the rest changes."""

import json
import stat
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.install import CLIENTS, install
from autoresearch_mcp.server.errors import LabError

ODD = '{\n\t"theme" : "d\\u00e4rk",\t"n": 1.00,\n\t"mcpServers" :\n\t{ "other": {"command": "x", "env": {"TOKEN": "}\\"{"} } },\n\t"last": [ 1,2 ]\n}'


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    root = tmp_path / "lab"
    root.mkdir()
    (root / "lab.toml").write_text("", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_gets_its_own_form_in_its_own_place(client: str, lab: Path) -> None:
    says = install(client, lab)
    path = CLIENTS[client].config(lab)
    config = json.loads(path.read_text("utf-8"))
    server = config["servers" if client == "vscode" else "mcpServers"]["autoresearch"]
    assert (server.get("type") == "stdio") == (client == "vscode")
    assert Path(server["command"]).is_absolute() and server["args"][-2:] == ["serve", str(lab)]
    assert str(path) in says
    assert path.is_relative_to(lab) == (client != "claude-desktop")
    assert "nothing to do" in install(client, lab)


def test_a_dry_run_shows_the_entry_and_no_other_servers_secrets_and_writes_nothing(lab: Path) -> None:
    path = CLIENTS["cursor"].config(lab)
    says = install("cursor", lab, dry_run=True)
    assert str(path) in says and '"autoresearch"' in says and not path.parent.exists()
    path.parent.mkdir()
    path.write_text(ODD, encoding="utf-8")
    assert "TOKEN" not in install("cursor", lab, dry_run=True)
    assert path.read_text("utf-8") == ODD


@pytest.mark.parametrize(
    "old",
    [
        ODD,
        ODD.replace("\n", "\r\n"),
        "\ufeff" + ODD,
        '{"mcpServers": {}}',
        "{}",
        '{\n    "a": {\n        "b": [{"mcpServers": 1}]\n    }\n}\n',
        "",
        "  \n",
    ],
    ids=["odd", "CRLF", "BOM", "no server", "empty object", "four spaces", "empty", "blank"],
)
def test_what_was_there_stays_byte_for_byte(lab: Path, tmp_path: Path, old: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(old.encode())
    install("cursor", lab, path)
    new = path.read_bytes().decode()
    before, after = (json.loads(text.removeprefix("\ufeff").strip() or "{}") for text in (old, new))
    entry = after["mcpServers"].pop("autoresearch")
    assert entry["args"][-1] == str(lab)
    assert after == {**before, "mcpServers": before.get("mcpServers", {})}
    kept = iter(new)
    assert all(character in kept for character in old), "something was changed, not added"
    assert new.count("\r\n") == (new.count("\n") if "\r\n" in old else 0)


@pytest.mark.parametrize(
    "old",
    [
        '{ // mine\n "mcpServers": {} }',
        '{"mcpServers": {},}',
        '{"mcpServers": ',
        "[]",
        '{"mcpServers": []}',
        "null",
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_file_that_is_not_plain_json_is_left_alone_with_the_lines_to_add_by_hand(lab: Path, tmp_path: Path, old: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(old.encode("utf-8", "surrogateescape"))
    with pytest.raises(LabError) as error:
        install("claude-desktop", lab, path)
    assert error.value.code == "bad_config" and '"mcpServers"' in str(error.value) and str(lab) in str(error.value)
    assert path.read_bytes() == old.encode("utf-8", "surrogateescape")


def test_an_entry_of_the_same_lab_is_renewed_and_one_of_another_lab_is_not(lab: Path, tmp_path: Path) -> None:
    path = lab / ".mcp.json"
    path.write_text('{"mcpServers": {"autoresearch": {"command": "old", "args": ["serve", "."]}, "z": {}}}', encoding="utf-8")
    install("claude-code", lab)
    servers = json.loads(path.read_text("utf-8"))["mcpServers"]
    assert list(servers) == ["autoresearch", "z"] and servers["autoresearch"]["command"] != "old"
    other = tmp_path / "other"
    other.mkdir()
    (other / "lab.toml").write_text("", encoding="utf-8")
    with pytest.raises(LabError) as error:
        install("claude-code", other, path)
    assert error.value.code == "name_taken"
    install("claude-code", other, path, name="autoresearch-2")
    assert list(json.loads(path.read_text("utf-8"))["mcpServers"]) == ["autoresearch", "z", "autoresearch-2"]


def test_a_link_and_its_permissions_stay(lab: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "config.json"
    real.write_text("{}", encoding="utf-8")
    real.chmod(0o600)
    link.symlink_to(real)
    install("cursor", lab, link)
    assert link.is_symlink() and "autoresearch" in real.read_text("utf-8") and stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "dotfiles.json", "lab"]


def test_what_is_no_lab_or_cannot_be_written_is_refused(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError) as error:
        install("cursor", tmp_path)
    assert error.value.code == "not_a_lab"
    for path in (tmp_path / "lab", tmp_path / "lab" / "lab.toml" / "config.json"):
        with pytest.raises(LabError) as error:
            install("cursor", lab, path)
        assert error.value.code in ("bad_config", "not_written")
