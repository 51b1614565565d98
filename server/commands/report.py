"""`autoresearch-mcp report`: a campaign as one HTML file and one in Markdown, for the morning after."""

import argparse
import contextlib
import time
from pathlib import Path

from autoresearch_mcp.server.commands.arguments import add_lab, duration, existing_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp report my-lab", "autoresearch-mcp report --since 12h --out reports my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--since", metavar="DURATION", type=duration, help="only what happened in the last 12h, 7d ... (default: all)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path(), help="for report.html and report.md (default: here)")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write both files, and name them."""
    from autoresearch_mcp.server.page.report import report

    since = 0.0 if arguments.since is None else time.time() - arguments.since
    with contextlib.closing(Lab(existing_lab(arguments.dir))) as lab:
        files = report(lab, since)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (arguments.out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LabError(f"{arguments.out} cannot be written ({error.strerror}). Give another folder.", "not_written") from None
    say(*(f"Wrote {arguments.out / name}" for name in files))
    return 0
