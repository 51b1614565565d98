"""`python -m tests.bench.growth [--all] REPO PATH ...`: how much new information the commits of a repository add to these files."""

import subprocess
import sys
from pathlib import Path

from autoresearch_mcp.server.proposals.growth import PROPOSAL, growth


def git(repo: Path, *arguments: str) -> bytes:
    """Return what git prints; nothing where it fails."""
    return subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=False).stdout


def measure(repo: Path, paths: list[str], revision: str, most: int) -> list[tuple[int, str]]:
    """Return the bytes that each commit adds, and its subject; the largest last. Commits that make or remove all files are left out."""
    rows = []
    for commit in git(repo, "log", revision, f"--max-count={most}", "--format=%H", "--", *paths).decode().split():
        before, after = ({path: data for path in paths if (data := git(repo, "show", f"{side}:{path}"))} for side in (f"{commit}^", commit))
        if before and after:
            rows.append((growth(before, after), git(repo, "log", "-1", "--format=%h %s", commit).decode("utf-8", "replace").strip()[:70]))
    return sorted(rows)


def main() -> None:
    """Print quantiles, the largest commits, and how many would be refused."""
    revision, given = ("--all", sys.argv[2:]) if sys.argv[1] == "--all" else ("HEAD", sys.argv[1:])
    rows = measure(Path(given[0]), given[1:], revision, 500)
    sizes = [size for size, _ in rows]
    print(f"{len(rows)} commits; refused: {sum(size > PROPOSAL for size in sizes)}")
    print("  ".join(f"{share:.0%}: {sizes[int(share * (len(sizes) - 1))]:,}" for share in (0.5, 0.75, 0.9, 0.95, 0.98, 1)))
    for size, subject in rows[-5:]:
        print(f"{size:7,}  {subject}")


if __name__ == "__main__":
    main()
