"""Runs the parts one after another, each bounded in time and able to fail alone, and keeps what they showed."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from autoresearch_mcp.trainer import device, prepare
from autoresearch_mcp.trainer import machine as machine_facts
from autoresearch_mcp.trainer.gpu_check import isolation, machine, parts, picture, profiles, report, swarm, text
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.gpu_check.parts import Check
from autoresearch_mcp.trainer.gpu_check.report import Part, Report
from autoresearch_mcp.trainer.gpu_check.runs import Launches

PICTURE = "gpu-check.svg"
# No part begins after so many seconds, by whether it is a quick check; on a CPU, whose speed nobody knows, never
LIMITS_S = {("cuda", False): 480.0, ("cuda", True): 180.0}
PART_S = {"cuda": 180.0, "cpu": 300.0}  # a run of a part that goes on longer is cancelled, and the part fails
LAB = 6
PARTS: dict[int, tuple[str, Callable[[Check, Part], None]]] = {
    1: ("training", parts.training),
    2: ("second start", parts.second_start),
    3: ("attention", parts.attention),
    4: ("scoring", parts.scoring),
    5: ("isolation", isolation.isolation),
    LAB: ("a lab over MCP", swarm.lab),
}
GOOD, BAD, UNABLE, INTERRUPTED = 0, 1, 2, 130  # exit statuses


def check(kind: str, quick: bool, wanted: list[int], work: Path, fresh: bool) -> int:
    """Run a check.

    Args:
        kind: a torch device type.
        quick: whether to do less.
        wanted: numbers of the parts.
        work: a folder for data and runs; the report goes into it too.
        fresh: whether to begin anew where an interrupted check left something.

    Returns:
        The exit status: 0 if every verdict is good, 1 if one isn't, 2 if nothing could be measured, 130 after Ctrl-C.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        setup = _look(kind, quick, work)
    except (CheckError, OSError) as error:
        report.show([f"gpu-check: {error}"])
        return UNABLE
    found = Report(work / report.FILE, setup)
    kept = [] if fresh else found.take_up()
    report.show(_heading(found.setup))
    if kept:
        report.show([f"An interrupted check left parts {', '.join(map(str, kept))}: they are kept (--fresh begins anew).", ""])
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _measure(found, kind, quick, [number for number in wanted if number not in kept], work)
    except KeyboardInterrupt:
        report.show(["", "Interrupted. Nothing is left running; the same command goes on with the parts that are missing."])
        return INTERRUPTED
    except (CheckError, prepare.PreparationError) as error:
        report.show([f"gpu-check: {error}"])
        return UNABLE
    except OSError as error:
        report.show(
            [f"gpu-check: {work} can't be written: {error.strerror or error}. Is the disk full? The same command goes on from there."]
        )
        return UNABLE
    finally:
        signal.signal(signal.SIGTERM, before)
    return _conclude(found, work)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _look(kind: str, quick: bool, work: Path) -> dict[str, Any]:
    """Find out what the numbers will hold for.

    Raises:
        CheckError: something stands in the way of the check.
    """
    for obstacle in (machine.packages_obstacle(machine.missing_packages()), machine.disk_obstacle(work, kind)):
        if obstacle:
            raise CheckError(obstacle)
    facts = machine.probe("facts")
    if kind == "cuda" and (obstacle := machine.card_obstacle(facts, machine.card_users())):
        raise CheckError(obstacle)
    return {
        "device": kind,
        "quick": quick,
        "card": facts["name"] if kind == "cuda" else machine_facts.device_facts("cpu").name,
        "capability": facts["capability"],
        "driver": _driver() if kind == "cuda" else "",
        "torch": facts["torch"],
        "cuda": facts["built_for"] if kind == "cuda" else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "commit": report.commit(),
        "fixed": report.fixed_hash(),
        "date": report.now(),
        "import_s": facts["import_s"],
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _heading(setup: dict[str, Any]) -> list[str]:
    what = (
        "A check of this GPU"
        if setup["device"] == "cuda"
        else "The check in miniature, on the CPU: it shows that the check works, no speed"
    )
    names = [f"{name} {setup[name]}" for name in ("driver", "torch", "cuda", "python", "commit") if setup[name]]
    return [what, f"{setup['card']}; {', '.join(names)}; {setup['date']} UTC", ""]


def _measure(found: Report, kind: str, quick: bool, wanted: list[int], work: Path) -> None:
    profile = prepare.PROFILES[machine.profile_for(found.setup["capability"])] if kind == "cuda" else profiles.MINIATURE
    profiles.register()
    began, folder = time.monotonic(), work / "data" / profile.name
    prepared = (folder / prepare.META).exists()
    data = text.prepare_data(profile, folder, small=kind == "cpu")
    if not prepared:
        found.setup["prepare_s"] = time.monotonic() - began
    _lend_kernels(folder.parent)
    launches = Launches(work / "runs", profile, data, kind)
    these = None
    try:
        these = Check(kind, quick, profile, data, work, launches, found)
        if kind == "cpu" and LAB in wanted:  # where no speed is measured, it runs beside the others
            with contextlib.suppress(swarm.Skipped):
                these.lab = swarm.Driver(these)
        for number in wanted:
            part = found.parts[number] = Part(number, PARTS[number][0])
            limit_s = LIMITS_S.get((kind, quick))
            if limit_s is not None and time.monotonic() - began > limit_s:
                part.state, part.words = report.SKIPPED, [f"{limit_s:.0f} s were over before it could begin; --part {number} measures it."]
            else:
                if number == 1:
                    part.numbers |= {name: found.setup[name] for name in ("import_s", "prepare_s") if name in found.setup}
                _run_part(these, part)
            report.show(report.table(part, these.real))
            found.save()
    finally:
        if these is not None and these.lab is not None:
            these.lab.stop()
        launches.close()


def _lend_kernels(folder: Path) -> None:
    """Let trainings find the attention kernels that this user fetched, if any, beside the check's own data."""
    fetched, ours = device.kernels_dir(prepare.data_dir("h100").parent), folder / "kernels"
    if (fetched / device.FLASH_LINK).exists() and not ours.exists():
        ours.symlink_to(fetched.resolve(), target_is_directory=True)


def _run_part(these: Check, part: Part) -> None:
    """Run one part. Whatever fails in it is said in it, and ends no other part."""
    began = time.monotonic()
    these.launches.deadline = began + PART_S[these.kind]
    try:
        PARTS[part.number][1](these, part)
    except swarm.Skipped as reason:
        part.state, part.words = report.SKIPPED, [str(reason)]
    except KeyboardInterrupt:
        del these.report.parts[part.number]
        raise
    except OSError as error:
        part.state, part.words = report.FAILED, [*part.words, f"{error.strerror or error}: {error.filename or these.work}"]
    except Exception as error:
        part.state, part.words = report.FAILED, [*part.words, str(error) if isinstance(error, CheckError) else repr(error)]
    part.seconds, part.at = time.monotonic() - began, report.now()


def _conclude(found: Report, work: Path) -> int:
    found.complete = True
    with contextlib.suppress(OSError):
        title = f"{found.setup['card']}, torch {found.setup['torch']}, commit {found.setup['commit']}, {found.setup['date']} UTC"
        (work / PICTURE).write_text(picture.picture(title, found.runs), encoding="utf-8")
        found.save()
    bad = [claim for part in found.parts.values() for claim, holds in part.verdicts if holds is False]
    bad += [f"part {part.number} failed: {' '.join(part.words)}" for part in found.parts.values() if part.state == report.FAILED]
    shown = sum(holds is True for part in found.parts.values() for _, holds in part.verdicts)
    report.show(["", f"{shown} claims hold, {len(bad)} don't. {work / report.FILE}, {work / PICTURE}"])
    report.show(f"    NO  {claim}" for claim in bad)
    sys.stdout.flush()
    return GOOD if found.good else BAD
