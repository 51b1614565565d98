"""Copies the history of a user's repository into a new lab. The user's repository is only read."""

import re
import shlex
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.git import Git, import_git

_IGNORED_BY_HABIT = re.compile(
    r"(^|/)(\.?v?env|\.venv.*|__pycache__|\.[a-z_]*cache|.*\.egg-info|\.git|\.idea|\.vscode|\.DS_Store|wandb|outputs?|runs|logs?|node_modules|build|dist"
    r"|.*\.pyc|\.env|\.autoresearch)/?$"
)


def is_url(text: str) -> bool:
    """Return whether a text names a repository that is not a folder of this machine."""
    return re.match(r"[a-z][a-z+]+://|[\w.-]+@[\w.-]+:", text) is not None


def fetch_head(git: Git, existing: Path | str) -> tuple[str, list[str]]:
    """Fetch HEAD of another repository.

    Args:
        git: of the new repository.
        existing: the user's, bare or not, or a URL. Git may refuse to trust it: that is the user's setting, so it counts here.

    Returns:
        Its commit, and warnings for the user.

    Raises:
        LabError: `not_a_repository`, `no_commits`, `not_trusted`, `not_fetched`, and those of `Git.output`.
    """
    env = {
        "GIT_CONFIG_GLOBAL": None,
        "GIT_CONFIG_NOSYSTEM": None,
        "GIT_ALLOW_PROTOCOL": "file:http:https:ssh:git",
        "GIT_TERMINAL_PROMPT": "0",
    }
    warnings = []
    try:
        git.output("fetch", "--quiet", "--no-tags", "--update-shallow", str(existing), "HEAD", env=env)
    except LabError as error:
        if "couldn't find remote ref HEAD" in str(error):
            raise LabError(_without_head(git, existing, env), "no_commits") from None
        if isinstance(existing, str):
            raise LabError(f"{existing} can't be fetched: {error} Nothing was made.", "not_fetched") from None
        if "does not appear to be a git repository" in str(error) or "invalid gitfile format" in str(error):
            hint = "give its top directory, or make it one: git init, git add, git commit"
            raise LabError(f"{existing} is not a git repository ({hint}). Nothing was made.", "not_a_repository") from None
        if not _is_partial(existing) and "possible repository corruption" not in str(error):
            raise
        warnings.append(_fetch_last(git, existing, env))
    head = git.line("rev-parse", "--verify", "FETCH_HEAD^{commit}")
    (git.directory / "FETCH_HEAD").unlink()
    return head, warnings


def _without_head(git: Git, existing: Path | str, env: dict[str, str | None]) -> str:
    """Return what helps where HEAD of a repository leads to no commit: it has none, or none on the branch that HEAD names."""
    heads = git.output("ls-remote", "--heads", str(existing), env=env).decode(errors="replace").splitlines()
    branches = [line.partition("refs/heads/")[2] for line in heads if "refs/heads/" in line]
    if not branches:
        return f"{existing} has no commit yet. Commit its files, then try again."
    names, first = ", ".join(branches[:5]), shlex.quote(branches[0])
    way = f"git clone --branch {first} {existing}` and give that folder" if isinstance(existing, str) else ""
    way = way or f"git -C {shlex.quote(str(existing))} symbolic-ref HEAD refs/heads/{first}` and try again"
    return f"{existing} has no commit on the branch that its HEAD names, but on {names}. Run `{way}. Nothing was made."


def _fetch_last(git: Git, existing: Path, env: dict[str, str | None]) -> str:
    """Fetch the last commit alone from a partial clone, which has all of that if it is checked out; return what to tell the user.

    Raises:
        LabError: `not_fetched`.
    """
    try:
        git.output("fetch", "--quiet", "--no-tags", "--depth=1", str(existing), "HEAD", env=env)
    except LabError:
        raise LabError(
            f"{existing} is not complete: files of its last commit are not here, as in a partial clone. Complete it with `git -C {existing} fetch --refetch "
            "--no-filter`, or give --from-repo its URL. Nothing was made.",
            "not_fetched",
        ) from None
    return f"{existing} is not complete, as a partial clone is: the lab starts with its last commit, without the history before."


def _is_partial(existing: Path) -> bool:
    configs = [existing / ".git" / "config", existing / "config"]
    return any("promisor" in path.read_text(encoding="utf-8", errors="replace") for path in configs if path.is_file())


def left_out(existing: Path) -> list[str]:
    """Return warnings for what a clone of `existing` does not hold. Leaves its index as it is."""
    git = import_git()
    try:
        repo = git.Repo(existing, expand_vars=False)
        repo.git.update_environment(GIT_OPTIONAL_LOCKS="0")
        lines = [] if repo.bare else repo.git.status("--porcelain", "--ignored").splitlines()
    except git.GitError:
        return []
    warnings = []
    if changes := sum(not line.startswith("!!") for line in lines):
        warnings.append(f"{changes} uncommitted change(s) in {existing} were left out: the lab starts from the last commit.")
    ignored = [path for line in lines if line.startswith("!! ") and not _IGNORED_BY_HABIT.search(path := line[3:].strip('"'))]
    if ignored:
        names = ", ".join(ignored[:6]) + (f" and {len(ignored) - 6} more" if len(ignored) > 6 else "")
        warnings.append(
            f"warning: git ignores {names}, so the lab doesn't have it. If the code reads it, name a folder that holds it as [training] data"
        )
    return warnings
