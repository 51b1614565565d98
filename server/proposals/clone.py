"""Copies the history of a user's repository into a new lab. The user's repository is only read."""

from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.git import Git, import_git


def fetch_head(git: Git, existing: Path) -> str:
    """Fetch HEAD of another repository and return its commit.

    Args:
        git: of the new repository.
        existing: the user's, bare or not. Git may refuse to trust it: that is the user's setting, so it counts here.

    Raises:
        LabError: `not_a_repository`, `no_commits`, `not_trusted`, and those of `Git.output`.
    """
    try:
        trust = {"GIT_CONFIG_GLOBAL": None, "GIT_CONFIG_NOSYSTEM": None}
        git.output("fetch", "--quiet", "--no-tags", "--update-shallow", str(existing), "HEAD", env=trust)
    except LabError as error:
        if "couldn't find remote ref HEAD" in str(error):
            raise LabError(f"{existing} has no commit yet. Commit its files, then try again.", "no_commits") from None
        if "does not appear to be a git repository" in str(error):
            raise LabError(f"{existing} is not a git repository (give its top directory). Nothing was made.", "not_a_repository") from None
        raise
    head = git.line("rev-parse", "--verify", "FETCH_HEAD^{commit}")
    (git.directory / "FETCH_HEAD").unlink()
    return head


def left_out(existing: Path) -> list[str]:
    """Return warnings for what a clone of `existing` does not hold. Leaves its index as it is."""
    git = import_git()
    try:
        repo = git.Repo(existing, expand_vars=False)
        repo.git.update_environment(GIT_OPTIONAL_LOCKS="0")
        changes = 0 if repo.bare else len(repo.git.status("--porcelain").splitlines())
    except git.GitError:
        return []
    return [f"{changes} uncommitted change(s) in {existing} were left out: the lab starts from the last commit."] if changes else []
