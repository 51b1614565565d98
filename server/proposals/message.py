"""Writes commit messages and authors from text that agents sent."""

import re
import time

from autoresearch_mcp.server.untrusted import clean

EMAIL = "agent@autoresearch.invalid"


def _name(author: str) -> str:
    return " ".join(re.sub(r"[<>]", "", clean(author)).split())[:64].strip(" .,:;\"'\\") or "agent"


def identity(author: str) -> dict[str, str]:
    """Return the variables by which git signs a commit, or a move of a ref, with this name and the present time."""
    now = f"{int(time.time())} +0000"
    who = {"NAME": _name(author), "EMAIL": EMAIL, "DATE": now}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}


def commit_message(text: str, author: str) -> bytes:
    """Write a hypothesis as a commit message: subject, body, our trailers.

    Lines of the body that git could take for a trailer are indented.
    """
    subject, _, body = clean(text).replace("\t", " ").strip().partition("\n")
    if len(subject) > 100:
        cut = subject.rfind(" ", 40, 97)
        cut = cut if cut > 0 else 97
        subject, body = f"{subject[:cut]}...", f"...{subject[cut:]}\n{body}"
    lines = [f"  {line}" if re.match(r"[\w-]+\s*[:=]|-{3}|\(cherry", line) else line for line in body.strip().split("\n")]
    parts = [subject or "(no hypothesis)", "\n".join(lines), f"Autoresearch-Author: {_name(author)}"]
    return ("\n\n".join(part for part in parts if part) + "\n").encode("utf-8")
