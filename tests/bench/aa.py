"""A real A/A on the cpu profile: the champion against copies of itself, through the lab's own queue, runner and gate.

`python -m tests.bench.aa` takes about 12 minutes on 2 quiet cores: at least 10 copies and 60 trainings of 10 CPU seconds. A copy differs
from the champion in a comment only. The lab would refuse it as no change, so this script records it as a proposal by itself, which
nothing outside of a test can do. Whatever the gate promotes here is a false promotion.
"""

import argparse
import sys
import time
from pathlib import Path

from autoresearch_mcp.server.commands.audit import lines
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import TERMINAL_STATES, Proposal
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.candidacies import UNDECIDED

OPEN = 8  # copies that take turns
AUTHORS = ("ada", "ben", "cyd", "dee")


class Copies:
    """Makes copies of the champion in a lab, each a commit of its own."""

    def __init__(self, root: Path) -> None:
        self._repo = Repo(root)
        self._ledger = Ledger(LabPaths(root).ledger)
        self._made = 0

    def make(self) -> str:
        """Record one more copy as a proposal. Returns its commit."""
        self._made += 1
        champion = self._repo.champion()
        text = self._repo.editable_files(champion)["train.py"].decode()
        draft = self._repo.build(champion, f"Copy {self._made}", "aa", files={"train.py": f"{text}# copy {self._made}\n"})
        self._repo.keep(draft.commit)
        proposal = Proposal(
            commit=draft.commit, base=champion, fingerprint=f"aa-{self._made}", author=AUTHORS[self._made % len(AUTHORS)],
            hypothesis=f"Copy {self._made} of the champion", tags=["aa"], files_changed=1, insertions=1, deletions=0, created_at=time.time(),
        )  # fmt: skip
        return self._ledger.add_proposal(proposal).commit

    def close(self) -> None:
        self._ledger.close()


def main() -> None:
    """Train, ask the gate about every copy, and print what came of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("aa-lab"))
    parser.add_argument("--copies", type=int, default=10, help="at least so many")
    parser.add_argument("--trainings", type=int, default=60, help="at least so many")
    parser.add_argument("--budget-s", type=float, default=10.0, help="CPU seconds of each training")
    asked = parser.parse_args()
    root = asked.directory.resolve()
    create_lab(root, profile="cpu", budget_s=asked.budget_s)
    began = time.monotonic()
    lab, copies = Lab(root), Copies(root)
    verdicts: dict[str, str] = {}
    open_: list[str] = []
    while True:
        counts = lab.status().counts
        trained = sum(n for state, n in counts.items() if state in TERMINAL_STATES)
        enough = trained >= asked.trainings and len(verdicts) + len(open_) >= asked.copies
        while not enough and len(open_) < OPEN:
            commit = copies.make()
            lab.launch_until_decided(commit, AUTHORS[(len(verdicts) + len(open_)) % len(AUTHORS)])
            open_.append(commit)
        for commit in list(open_):
            verdict = lab.promote_commit(commit, "aa").verdict
            if verdict.code not in UNDECIDED:
                verdicts[commit] = f"{verdict.code:14} {verdict.reason}"
                open_.remove(commit)
                print(f"{time.monotonic() - began:5.0f} s  {commit[:10]}  {verdicts[commit]}", flush=True)
                if verdict.promote:
                    print("FALSE PROMOTION", flush=True)
        if enough and not open_:
            break
        print(
            f"{time.monotonic() - began:5.0f} s  {trained} trainings, {len(verdicts)} copies decided, {len(open_)} open",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(5)
    promoted = sum(text.startswith("promote") for text in verdicts.values())
    print(f"{promoted} of {len(verdicts)} copies promoted, in {trained} trainings and {time.monotonic() - began:.0f} s")
    print(*lines(lab.audit()), sep="\n")
    copies.close()
    lab.close()


if __name__ == "__main__":
    main()
