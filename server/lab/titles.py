"""A proposal's name, for where there is no room for its hypothesis."""

import re

from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.untrusted import one_line

LENGTH = 60  # characters


def title(proposal: Proposal) -> str:
    """Return the proposal's title; of a proposal from before there were any, the beginning of its hypothesis."""
    return proposal.title or beginning(proposal.hypothesis)


def beginning(hypothesis: str) -> str:
    """Return a hypothesis's first sentence or clause, as a title."""
    return shorten(re.split(r"[.:;](?:\s|$)", hypothesis, maxsplit=1)[0])


def shorten(text: str, length: int = LENGTH) -> str:
    """Return a text in one line of at most so many characters, cut at a word."""
    line = one_line(text, 1_000)
    if len(line) <= length:
        return line
    head = line[: length - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[length // 2 :] else head).rstrip(" ,.;:") + "…"
