"""Takes a patch out of the `*** Begin Patch` envelope that some coding agents write, as a unified diff."""

import re

from autoresearch_mcp.server.errors import LabError

_BEGIN, _END = re.compile(r"^\*\*\* Begin Patch[ \t\r]*$", re.MULTILINE), re.compile(r"^\*\*\* End Patch[ \t\r]*$", re.MULTILINE)
_FILE = re.compile(r"\*\*\* (Update|Add|Delete) File: (.+)")
_MOVE = re.compile(r"\*\*\* Move to: (.+)")


def is_one(text: str) -> bool:
    """Return whether a patch stands in an envelope."""
    return _BEGIN.search(text) is not None


def opened(text: str) -> str:
    """Return the unified diff in an envelope: hunks without numbers.

    Raises:
        LabError: `bad_patch` for a line that means nothing.
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
            if match[1] == "Delete":
                out += [f"diff --git a/{path} b/{path}", "deleted file mode 100644"]
            else:
                out += [f"--- {path if match[1] == 'Update' else '/dev/null'}", f"+++ {path}"]
        elif (match := _MOVE.match(line.rstrip())) and out and out[-1].startswith("+++ "):
            old, new = out.pop(-2)[4:], match[1].strip()
            out[-1:] = [f"rename from {old}", f"rename to {new}", f"--- {old}", f"+++ {new}"]
        elif not line.startswith("*** End of File"):
            raise LabError(
                f"The patch has `{line[:160].rstrip()}`, which no `*** Begin Patch` envelope has. Send a unified diff.", "bad_patch"
            )
    return "\n".join(out)
