"""Runs git in one repository, whatever the caller's environment and the user's settings say.

Promises: no hook, filter or setting of the user, and no GIT_* variable of the caller, changes what is stored; objects and refs are
fsynced before a command returns. Nothing here imports GitPython before the first command.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from autoresearch_mcp.server.errors import LabError

_CONFIG = {
    "core.fsync": "committed,loose-object,reference",  # 0.5 ms a write more than git's default
    "core.hooksPath": os.devnull,
    "core.filesRefLockTimeout": "10000",  # milliseconds
    "core.packedRefsTimeout": "10000",
    "core.quotePath": "false",
}
_REASONS = (
    ("No space left on device", "disk_full", "The disk is full. Make room and try again; nothing half done is kept."),
    ("Disk quota exceeded", "disk_full", "The disk quota is used up. Make room and try again; nothing half done is kept."),
    ("Read-only file system", "read_only", "The lab is on a read-only disk. Move it to one that can be written."),
    ("ermission", "read_only", "This user may not write to the lab's repository. Correct the owner or the permissions of its .git."),
    (
        "dubious ownership",
        "not_trusted",
        "The repository belongs to another user; trust it with `git config --global --add safe.directory PATH`.",
    ),
)
_LOCK = re.compile(r"Unable to create '([^'\n]+\.lock)': File exists")
_GIT_MISSING = "git was not found. Install it (https://git-scm.com), or put it on PATH, then try again."


class Git:
    """The git commands of one repository. Thread-safe.

    Args:
        root: the work tree, with `.git` in it.
        incoming: a folder with the objects of a push that isn't accepted yet. They can be read besides the repository's own.

    Attributes:
        directory: the repository's own folder.
    """

    def __init__(self, root: Path, incoming: Path | None = None) -> None:
        self.root = root
        self.directory = root / ".git"
        self._incoming = incoming

    def output(
        self, *args: str, stdin: bytes | None = None, env: Mapping[str, str | None] | None = None, allow: Sequence[int] = (0,)
    ) -> bytes:
        """Run a command and return what it wrote to stdout.

        Args:
            args: the command's name and its arguments.
            stdin: what the command reads.
            env: variables that differ from the usual ones; None unsets one.
            allow: exit statuses that are no fault.

        Raises:
            LabError: `git_missing`, `not_a_lab`, `disk_full`, `read_only`, `not_trusted`, `locked`, `git_failed`.
        """
        status, out, err = self.run(*args, stdin=stdin, env=env)
        if status not in allow:
            raise failure(args[0], err)
        return out

    def line(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None, allow: Sequence[int] = (0,)) -> str:
        """Run a command and return its one line of ASCII, such as an object's id. Takes and raises what `output` does."""
        return self.output(*args, stdin=stdin, env=env, allow=allow).decode("ascii").strip()

    def ref(self, name: str) -> str:
        """Return the full id of the commit that a ref names, or nothing where there is no such ref.

        Raises:
            LabError: those of `output`.
        """
        # Every call asks for the champion: a loose ref, the usual case, is read without starting git (5 ms), in three calls of the system.
        with contextlib.suppress(OSError):
            file = os.open(self.directory / name, os.O_RDONLY)
            try:
                loose = os.read(file, 80)
            finally:
                os.close(file)
            if re.fullmatch(rb"[0-9a-f]{40,64}\s*", loose):
                return loose.decode("ascii").strip()
        return self.line("for-each-ref", "--format=%(objectname)", name)

    def run(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str | None] | None = None) -> tuple[int, bytes, str]:
        """Run a command to its end, whatever comes of it.

        Returns:
            Its exit status, its stdout and its stderr.

        Raises:
            LabError: `not_a_lab`, `git_missing`, or for a command that could not be started at all.
        """
        if not self.directory.is_dir():
            raise LabError(f"{self.root} is not a lab: it has no git repository. Make a lab with `autoresearch-mcp init DIR`.", "not_a_lab")
        git = import_git()
        try:
            with tempfile.TemporaryFile() as file:
                file.write(stdin or b"")
                file.seek(0)
                status, out, err = git.Git(str(self.root)).execute(
                    [git.Git.GIT_PYTHON_GIT_EXECUTABLE, *args],
                    istream=file,
                    env={name: value for name, value in {**self._environment(), **(env or {})}.items() if value is not None},
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                )
        except git.GitCommandNotFound:
            raise LabError(_GIT_MISSING, "git_missing") from None
        except OSError as error:
            raise failure(args[0], str(error.strerror)) from None
        return status, out, err

    def _environment(self) -> dict[str, str | None]:
        """Return the variables that say where git looks and what it obeys."""
        objects = self.directory / "objects"
        return {
            "GIT_DIR": str(self.directory),
            "GIT_COMMON_DIR": str(self.directory),
            "GIT_WORK_TREE": str(self.root),
            "GIT_INDEX_FILE": str(self.directory / "index"),
            "GIT_OBJECT_DIRECTORY": str(self._incoming or objects),
            "GIT_SHALLOW_FILE": str(self.directory / "shallow"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects) if self._incoming else "",
            "GIT_NAMESPACE": "",
            **obeying(),
        }


def obeying(*settings: tuple[str, str]) -> dict[str, str]:
    """Return the variables by which git obeys our settings and the repository's, not those of the user or the caller.

    Args:
        settings: more of ours, which go before the repository's.
    """
    pairs = enumerate([*_CONFIG.items(), *settings])
    config = {f"GIT_CONFIG_{part}_{n}": text for n, pair in pairs for part, text in zip(("KEY", "VALUE"), pair, strict=True)}
    return {
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_PARAMETERS": "",
        "GIT_CONFIG_COUNT": str(len(config) // 2),
        **config,
    }


def import_git() -> ModuleType:
    """Return the package GitPython.

    Raises:
        LabError: `git_missing`, `package_missing`.
    """
    try:
        import git
    except ImportError as error:
        if "executable" in str(error):
            raise LabError(_GIT_MISSING, "git_missing") from None
        raise LabError("The package GitPython is missing. Install it with `pip install gitpython`.", "package_missing") from None
    return git


def failure(command: str, stderr: str) -> LabError:
    """Return the error for a git command that failed, with git's own reason and what to do about it."""
    if lock := _LOCK.search(stderr):
        return LabError(
            f"Another git process works in this repository, or one died and left its lock behind: if none runs, delete {lock[1]} and try "
            "again. Nothing was changed.",
            "locked",
        )
    for mark, code, sentence in _REASONS:
        if mark in stderr:
            return LabError(f"{sentence} (git {command}: {_last_line(stderr)})", code)
    return LabError(f"git {command} failed: {_last_line(stderr)}", "git_failed")


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))] or [stderr.strip()]
    return " ".join(lines)[:400] or "no reason was given"
