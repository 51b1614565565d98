"""How much new information the commits of a repository add to some of its files, and which of them a lab would refuse.

    python -m tests.bench.growth [--all] REPO PATH ...

Each commit counts as a proposal against its parent. Without `--all`, the first-parent history is also cut into labs of `LAB` commits,
each of which grows from its first source.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.growth import PROPOSAL, check, growth

LAB = 50
MOST = 500  # commits
Sources = dict[str, bytes]


def git(repo: Path, *arguments: str) -> bytes:
    """Return what git prints; nothing where it fails."""
    return subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=False).stdout


def commits(repo: Path, paths: list[str], *options: str) -> list[str]:
    """Return the newest commits that touch these paths, the newest first."""
    return git(repo, "log", *options, f"--max-count={MOST}", "--format=%H", "--", *paths).decode().split()


def sources(repo: Path, paths: list[str], commit: str) -> Sources:
    """Return those of the files that a commit has."""
    return {path: data for path in paths if (data := git(repo, "show", f"{commit}:{path}"))}


def measure(repo: Path, paths: list[str], revision: str) -> list[tuple[int, str]]:
    """Return the bytes that each commit adds, and its subject; the largest last. Commits that make or remove all files are left out."""
    rows = []
    for commit in commits(repo, paths, revision):
        before, after = sources(repo, paths, f"{commit}^"), sources(repo, paths, commit)
        if before and after:
            rows.append((growth(before, after), git(repo, "log", "-1", "--format=%h %s", commit).decode("utf-8", "replace").strip()[:70]))
    return sorted(rows)


def labs(repo: Path, paths: list[str]) -> Iterator[tuple[int, int, int]]:
    """Yield, for each lab that takes every commit: the commits, the bytes beyond its first source, and how many would be refused."""
    versions = [each for commit in reversed(commits(repo, paths, "--first-parent", "HEAD")) if (each := sources(repo, paths, commit))]
    for start in range(0, len(versions) - 1, LAB):
        first, *later = versions[start : start + LAB + 1]
        refused, base = 0, first
        for version in later:
            try:
                check(first, base, version)
            except LabError:
                refused += 1
            base = version
        yield len(later), growth(first, base), refused


def main() -> None:
    """Print quantiles, the largest commits, and how many would be refused."""
    every = sys.argv[1] == "--all"
    repo, *paths = sys.argv[2:] if every else sys.argv[1:]
    rows = measure(Path(repo), paths, "--all" if every else "HEAD")
    sizes = [size for size, _ in rows]
    print(f"{len(rows)} commits; refused: {sum(size > PROPOSAL for size in sizes)}")
    print("  ".join(f"{share:.0%}: {sizes[int(share * (len(sizes) - 1))]:,}" for share in (0.5, 0.75, 0.9, 0.95, 0.98, 1)))
    for size, subject in rows[-5:]:
        print(f"{size:7,}  {subject}")
    for count, size, refused in [] if every else labs(Path(repo), paths):
        print(f"a lab of {count} commits in a row: {size:,} bytes beyond its first source; refused: {refused}")


if __name__ == "__main__":
    main()
