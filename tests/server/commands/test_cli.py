"""The command line explains itself, answers faults with a sentence and a status, and loads nothing that it does not need."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from autoresearch_mcp.server import __version__, cli
from autoresearch_mcp.server.answers import Budget, ExperimentLine, Leader, StatusAnswer, Summary
from autoresearch_mcp.server.commands.screen import frame


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ((), *((name,) for name in cli.COMMANDS)):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(f"\n    {name}" in text for name in cli.COMMANDS) or command
        assert f"autoresearch-mcp {' '.join(command)}".strip() in text.partition("\nexample")[2]


def test_nothing_heavy_is_loaded_before_the_command_is_known() -> None:
    heavy = ("pydantic", "mcp", "git", "rich", "numpy", "sqlite3", "asyncio")
    code = "import sys; from autoresearch_mcp.server import cli; cli.build_parser(*sys.argv[1:])\n"
    code += f"print([m for m in {heavy} if m in sys.modules], [m for m in sys.modules if '.commands.' in m])"

    def loaded(*commands: str) -> str:
        quiet = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # whose own start loads sqlite3
        return subprocess.run([sys.executable, "-c", code, *commands], check=True, capture_output=True, text=True, env=quiet).stdout

    assert loaded() == "[] []\n"
    ours = [f"autoresearch_mcp.server.commands.{name}" for name in ("arguments", "serve")]
    assert loaded("serve") == f"[] {ours}\n"


def test_a_server_starts_without_what_only_some_labs_and_pages_need() -> None:
    unneeded = (
        "jwt",
        "opentelemetry.sdk",
        "jinja2",
        "pygments",
        "numpy",
        "scipy",
        "optuna",
        "matplotlib",
        "tenacity",
        "modal",
        "deeplake",
        "torch",
    )
    code = "import sys; from autoresearch_mcp.server.mcp import http, stdio; from autoresearch_mcp.server.page import door\n"
    code += f"print([m for m in {unneeded} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"autoresearch-mcp {__version__}\n"


def test_init_status_and_install_from_a_folder_inside_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "my lab"
    assert cli.main(["init", str(lab), "--budget", "5"]) == 0
    assert "train.py" in capsys.readouterr().out
    assert cli.main(["init", str(lab)]) == 2
    assert capsys.readouterr().err == f"autoresearch-mcp: {lab} is a lab already. Nothing was changed.\n"
    monkeypatch.chdir(lab / "trainer")
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lab"] == "my lab"
    assert cli.main(["status"]) == cli.main(["watch", "--once"]) == cli.main(["watch"]) == 0
    assert capsys.readouterr().out.count("not measured yet") == 3
    assert cli.main(["install", "vscode", "--dry-run"]) == 0
    assert str(lab) in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTORESEARCH_LAB", str(lab))
    assert cli.main(["status"]) == 0


def test_faults_are_one_sentence_and_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["status"], ["serve"], ["status", "nowhere"], ["approve", "abcdef0"], ["install", "cursor", "nowhere"]):
        try:
            status: object = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert (status, out) == (2, "") and err.startswith("autoresearch-mcp: ") and err.count("\n") == 1, (arguments, err)
    for arguments in (["status", "--nonsense"], ["install", "emacs"], []):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2


def test_an_unknown_commit_cannot_be_approved(lab_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["approve", "abcdef0", str(lab_root)]) == 2
    assert "abcdef0" in capsys.readouterr().err


def test_a_client_that_starts_its_server_elsewhere_is_told_which_file_to_mend(lab_root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tmp_path / "elsewhere"
    serve = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve"]
    starts = (
        (lab_root, ".", 0),
        (lab_root / "trainer", ".", 0),
        (lab_root.parent, lab_root.name, 0),
        (elsewhere, ".", 2),
        (elsewhere, "my-lab", 2),
    )
    for folder, given, status in starts:
        done = subprocess.run([*serve, given], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        if status:
            assert (
                f"`serve {given}` was started in {elsewhere}" in done.stderr and ".mcp.json" in done.stderr and done.stderr.count("\n") == 1
            )


def test_a_client_that_starts_serve_dot_elsewhere_gets_the_lab_that_the_environment_names(lab_root: Path, tmp_path: Path) -> None:
    serve = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", "."]
    for named, status in ((lab_root, 0), (tmp_path / "nowhere", 2)):
        environment = os.environ | {"AUTORESEARCH_LAB": str(named)}
        done = subprocess.run(serve, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert str(tmp_path / "nowhere") in done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pydantic'] = None; from autoresearch_mcp.server.cli import main; sys.exit(main(['init', sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lab")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "autoresearch-mcp: the package pydantic is missing. Install it: pip install pydantic\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error(lab_root: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch_mcp.server.cli", "status", "--json", str(lab_root)], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_ends_a_command_with_130_and_no_traceback() -> None:
    code = "import os, signal, sys; from autoresearch_mcp.server import cli; from autoresearch_mcp.server.commands import status\n"
    code += "status.run = lambda a: os.kill(os.getpid(), signal.SIGINT); sys.exit(cli.main(['status']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")


def test_watch_shows_the_lab_on_a_terminal_until_ctrl_c(lab_root: Path) -> None:
    parent, child = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "autoresearch_mcp.server.cli", "watch", str(lab_root)],
        stdout=child,
        stderr=child,
        stdin=child,
        env=environment,
    )
    os.close(child)
    shown = b""
    while b"champion" not in shown:
        shown += os.read(parent, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    while chunk := _read(parent):
        shown += chunk
    assert b"Traceback" not in shown and b"\x1b[?1049l" in shown  # the user's screen is back


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's end of file for a terminal
        return b""


@pytest.fixture
def shown() -> Callable[[StatusAnswer], str]:
    def show(status: StatusAnswer) -> str:
        console = Console(file=StringIO(), width=140, force_terminal=False)
        console.print(frame(status))
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    return show


def test_the_frame_shows_what_happens_and_takes_nothing_that_agents_wrote_for_markup(shown: Callable[[StatusAnswer], str]) -> None:
    line = ExperimentLine(
        id="e-1",
        commit="a" * 40,
        state="running",
        seed=1,
        device="cpu",
        author="[red]eve[/nope]",
        hypothesis="\x1b[2J\x07[bold]wider",
        progress=0.5,
    )
    ended = line.model_copy(update={"id": "e-2", "state": "crashed", "failure": "nan: loss is nan"})
    champion = Summary(commit="a" * 40, n=3, mean=1.2345, sd=0.01)
    text = shown(
        StatusAnswer(
            lab="bpb",
            metric="val acc, verified; higher is better",
            champion=champion,
            noise_sd=0.005,
            counts={"running": 1, "crashed": 1},
            running=[line],
            queued=[],
            recent=[ended],
            leaderboard=[Leader(**champion.model_dump(), mark="champion")],
            budget=Budget(total_s=7200, spent_s=60, reserved_s=0, left_s=7140),
            promotions=2,
            unflushed=3,
            runner=True,
            warnings=["[link]look out"],
            next=["launch"],
        )
    )
    for part in (
        "1.2345 ± 0.0100 (n=3)",
        "noise 0.0050",
        "val acc",
        "[red]eve[/nope]",
        "[bold]wider",
        "nan: loss is nan",
        "60 s of 2.00 h",
        "2 promotions",
        "[link]look out",
    ):
        assert part in text
    assert "\x1b" not in text and "\x07" not in text
