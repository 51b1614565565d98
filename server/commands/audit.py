"""`autoresearch-mcp audit`: the gate, checked on the lab's own champion."""

import argparse
import contextlib
import getpass
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.audit import REPLAYS, Audit
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.status import MAX_REPLICATES
from autoresearch_mcp.server.models import TERMINAL_STATES

EXAMPLES = (
    "autoresearch-mcp audit my-lab                # with the replicates that the lab has: trains nothing",
    "autoresearch-mcp audit my-lab --runs 24      # trains the champion 24 times first, from the lab's budget",
)
POLL_S = 1.0
_MOST_RUNS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    train = parser.add_mutually_exclusive_group()
    train.add_argument("--runs", metavar="N", type=_runs, default=0, help="train the champion so often first, through the lab's queue")
    train.add_argument("--no-train", action="store_true", help="use the replicates that there are (default)")
    parser.add_argument(
        "--replays", metavar="N", type=int, choices=range(1, 100_001), default=REPLAYS, help=f"questions of each kind (default: {REPLAYS})"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Train what was asked for, then check."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        if arguments.runs:
            _train(lab, arguments.runs)
        audit = lab.audit(arguments.replays, lambda text: _note(f"{text} ..."))
    if arguments.json:
        say(json.dumps(asdict(audit), indent=2))
    else:
        say(*lines(audit))
    return 0


def lines(audit: Audit) -> Iterator[str]:
    """Say in plain words what an audit shows."""
    yield f"champion {audit.commit[:12]}, {audit.runs} replicates that count"
    noise = audit.noise
    if noise is None:
        yield "Too few to tell the noise: train some with --runs 24."
        return
    yield f"noise     sd {noise.sd:.4f} between equal trainings (95 %: {noise.sd_low:.4f} to {noise.sd_high:.4f}), around {noise.mean:.4f}"
    lags = ", ".join(f"{r:+.2f}" for r in noise.autocorrelation)
    yield f"drift     {noise.drift_share:.0%} of the variance is shared by neighbours in time"
    yield f"          autocorrelation by order of starts: {lags} (chance alone: up to ±{noise.by_chance:.2f})"
    if noise.steps_share is not None:
        yield f"          {noise.steps_share:.0%} of the variance goes with the number of steps, which is the machine's speed"
    if not audit.replays:
        yield (
            f"gate      {audit.missing} more replicates are needed to ask it: --runs {audit.missing}"
            if audit.missing
            else "gate      not asked: no noise"
        )
    else:
        turn, row = audit.false["in turn"], audit.false["in a row"]
        yield f"gate      promoted the champion over itself in {turn:.1%} of {audit.replays} replays with replicates in turn, as the lab starts them"
        yield f"          in {row:.1%} with replicates in a row: what the order of starts protects from"
        power = ", ".join(f"{share:.0%} of gains of {gain:g} sd ({gain * noise.sd:.4f})" for gain, share in audit.power.items())
        yield f"          it would promote {power}"
        yield f"          All replays deal out the same {audit.runs} trainings, so these shares are rough below some 50 of them."
    if audit.spared:
        yield f"stopping  of {audit.spared} hopeless trainings that went on, {audit.spared_promoted} were promoted later"


def _train(lab: Lab, runs: int) -> None:
    """Train the champion, and wait. On Ctrl-C, cancel what has not started.

    Raises:
        LabError: those of `launch_training`; then nothing of it stays queued.
    """
    who, ids = getpass.getuser(), list[str]()
    try:
        while len(ids) < runs:
            ids += lab.launch_training("champion", who, min(MAX_REPLICATES, runs - len(ids)), tags=["audit"]).experiments
        _note(
            f"{runs} trainings of the champion are queued, at most {lab.settings.longest_s():.0f} device seconds each. Ctrl-C cancels the rest."
        )
        ended = -1
        while (now := sum(line.state in TERMINAL_STATES for line in lab.states(ids))) < runs:
            if now != ended:
                ended = now
                _note(f"{ended} of {runs} have ended")
            time.sleep(POLL_S)
    except (LabError, KeyboardInterrupt):
        if queued := [line.id for line in lab.states(ids) if line.state == "queued"]:
            lab.cancel(who, queued)
        raise


def _runs(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MOST_RUNS:
        raise argparse.ArgumentTypeError(f"must be 1 to {_MOST_RUNS}")
    return value


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
