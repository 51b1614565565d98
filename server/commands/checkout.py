"""`autoresearch-mcp checkout`: a work tree for an agent that edits files, on a branch that it proposes by name."""

import argparse
import contextlib
from pathlib import Path

from autoresearch_mcp.server.commands.arguments import existing_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = (
    "autoresearch-mcp checkout --author ada --lab my-lab                     # the champion, in my-lab-ada beside my-lab",
    "autoresearch-mcp checkout 3f2a91c ~/pointer --author ada --branch pointer --lab my-lab",
    "autoresearch-mcp checkout --update my-lab-ada --lab my-lab              # take today's champion in",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("commit", metavar="COMMIT", nargs="?", default="champion", help="where the branch begins (default: the champion)")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="of the work tree (default: LAB-NAME beside the lab)")
    parser.add_argument("--author", metavar="NAME", help="whose branch it is: agents/NAME/...")
    parser.add_argument("--branch", metavar="NAME", help="the branch's last part (default: a number)")
    parser.add_argument("--update", metavar="FOLDER", type=Path, help="instead: merge today's champion into the branch of this work tree")
    parser.add_argument("--lab", dest="dir", metavar="DIR", type=Path, help="the lab (default: as for other commands)")


def run(arguments: argparse.Namespace) -> int:
    """Make a work tree, or bring one up to date.

    Returns:
        1 where the update left a conflict.
    """
    with contextlib.closing(Lab(existing_lab(arguments.dir))) as lab:
        if arguments.update is not None:
            return _update(lab, arguments.update.expanduser().absolute())
        if not arguments.author:
            raise LabError("Say whose work tree it is: --author NAME.", "bad_author")
        folder = (arguments.folder or _beside(lab.root, arguments.author)).expanduser().absolute()
        if folder.is_relative_to(lab.root):
            raise LabError(
                f"{folder} is in the lab itself, where it would look like a change of the owner's. Name one outside.", "bad_name"
            )
        branch = lab.check_out(arguments.commit, folder, arguments.author, arguments.branch)
    say(
        f"{folder} is on the branch {branch}. Edit there, `git commit`, then propose it: propose_patch(ref={branch!r}).",
        "The commit's message is the hypothesis, where the call has none.",
    )
    return 0


def _beside(root: Path, author: str) -> Path:
    """Return the first free folder beside the lab, named after lab and author."""
    name = f"{root.name}-{''.join(letter if letter.isalnum() or letter in '._-' else '-' for letter in author)}"
    free, n = root.with_name(name), 1
    while free.exists():
        n += 1
        free = root.with_name(f"{name}-{n}")
    return free


def _update(lab: Lab, folder: Path) -> int:
    clean, words = lab.take_in_champion(folder)
    if clean:
        say(f"{folder} holds today's champion.")
        return 0
    say(words, f"Mend the conflict in {folder}, then `git commit`. `git merge --abort` goes back.")
    return 1
