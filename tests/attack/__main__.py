"""Run the attacks, and print what became of each: `python -m tests.attack [--short] [NAME ...]`.

The exit status is 1 if one got through, and 2 if the honest control was not promoted, because then the rest says nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from tests.attack.campaign import Row, run


def table(rows: list[Row]) -> Table:
    """Return what became of each attack."""
    out = Table("attack", "gain, bits a byte", "seen, or refused by", "promoted", title="Attacks, through a real lab with the real gate")
    for attack, outcome in rows:
        gain = "" if outcome.gain is None else f"{outcome.gain:+.4f}"
        mark = "YES" if outcome.promoted else "LEAKED" if outcome.leaked else "no"
        mark += " (known)" if attack.open and outcome.got_through else ""
        out.add_row(attack.name, gain, outcome.noticed, "allowed" if attack.allowed and outcome.promoted else mark)
    return out


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="Attack a lab of our own, and print what became of it.")
    parser.add_argument("--short", action="store_true", help="fewer runs, and without the slow attacks")
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks whose names hold this text; by default all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = anyio.run(run, Path(scratch), arguments.short, arguments.names)
    Console(width=170).print(table(rows))
    open_ones = [attack.name for attack, outcome in rows if outcome.got_through and not attack.allowed]
    idle = [attack.name for attack, outcome in rows if attack.allowed and not outcome.promoted]
    sys.exit(1 if open_ones else 2 if idle else 0)


if __name__ == "__main__":
    main()
