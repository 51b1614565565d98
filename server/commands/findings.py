"""Shows what a check of a lab found."""

from collections.abc import Sequence

from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.lab.findings import Finding


def show(findings: Sequence[Finding]) -> int:
    """Show findings, each with what to do about it.

    Returns:
        1 where one is a fault.
    """
    for finding in findings:
        say(f"{finding.mark}  {finding.name}: {finding.text}", *([f"      {finding.hint}"] if finding.hint else []))
    return 1 if any(finding.bad for finding in findings) else 0
