"""What gets installed, and by which ways: lock and pins, the bundle, the registry's entry, install links, the container, a release."""

import argparse
import base64
import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml

from autoresearch_mcp.server import cli
from tests import published

HERE = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def pins(file: str) -> dict[str, str]:
    return {_canonical(name): version for name, version in PIN.findall((HERE / file).read_text("utf-8"))}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_dependency_of_the_server_to_the_version_that_ci_tests() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {_canonical(re.split(r"[<>=\[ ]", requirement)[0]) for requirement in project["dependencies"]}
    locked, tested = pins("requirements.lock"), pins("constraints.txt")
    assert needed - locked.keys() == set(), "run `make lock`"
    assert {name: (locked[name], tested[name]) for name in locked.keys() & tested.keys() if locked[name] != tested[name]} == {}


def test_every_pin_of_the_lock_has_a_hash() -> None:
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9._-]+==)", (HERE / "requirements.lock").read_text("utf-8"))[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("name", published.files())
def test_what_registries_and_bundles_say_is_current(name: str) -> None:
    assert (HERE / name).read_text("utf-8") == published.files()[name], "run `make reference`"


def test_the_registrys_entry_fits_its_schema_and_the_readme_owns_it() -> None:
    schema = json.loads((HERE / "tests/data/mcp-registry/server.schema.json").read_text("utf-8"))
    entry = published.registry_entry()
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(entry)] == []
    assert f"<!-- mcp-name: {entry['name']} -->" in (HERE / "README.md").read_text("utf-8")


def test_the_readmes_install_links_decode_to_a_configuration_that_starts_the_server() -> None:
    readme = (HERE / "README.md").read_text("utf-8")
    cursor, vscode = published.cursor_link(), published.vscode_link()
    assert f"({cursor})" in readme and f"({vscode})" in readme
    asked = [parse_qs(urlsplit(link).query, strict_parsing=True) for link in (cursor, vscode)]
    assert [query["name"] for query in asked] == [["autoresearch"]] * 2
    servers = [json.loads(base64.b64decode(asked[0]["config"][0])), json.loads(asked[1]["config"][0])]
    assert servers == [published.UVX] * 2
    uvx = argparse.ArgumentParser()
    uvx.add_argument("--from", dest="package")
    given, (script, *arguments) = uvx.parse_known_args(servers[0]["args"])
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    assert given.package == f"{project['name']}[local]" and "local" in project["optional-dependencies"] and script in project["scripts"]
    assert str(cli.build_parser("serve").parse_args(arguments).dir) == "${workspaceFolder}"


def test_a_bundle_holds_the_manifest_and_all_that_uv_needs_to_install_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(published.bundle(tmp_path)) as packed:
        names = set(packed.namelist())
        manifest = json.loads(packed.read("manifest.json"))
    assert manifest["manifest_version"] == "0.4" and manifest["server"]["type"] == "uv"
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "LICENSES/nanochat.txt", manifest["server"]["entry_point"]} <= names
    ours = {
        str(path.relative_to(HERE))
        for folder in ("server", "trainer", "contracts", "client")
        for path in (HERE / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    ours -= {"trainer/gpu_check/checkout/autoresearch_mcp/__init__.py"}  # the package's name for a checkout that isn't installed
    assert ours <= names and not any(name.startswith(("tests/", ".venv/")) for name in names)


def test_a_release_takes_its_version_from_the_tag_and_its_namespace_from_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "ROOT", tmp_path)
    for name in ("server/__init__.py", "README.md", "tests/published.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(HERE / name, tmp_path / name)
    published.release("v1.2.0rc1", "ada")
    assert '__version__ = "1.2.0rc1"' in (tmp_path / "server/__init__.py").read_text("utf-8")
    assert "mcp-name: io.github.ada/autoresearch-mcp" in (tmp_path / "README.md").read_text("utf-8")
    assert 'REGISTRY_NAME = f"io.github.ada/{PACKAGE}"' in (tmp_path / "tests/published.py").read_text("utf-8")
    for tag in ("main", "v1", "v1.2.0; rm"):
        with pytest.raises(SystemExit, match="no version's tag"):
            published.release(tag, "ada")


def test_the_container_runs_as_a_user_checks_itself_and_copies_what_is_there() -> None:
    lines = (HERE / "docker/Dockerfile").read_text("utf-8").splitlines()
    words = {line.split()[0] for line in lines if line and line[0].isalpha()}
    assert {"USER", "VOLUME", "HEALTHCHECK"} <= words and lines.index("USER lab") < lines.index('ENTRYPOINT ["entrypoint.sh"]')
    kept = [line[1:] for line in (HERE / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    assert [name for name in kept if not (HERE / name).exists()] == []
    subprocess.run(["sh", "-n", str(HERE / "docker/entrypoint.sh")], check=True)
    services = yaml.safe_load((HERE / "docker/compose.yaml").read_text("utf-8"))["services"]
    build = services["lab"]["build"]
    assert (HERE / "docker" / build["context"] / build["dockerfile"]).resolve() == HERE / "docker/Dockerfile"
    assert "ports" not in services["lab"] and "443:443" in services["proxy"]["ports"]  # nothing but the proxy is reached from outside
