"""What a change is, apart from where it stands: the constants that it sets, and a hash of its lines."""

import hashlib
import re

MOST = 8  # constants of one change that are kept
_CONSTANT = re.compile(r"([A-Z][A-Z0-9_]{1,60})(?:\s*:[^=]{1,60})?\s*=\s*([^=\s].*)")


def constants(diff: str) -> dict[str, str]:
    """Return the constants that a unified diff gives another value, by name: those in capitals, alone on their line.

    Args:
        diff: of any files. A name that gets several values is left out.
    """
    values: dict[str, list[str]] = {}
    removed: set[tuple[str, str]] = set()
    for line in diff.splitlines():
        if (
            line.startswith(("+", "-"))
            and not line.startswith(("+++ ", "--- "))
            and (match := _CONSTANT.fullmatch(line[1:].partition("#")[0].strip()[:200]))
        ):
            name, value = match[1], match[2].strip()[:40]
            if line[0] == "+":
                values.setdefault(name, []).append(value)
            else:
                removed.add((name, value))
    single = {name: each[0] for name, each in values.items() if len(each) == 1 and (name, each[0]) not in removed}
    return dict(list(single.items())[:MOST])


def fingerprint(diff: str) -> str:
    """Return a hash of the lines that a diff adds and removes, blanks aside: equal for the same hunks on another base."""
    lines = (line for line in diff.splitlines() if line.startswith(("+", "-")) and not line.startswith(("+++ ", "--- ")))
    return hashlib.sha256("\n".join(line[0] + "".join(line[1:].split()) for line in lines).encode()).hexdigest()[:16]
