"""The GPU seconds of an experiment on a rented H100, part by part: measured where `make gpu-check` left numbers, planned elsewhere.
And the speed to expect of other cards, which is arithmetic.

It reads `gpu-check/gpu-check.json` in this folder, or the file that $AUTORESEARCH_GPU_CHECK names. A plan is arithmetic.
A sandbox is paid from its placement on, so its boot and its imports count. The parts of a run are those of the plan in
`autoresearch_mcp.trainer.prepare`; what a sandbox adds is estimated, and `details.timings` of a real experiment would show it.
`python -m tests.bench.gpu_budget` prints the plan for code that changes none of the stock model's graphs: the launcher
restores what `setup modal` compiled once (a copy from a volume: `details.timings.restore_s`). And it prints the plan for code that changes
them, or a kind of GPU without a compile cache: that compiles in its own sandbox, and misses the aim.
Then it prints, for each card of the table in docs/hardware.md, the tokens a second of the stock model: a share of the maker's peak over
the operations of a token. None is measured.
"""

import os
from pathlib import Path

from autoresearch_mcp.server.compute.modal.context import BOOT_S
from autoresearch_mcp.server.compute.modal.scoring import BATCH
from autoresearch_mcp.trainer.device import PEAKS, compute_dtype
from autoresearch_mcp.trainer.gpu_check.report import FILE, Report, read_report

TRAIN_S = 300.0
AIM = 92.0
IMPORT_S = 5.0  # torch, from a cold page cache
STARTUP_S = 0.1 + 0.6 + 0.4 + 0.4  # share of the tokens, CUDA context, kernels and weights, warm-up
RECORD_S = 0.2
SUBMIT_S = 0.5 + RECORD_S
RESTORE_S = 1.0  # 40 MB in 1,500 files, which is a guess; unpacking as much takes 0.6 s on a busy laptop
COMPILE_S = {"restored": RESTORE_S + 2.5, "compiled in its sandbox": 30.0}
FETCH_S = 0.7  # a model's files, fetched and written
SCORE_S = 0.9 + 2.4 + FETCH_S  # of a model: servers, tokens, files; nothing is compiled
OPERATIONS = 101_453_256  # a token, of the stock model under `gpu` and `mps`; tests/trainer/test_device.py counts them
USED = (0.25, 0.40)  # of a card's peak, from and to: a guess
CAPABILITIES = {
    "RTX 4090": (8, 9),
    "RTX 3090": (8, 6),
    "RTX 4060": (8, 9),
    "RTX 3060": (8, 6),
    "RTX 2080 Ti": (7, 5),
    "T4": (7, 5),
    "V100": (7, 0),
}
APPLE = ("Apple M3 Max, profile `mps`", 14e12)  # of float32


def measured() -> Report | None:
    """What a check of a GPU left; None where there is none. A check in miniature, on a CPU, says nothing of this."""
    path = Path(os.environ.get("AUTORESEARCH_GPU_CHECK") or f"gpu-check/{FILE}")
    kept = read_report(path)
    return kept if kept is not None and kept.setup["device"] == "cuda" else None


def parts(compiled: str, kept: Report | None = None) -> dict[str, tuple[float, bool]]:
    """GPU seconds by part of one experiment, scored with `BATCH - 1` others, and whether they were measured."""

    def seconds(planned: float, *keys: str, more: float = 0.0) -> tuple[float, bool]:
        numbers = [kept.number(key) if kept else None for key in keys]
        found = [number for number in numbers if number is not None]
        return (sum(found) + more, True) if len(found) == len(keys) else (planned, False)

    started = "warm_start_s" if compiled == "restored" else "cold_start_s"
    import_s, timed = seconds(IMPORT_S, "import_s")
    score_s, scored = seconds(SCORE_S, "score_s", more=FETCH_S)
    return {
        "boot and imports": (BOOT_S + import_s, timed),
        f"to start(), graphs {compiled}": seconds(STARTUP_S + COMPILE_S[compiled], started),
        "training": (TRAIN_S, True),
        "submit": seconds(SUBMIT_S, "submit_s", more=RECORD_S),
        f"scoring, a share of {BATCH}": ((BOOT_S + import_s) / BATCH + score_s, scored),
    }


def expected() -> list[tuple[str, str, str, str]]:
    """Return a row for each card: its name, number format, peak in TFLOP/s, and tokens a second from and to, in two digits."""
    cards = [(name, compute_dtype(capability), PEAKS[name]) for name, capability in CAPABILITIES.items()]
    return [
        (name, dtype, f"{peak / 1e12:g}", " to ".join(f"{float(f'{share * peak / OPERATIONS:.2g}'):,.0f}" for share in USED))
        for name, dtype, peak in [*cards, (APPLE[0], compute_dtype(None), APPLE[1])]
    ]


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    rows, kept = [], measured()
    for compiled in COMPILE_S:
        counted = parts(compiled, kept)
        listing = ", ".join(
            f"{name} {seconds:.1f}{' measured' if is_measured else ' planned'}"
            for name, (seconds, is_measured) in counted.items()
            if name != "training"
        )
        share = 100 * TRAIN_S / sum(seconds for seconds, _ in counted.values())
        how = "in part measured" if kept else "planned"
        rows.append((f"{how} share that trains, graphs {compiled}", f"{share:.1f} %", listing, "", f"{AIM:g} %"))
    low, high = (f"{100 * share:g}" for share in USED)
    for name, dtype, peak, tokens in expected():
        rows.append((f"tokens a second on {name}: not measured", tokens, f"{low} to {high} % of {peak} TFLOP/s in {dtype}", "", ""))
    return rows


if __name__ == "__main__":
    for row in measure(Path()):
        print(*(cell for cell in row if cell), sep=" | ")
