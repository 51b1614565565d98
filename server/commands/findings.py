"""What a check of a lab found, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.commands.arguments import say


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        grade: ok, note (works, but know this) or bad.
        text: the state of things.
        hint: what to do about it.
    """

    name: str
    grade: str
    text: str
    hint: str = ""

    @property
    def bad(self) -> bool:
        """Whether it is a fault."""
        return self.grade == "bad"

    @property
    def mark(self) -> str:
        """The grade, as it is shown."""
        return {"ok": "ok  ", "note": "note", "bad": "BAD "}[self.grade]


def show(findings: Sequence[Finding]) -> int:
    """Show findings, each with what to do about it.

    Returns:
        1 where one is a fault.
    """
    for finding in findings:
        say(f"{finding.mark}  {finding.name}: {finding.text}", *([f"      {finding.hint}"] if finding.hint else []))
    return 1 if any(finding.bad for finding in findings) else 0
