"""Runs every benchmark and prints a table: what, ours, the yardstick of the same run, the ratio."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    calls,
    far,
    gate,
    gpu_budget,
    http_calls,
    kernels,
    lab_adversaries,
    lab_campaign,
    lake,
    loop,
    page,
    rented,
    scale,
    scorer,
    session,
    slots,
    slurm,
    start,
    sweeping,
    thinking,
    tokens,
    two_calls,
)


def main() -> None:
    table = Table("what", "ours", "yardstick", "ratio", "aim", title="Benchmarks (medians; interleaved with their yardsticks)")
    with tempfile.TemporaryDirectory() as scratch:
        for bench in (
            start,
            calls,
            http_calls,
            tokens,
            loop,
            lake,
            kernels,
            scorer,
            slots,
            thinking,
            sweeping,
            rented,
            far,
            slurm,
            scale,
            page,
            gpu_budget,
            session,
            two_calls,
            lab_campaign,
            lab_adversaries,
            gate,
        ):
            for row in bench.measure(Path(scratch)):
                table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
