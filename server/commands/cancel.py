"""`autoresearch-mcp cancel`: the owner stops experiments, whoever launched them."""

import argparse
import contextlib
import re

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.models import OWNER

EXAMPLES = ("autoresearch-mcp cancel e-01h2xk3m4n5p6q7 my-lab", "autoresearch-mcp cancel 3f2a9c1d7e64 --reason 'it fills the queue' my-lab")
_ID = re.compile(r"[ec]-\w+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "what", metavar="ID", help="an experiment or launch until decided, as status and watch show them; or a commit: all of it"
    )
    add_lab(parser)
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for whoever launched it")


def run(arguments: argparse.Namespace) -> int:
    """Cancel it. The record says that the owner did, so it counts against nobody."""
    what = arguments.what
    ids, commit = ([what], None) if _ID.fullmatch(what) else (None, what)
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        answer = lab.cancel(OWNER, ids, commit, reason=arguments.reason, anyones=True)
        on_the_command_line(lab.record_change, "cancel", what)
    say(answer.note)
    return 0
