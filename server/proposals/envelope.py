"""Takes a patch out of the `*** Begin Patch` envelope that some coding agents write, as a unified diff."""

import re

from autoresearch_mcp.server.errors import LabError

_BEGIN, _END = re.compile(r"^\*\*\* Begin Patch[ \t\r]*$", re.MULTILINE), re.compile(r"^\*\*\* End Patch[ \t\r]*$", re.MULTILINE)
_FILE = re.compile(r"\*\*\* (Update|Add) File: (.+)")


def is_one(text: str) -> bool:
    """Return whether a patch stands in an envelope."""
    return _BEGIN.search(text) is not None


def opened(text: str) -> str:
    """Return the unified diff in an envelope: hunks without numbers.

    Raises:
        LabError: `bad_patch` for what deletes or moves a file.
    """
    begin = _BEGIN.search(text)
    end = _END.search(text, begin.end() if begin else 0)
    out: list[str] = []
    for line in text[begin.end() if begin else 0 : end.start() if end else None].strip("\r\n").split("\n"):
        if not line.startswith("*** "):
            needs_header = bool(out) and out[-1].startswith("+++ ") and not line.startswith("@@")
            out += ["@@", line] if needs_header and line.strip() else [line]
        elif match := _FILE.match(line.rstrip()):
            path = match[2].strip()
            out += [f"--- {path if match[1] == 'Update' else '/dev/null'}", f"+++ {path}"]
        elif not line.startswith("*** End of File"):
            raise LabError(
                f"The patch has `{line[:160].rstrip()}`. Files can't be deleted or moved; change their text where they are.", "bad_patch"
            )
    return "\n".join(out)
