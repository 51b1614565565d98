"""The GPU seconds of an experiment on a rented H100, part by part, as they are planned: arithmetic, nothing is measured here.

A sandbox is paid from its placement on, so its boot and its imports count. The parts of a run are those of the plan in
`autoresearch_mcp.trainer.prepare`; what a sandbox adds is estimated, and `details.timings` of a real experiment would show it.
`python -m tests.bench.gpu_budget` prints the plan for code that changes none of the stock model's graphs: the launcher
restores what `setup modal` compiled once (a copy from a volume: `details.timings.restore_s`). And it prints the plan for code that changes
them, or a kind of GPU without a compile cache: that compiles in its own sandbox, and misses the aim.
"""

from pathlib import Path

from autoresearch_mcp.server.compute.modal.context import BOOT_S
from autoresearch_mcp.server.compute.modal.scoring import BATCH

TRAIN_S = 300.0
AIM = 92.0
IMPORT_S = 5.0  # torch, from a cold page cache
STARTUP_S = 0.1 + 0.6 + 0.4 + 0.4  # share of the tokens, CUDA context, kernels and weights, warm-up
SUBMIT_S = 0.5 + 0.2
RESTORE_S = 1.0  # 40 MB in 1,500 files, which is a guess; unpacking as much takes 0.6 s on a busy laptop
COMPILE_S = {"restored": RESTORE_S + 2.5, "compiled in its sandbox": 30.0}
SCORE_S = 0.9 + 2.4 + 0.7  # of a model: servers, tokens, and its files fetched and written; nothing is compiled


def parts(compiled: str) -> dict[str, float]:
    """GPU seconds by part of one experiment, scored with `BATCH - 1` others."""
    return {
        "boot and imports": BOOT_S + IMPORT_S,
        "to start()": STARTUP_S,
        f"graphs {compiled}": COMPILE_S[compiled],
        "training": TRAIN_S,
        "submit": SUBMIT_S,
        f"scoring, a share of {BATCH}": (BOOT_S + IMPORT_S) / BATCH + SCORE_S,
    }


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for compiled in COMPILE_S:
        planned = parts(compiled)
        listing = ", ".join(f"{name} {seconds:.1f}" for name, seconds in planned.items() if name != "training")
        rows.append(
            (f"planned share that trains, graphs {compiled}", f"{100 * TRAIN_S / sum(planned.values()):.1f} %", listing, "", f"{AIM:g} %")
        )
    return rows


if __name__ == "__main__":
    for row in measure(Path()):
        print(*(cell for cell in row if cell), sep=" | ")
