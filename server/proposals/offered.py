"""The lab's repository as git's own server offers it: which refs it shows, and what a push has to pass before a ref moves.

Promises: only the champion's branch, `main` and agents' branches are shown, and objects of others are not handed out. Of a push nothing
stays unless `receiving` accepted it: where our hook can't run, git doesn't either. A repository's own hooks never run.
Gives up: what an accepted push brought stays in the repository when its branch goes, because nothing collects there.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.branches import FOLDER
from autoresearch_mcp.server.proposals.git import obeying

PUSH = "AUTORESEARCH_PUSH"  # the variable that tells our hook whose push it is
MOST_SENT = 4 << 20  # bytes of a push, as they are sent
_BRANCHES = ("refs/heads/main", "refs/heads/research", f"refs/heads/{FOLDER}")
_KEPT = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
_SETTINGS = (
    ("transfer.hideRefs", "refs"),
    *(("transfer.hideRefs", f"!{ref}") for ref in _BRANCHES),
    ("uploadpack.allowTipSHA1InWant", "false"),
    ("uploadpack.allowReachableSHA1InWant", "false"),
    ("uploadpack.allowAnySHA1InWant", "false"),
    ("http.getanyfile", "false"),
    ("http.uploadpack", "true"),
    ("receive.maxInputSize", str(MOST_SENT)),
    ("receive.fsckObjects", "true"),
    ("receive.advertisePushOptions", "false"),
    ("receive.autogc", "false"),
    ("receive.denyCurrentBranch", "refuse"),
    ("receive.denyDeleteCurrent", "refuse"),
    ("receive.denyDeletes", "false"),
    ("receive.denyNonFastForwards", "false"),
    ("receive.updateServerInfo", "false"),
    ("core.bigFileThreshold", "1m"),  # larger files are never whole in memory
    ("core.packedGitWindowSize", "32m"),
    ("core.packedGitLimit", "256m"),
    ("pack.threads", "1"),
)


@dataclass(frozen=True)
class Push:
    """Whose push our hook looks at.

    Attributes:
        root: the lab's folder.
        editable: the paths that a branch may change.
        folder: below `agents/`, the only one where refs may move; empty for any, where callers have no names.
        who: signs the change in the lab's record; empty for the branch's folder.
        role: in which.
        origin: the address that it came from.
    """

    root: str
    editable: Sequence[str]
    folder: str
    who: str
    role: str
    origin: str


class OfferedRepository:
    """The repository of one lab, for git's own server.

    Args:
        root: the lab's folder.
    """

    def __init__(self, root: Path) -> None:
        self._paths = LabPaths(root)
        self._hooks = self._paths.git / "hooks"

    def prepare(self) -> None:
        """Make the folder that git's server looks at, with the champion's branch as HEAD and our hook."""
        self._hooks.mkdir(parents=True, exist_ok=True)
        self._paths.git.chmod(0o700)
        command = shlex.join([sys.executable, "-P", "-m", "autoresearch_mcp.server.proposals.receiving"])
        files = {
            "HEAD": "ref: refs/heads/research\n",
            "commondir": f"{self._paths.root / '.git'}\n",
            "hooks/pre-receive": f"#!/bin/sh\nexec {command}\n",
        }
        for name, text in files.items():
            new = self._paths.git / f"{name}.{os.getpid()}"
            new.write_text(text, encoding="utf-8")
            new.chmod(0o700)
            new.replace(self._paths.git / name)

    def environment(self, push: Push | None) -> dict[str, str]:
        """Return the whole environment of git's server for one request.

        Args:
            push: whose push it is; None for one that reads.

        Raises:
            LabError: `no_hook` where git would accept a push without asking us.
        """
        if push is not None and not os.access(self._hooks / "pre-receive", os.X_OK):
            raise LabError("This lab's hook can't run, so nothing may be pushed. Its owner finds it in .autoresearch/git/hooks.", "no_hook")
        settings = [*_SETTINGS, ("core.hooksPath", str(self._hooks)), ("http.receivepack", "true" if push else "false")]
        return {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            **obeying(*settings),
            "GIT_PROJECT_ROOT": str(self._paths.git),
            "GIT_HTTP_EXPORT_ALL": "1",
            **({PUSH: json.dumps(asdict(replace(push, editable=list(push.editable))))} if push else {}),
        }
