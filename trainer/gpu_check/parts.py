"""Parts 1 to 4 of the check: training, its second start, attention, scoring."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoresearch_mcp.trainer import client, compile_cache, device, prepare, protocol, score
from autoresearch_mcp.trainer.gpu_check import machine, report, variants
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.gpu_check.report import Part, Report
from autoresearch_mcp.trainer.gpu_check.runs import Launches, Run
from autoresearch_mcp.trainer.prepare import Profile

CLOSE = 0.03  # two kernels count as equally fast within this share
MINIATURE_S = 0.6  # CPU seconds of a training
OUTSIDE_S = 9.0  # planned in trainer.prepare
WARM_START_S = 15.0  # docs/unproven.md


class Begun(Protocol):
    """What was begun for a part before its turn."""

    def wait(self) -> dict[str, Any]:
        """Wait until it is done, and return what it showed."""
        ...

    def stop(self) -> None:
        """End it, if it still runs."""
        ...


@dataclass
class Check:
    """What every part needs.

    Attributes:
        kind: a torch device type.
        quick: whether less has to do.
        profile: that is trained.
        data: its prepared data.
        work: the check's folder.
        launches: starts runs.
        report: what was measured so far.
        lab: what part 6 waits for, where that was begun before the other parts.
    """

    kind: str
    quick: bool
    profile: Profile
    data: Path
    work: Path
    launches: Launches
    report: Report
    lab: Begun | None = None

    def budget_s(self, full: float, quick: float) -> float:
        """Return a run's budget: CPU seconds in miniature, where all are short."""
        return MINIATURE_S if self.kind == "cpu" else quick if self.quick else full

    @property
    def real(self) -> bool:
        """Whether it measures a GPU, and not the check itself in miniature."""
        return self.kind == "cuda"

    def remember(self, label: str, run: Run, result: dict[str, Any]) -> None:
        """Keep a run for the picture."""
        points = [[point["t"], point["loss"]] for point in run.curve if "loss" in point]
        thin = max(1, len(points) // 300)
        self.report.runs.append({"label": label, "timings": result["timings"], "budget_s": result["budget_s"], "curve": points[::thin]})


def training(check: Check, part: Part) -> None:
    """Train the stock train.py with nothing compiled before (part 1)."""
    kept = compile_cache.kept_in(check.data.parent)
    kept.unlink(missing_ok=True)
    budget_s = check.budget_s(15, 8)
    run = check.launches.start("stock", variants.stock(), budget_s)
    result = run.finish()
    check.remember("first run", run, result)
    timings, log = result["timings"], run.log
    part.numbers |= {"cold_start_s": timings["startup_s"], "score_s": timings["score_s"], "val_bpb": result["val_bpb"]}
    part.numbers |= {"scored_tokens": _scored_tokens(check) / 1e6, "tokens_per_s": _rate(run)}
    for key, name in (("mfu", "mfu_percent"), ("vram_mb", "peak_vram_mb")):
        if (printed := _printed(log, name)) is not None:
            part.numbers[key] = printed
    if (trained_s := _printed(log, "training_seconds")) is not None:
        part.numbers["submit_s"] = max(0.0, timings["train_s"] - trained_s)
    losses = [point["loss"] for point in run.curve if "loss" in point]
    part.judge(f"the stock train.py trains: its loss fell from {losses[0]:.2f} to {losses[-1]:.2f} nats", losses[-1] < losses[0])
    expected = device.compute_dtype(tuple(check.report.setup["capability"]) if check.real else None)
    notes = result["notes"]
    part.judge(f"it says how it ran: {notes.get('dtype')}, {notes.get('attention')}", notes == {"dtype": expected, "attention": "sdpa"})
    part.words.append(f"device_name: {result['device_name']}; sandbox: {result['sandbox']}")
    if check.real and "mfu" not in part.numbers:
        part.judge(f"the table of peaks knows {check.report.setup['card']}", False)


def second_start(check: Check, part: Part) -> None:
    """Train the same again, and with another seed (part 2)."""
    budget_s = check.budget_s(15, 8)
    first = check.report.parts.get(1)
    if first is None or "cold_start_s" not in first.numbers:
        raise CheckError("part 1 must have measured a first run: leave out --part, or name 1 too.")
    results = []
    for seed in (0, 1):
        run = check.launches.start(f"seed-{seed}", variants.stock(), budget_s, seed=seed)
        results.append(run.finish())
        check.remember("the same seed again" if seed == 0 else "another seed", run, results[-1])
    again, other = results
    timings, cold_s = again["timings"], first.numbers["cold_start_s"]
    part.numbers |= {
        "warm_start_s": timings["startup_s"],
        "same_seed": abs(again["val_bpb"] - first.numbers["val_bpb"]),
        "other_seed": abs(other["val_bpb"] - again["val_bpb"]),
    }
    submit_s = first.numbers.get("submit_s", 0.0)
    outside_s = part.numbers["outside_s"] = timings["startup_s"] + submit_s + timings["score_s"]
    if not check.real:
        part.judge("the kept compile cache is found again", None)
        part.words.append("A CPU compiles nothing, so it keeps no compile cache: that needs a GPU.")
        return
    part.numbers["saved_s"] = cold_s - timings["startup_s"]
    if "restore_s" in timings:
        part.numbers["restore_s"] = timings["restore_s"]
    hit = "restore_s" in timings and timings["startup_s"] < min(WARM_START_S, cold_s)
    part.judge(f"the kept compile cache hits, and start() comes within {WARM_START_S:g} s", hit)
    part.judge(f"a run spends at most {OUTSIDE_S:g} s outside its budget: {outside_s:.1f} s", outside_s <= OUTSIDE_S)


def attention(check: Check, part: Part) -> None:
    """Compare the attention kernels (part 3)."""
    budget_s = check.budget_s(6, 5)
    rates, losses = dict[str, float](), dict[str, list[float]]()
    kinds = {"flex": (variants.with_flex_attention(), "sdpa")}
    if check.real:
        kinds = {"sdpa": (variants.stock(), "sdpa"), **kinds}
    if (why := _flash_missing(check)) is None:
        kinds["fa3"] = (variants.stock(), "fa3")
    else:
        part.words.append(why)
    for name, (code, backend) in kinds.items():
        run = check.launches.start(name, code, budget_s, attention=backend, stage="train")
        run.finish()
        shutil.rmtree(run.directory / protocol.SUBMISSION, ignore_errors=True)
        rates[name] = _rate(run)
        losses[name] = [point["loss"] for point in run.curve if "loss" in point]
    if not check.real:
        part.judge("FlexAttention says the same as SDPA, over whole rows and over windows, in every step of a training", True)
        part.words.append("FlexAttention has no backward pass on a CPU, so its speed needs a GPU.")
        return
    part.numbers |= {f"{name}_tokens_per_s": rate for name, rate in rates.items()}
    for name, line in losses.items():
        step = min(len(line), len(losses["sdpa"]), 10) - 1
        if name != "sdpa" and step >= 0:
            apart = abs(line[step] - losses["sdpa"][step])
            part.judge(f"{name} trains as SDPA does: {apart:.3f} nats apart at step {step + 1}", apart < 0.05)
    part.words.append(argue(rates))


def argue(rates: dict[str, float]) -> str:
    """Say which default the speeds argue for, given tokens a second by kernel. SDPA and FlexAttention need no download."""
    best = max(rates, key=lambda name: rates[name])
    free = max((name for name in rates if name != "fa3"), key=lambda name: rates[name])
    if best == free:
        return f"This argues for {best} as the default on this card: it is the fastest, and needs no download."
    behind = 1 - rates[free] / rates[best]
    if behind <= CLOSE:
        return f"This argues for {free} as the default on this card: it needs no download, and is {100 * behind:.1f}% slower than {best}."
    return f"This argues for {best} as the default on this card: {free}, the fastest that needs no download, is {100 * behind:.0f}% slower."


def _flash_missing(check: Check) -> str | None:
    """Return why FlashAttention 3 can't be tried; None if it can."""
    if not check.real:
        return "FlashAttention 3 needs a Hopper GPU."
    if tuple(check.report.setup["capability"]) != device.HOPPER:
        return f"FlashAttention 3 needs a Hopper GPU; this is {check.report.setup['card']}."
    folder = device.kernels_dir(check.data.parent)
    if not (folder / device.FLASH_LINK).exists():
        return (
            f"FlashAttention 3 was not tried: its kernel is not in {folder}. `python -m autoresearch_mcp.trainer.prepare h100` fetches it."
        )
    return None


def scoring(check: Check, part: Part) -> None:
    """Score on its own; how far honest answers lie apart; a look-ahead (part 4)."""
    trained = check.launches.start("to-score", variants.stock(), check.budget_s(6, 3), stage="train")
    trained.finish()
    submission = check.work / "submission"
    shutil.rmtree(submission, ignore_errors=True)
    shutil.copytree(trained.directory / protocol.SUBMISSION, submission)
    result = check.launches.go_on(trained.directory, "score", 0).finish()
    part.numbers["score_stage_s"] = result["timings"]["score_s"]
    honest = machine.probe("spread", check.kind, check.profile.name, str(check.data), str(submission))
    weights_mb = (submission / client.WEIGHTS).stat().st_size / 1e6
    shutil.rmtree(submission)
    tolerance = score.TOLERANCE[check.kind]
    part.numbers |= {"largest_gap": honest["largest"], "p999_gap": honest["p999"]}
    part.numbers |= {"cpu_bpb": honest["cpu_bpb"], "cpu_largest": honest["cpu_largest"]}
    claim = (
        f"honest answers stay within the tolerance of {tolerance:g} nats: {report.figure(honest['largest'])} at most, of {honest['gaps']:,}"
    )
    part.judge(claim, honest["largest"] <= tolerance)
    part.words.append(f"{weights_mb:.0f} MB of weights; answers in {honest['dtype']}")
    cheat = check.launches.start("look-ahead", variants.with_a_look_ahead(0.01), check.budget_s(4, 3)).wait()
    failure = cheat.get("failure") or {}
    caught = cheat["state"] == "crashed" and failure.get("kind") == "invalid_model"
    part.judge(f"a look-ahead at 1% of the positions is caught: {failure.get('message', cheat['state'])}", caught)


def _scored_tokens(check: Check) -> float:
    """Count the tokens of both splits that a scoring covers."""
    meta = protocol.read_json(check.data / prepare.META) or {}
    return float(sum(meta["tokens"][split] for split in ("val", "test")))


def _rate(run: Run) -> float:
    """Return tokens a second between a fifth of the budget and the last report: the first steps warm up."""
    points = [point for point in run.curve if "tokens" in point]
    late = [point for point in points if point["share"] >= 0.2]
    if len(late) < 2 or late[-1]["t"] == late[0]["t"]:
        raise CheckError(f"the run {run.directory.name} took too few steps to tell its speed: {len(points)}.")
    return (late[-1]["tokens"] - late[0]["tokens"]) / (late[-1]["t"] - late[0]["t"])


def _printed(log: str, name: str) -> float | None:
    """Return a number of the summary that the stock train.py prints."""
    match = re.search(rf"^{name}:\s+([\d.]+)$", log, re.MULTILINE)
    return float(match[1]) if match else None
