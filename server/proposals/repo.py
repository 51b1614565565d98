"""git for the lab: proposals become commits straight in the object store, and the champion moves by compare-and-swap.

Promises: never touches the user's work tree, index or HEAD once the lab is made; any number of threads and processes may use one lab at
once; objects and refs are fsynced before a call returns; no hook, filter or setting of the user, nor a GIT_* variable of the caller,
changes what is stored. Nothing here imports git before the first call.
"""

import contextlib
import difflib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import patch, source
from autoresearch_mcp.server.untrusted import clean
from autoresearch_mcp.trainer import files

EMAIL = "agent@autoresearch.invalid"
PROPOSALS = "refs/autoresearch/proposals"
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


class Entry(NamedTuple):
    mode: str
    kind: str
    id: str


@dataclass(frozen=True)
class Draft:
    """A commit in the object store that no ref holds yet: git may collect it after two weeks, unless `keep` is called."""

    commit: str
    base: str
    fingerprint: str
    files_changed: int
    insertions: int
    deletions: int
    stat: str


@dataclass(frozen=True)
class Conflict:
    """Why a change could not be put onto another commit: the files, and their text with git's conflict marks (capped)."""

    files: list[str]
    text: str


@dataclass(frozen=True)
class LogEntry:
    commit: str
    time: float
    author: str
    subject: str


class Repo:
    """The lab's repository.

    Args:
        root: the lab's directory, with `.git` in it.
        editable: the paths that proposals may touch: exact ones, or `dir/**`.
        branch: the branch that points to the champion.
    """

    def __init__(self, root: Path, editable: Sequence[str] = ("train.py",), branch: str = "research") -> None:
        self.root = root.absolute()
        self.editable = Editable(editable)
        self.branch = f"refs/heads/{branch}"
        self._dir = self.root / ".git"
        self._fingerprints: dict[str, str] = {}  # of the few commits that proposals start from

    @classmethod
    def create(cls, root: Path) -> "Repo":
        """A new, empty repository on branch `main` in the existing directory `root`; `commit_files` makes its first commit.

        Raises:
            LabError: `git_missing`, `disk_full`, `read_only`, `git_failed`.
        """
        repo = cls(root)
        repo._dir.mkdir()
        repo._git("init", "--quiet", "--template=", "--initial-branch=main", "--object-format=sha1")
        return repo

    @classmethod
    def clone(cls, existing: Path, root: Path) -> tuple["Repo", list[str]]:
        """A new repository in `root` with the history of HEAD of `existing` (bare or not), which is only read. With warnings for the user.

        Raises:
            LabError: `not_a_repository`, `no_commits`, `not_trusted`, and those of `create`.
        """
        existing = existing.absolute()
        repo = cls.create(root)
        repo._fetch(existing)
        head = repo._line("rev-parse", "--verify", "FETCH_HEAD^{commit}")
        (repo._dir / "FETCH_HEAD").unlink()
        repo._move("refs/heads/main", head)
        repo._move(repo.branch, head)
        repo._git("read-tree", "-m", "-u", "HEAD")
        return repo, _left_out(existing)

    def commit_files(self, files: Mapping[str, bytes], message: str) -> str:
        """Adds files to `main`, the champion and the work tree at once: how a lab is made. Not for proposals."""
        head = self._line("for-each-ref", "--format=%(objectname)", "refs/heads/main")
        entries = self._entries(head) if head else {}
        for path in files:
            self._check_place(entries, path)
        tree = self._plant(entries, {path: Entry("100644", "blob", self._store(data)) for path, data in files.items()})
        commit = self._commit(tree, [head] if head else [], message, "autoresearch-mcp")
        self._move("refs/heads/main", commit)
        self._move(self.branch, commit)
        self._git("read-tree", "-m", "-u", *([head] if head else []), commit)
        return commit

    def champion(self) -> str:
        """The full id of the commit that the research branch points to.

        Raises:
            LabError: `no_champion`, `not_a_lab`.
        """
        # Every call asks for the champion: a loose ref, the usual case, is read without starting git (5 ms).
        with contextlib.suppress(OSError, ValueError):
            loose = (self._dir / self.branch).read_text(encoding="ascii").strip()
            if re.fullmatch(r"[0-9a-f]{40,64}", loose):
                return loose
        commit = self._line("for-each-ref", "--format=%(objectname)", self.branch)
        if not commit:
            name = self.branch.removeprefix("refs/heads/")
            raise LabError(f"The branch {name} of {self.root} is missing. Restore it: `git branch {name} COMMIT`.", "no_champion")
        return commit

    def resolve(self, text: str) -> str:
        """The full id of the commit that `text` names: `champion`, a full id, or at least 7 of its first characters.

        Raises:
            LabError: `unknown_commit`.
        """
        text = text.strip().lower()
        if text == "champion":
            return self.champion()
        if not re.fullmatch(r"[0-9a-f]{7,64}", text):
            raise LabError(
                f"{text[:80]!r} is not a commit. Give 'champion', a commit's full id, or at least 7 characters of it.", "unknown_commit"
            )
        ids = [text] if len(text) >= 40 else self._git("rev-parse", f"--disambiguate={text}").decode().split()
        checked = self._git("cat-file", "--batch-check", stdin="".join(f"{id}\n" for id in ids).encode()).decode().splitlines()
        commits = [line.split()[0] for line in checked if line.split()[1] == "commit"]
        if len(commits) != 1:
            found = f"names {len(commits)} commits: {', '.join(commits[:5])}" if commits else "is not a commit of this lab"
            raise LabError(f"{text} {found}. Commits are listed by query_experiments and get_status.", "unknown_commit")
        return commits[0]

    def paths(self, commit: str) -> list[str]:
        """All files at a commit."""
        return [path.encode("utf-8", "replace").decode() for path, entry in self._entries(commit).items() if entry.kind != "tree"]

    def read(self, commit: str, path: str) -> bytes:
        """A file at a commit.

        Raises:
            LabError: `no_such_file`, with the names most like it.
        """
        entries = self._entries(commit)
        entry = entries.get(path)
        if entry is None or not _is_file(entry):
            like = difflib.get_close_matches(
                path[:200], [name for name, other in entries.items() if _is_file(other)][:5_000], n=3, cutoff=0.4
            )
            hint = f" Did you mean {', '.join(like)}?" if like else ""
            raise LabError(f"There is no file {path[:200]!r} at commit {commit[:12]}.{hint}", "no_such_file")
        return self._git("cat-file", "blob", entry.id)

    def fingerprint(self, commit: str) -> str:
        """A hash of the editable files at a commit, equal for code that differs in comments and layout only."""
        if commit not in self._fingerprints:
            self._fingerprints[commit] = source.fingerprint(self._editable_files(self._entries(commit)))
        return self._fingerprints[commit]

    def editable_files(self, commit: str) -> dict[str, bytes]:
        """The editable files at a commit, by path: what a training runs."""
        return self._editable_files(self._entries(commit))

    def other_files(self, commit: str, patterns: Sequence[str]) -> dict[str, bytes]:
        """Files at a commit that are not editable and that these patterns name, by path."""
        wanted = Editable(patterns)
        return self._files({path: e for path, e in self._entries(commit).items() if path in wanted and path not in self.editable})

    def check(self, commit: str) -> None:
        """Refuse a commit whose editable files could not run, such as one that was made by hand.

        Raises:
            LabError: those of `source.check`.
        """
        entries = self._entries(commit)
        for path, data in self._editable_files(entries).items():
            source.check(path, data, _modules(entries))

    def merge_base(self, one: str, other: str) -> str:
        """The latest commit that both have in their history.

        Raises:
            LabError: `unrelated`.
        """
        fork = self._line("merge-base", one, other, allow=(0, 1))
        if not fork:
            raise LabError(
                f"{one[:12]} and {other[:12]} have no history in common, so the change cannot be moved. Propose it anew.", "unrelated"
            )
        return fork

    def is_ancestor(self, commit: str, of: str) -> bool:
        """Whether `commit` is `of` or in its history."""
        return self._line("merge-base", commit, of, allow=(0, 1)) == commit

    def diff(self, base: str, commit: str) -> str:
        """The unified diff from one commit to another; binary files as one line."""
        data = self._git("diff-tree", "-p", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", base, commit)
        return data.decode("utf-8", "replace")

    def log(self, limit: int = 50) -> list[LogEntry]:
        """The latest commits of the champion's branch, newest first."""
        data = self._git("log", "-z", "--first-parent", f"--max-count={limit}", "--format=%H%x1f%at%x1f%an%x1f%s", self.champion())
        fields = (line.split("\x1f", 3) for line in data.decode("utf-8", "replace").rstrip("\0").split("\0"))
        return [LogEntry(commit, float(at), author, subject) for commit, at, author, subject in fields]

    def build(
        self,
        base: str,
        message: str,
        author: str,
        *,
        diff: str | None = None,
        edits: Sequence[Mapping[str, str]] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Draft:
        """A commit on `base` (a full id) with the change, given in exactly one form (see `patch.apply`); `message` is the hypothesis.

        Raises:
            LabError: those of `patch.apply`, `source.check` and `source.encode`, and `no_change`.
        """
        entries = self._entries(base)
        old = self._editable_files(entries)

        def read(path: str) -> str | None:
            self._check_place(entries, path)
            return source.decode(path, old[path]) if path in old else None

        texts = patch.apply(read, self.editable, diff, edits, files)
        new = {path: source.encode(path, text) for path, text in texts.items()}
        return self._draft(base, entries, old, {path: data for path, data in new.items() if data != old.get(path)}, message, author)

    def rebase(self, commit: str, onto: str, message: str, author: str) -> Draft | Conflict:
        """The change of `commit` since it left the line of `onto`, as one commit on `onto`, merged file by file.

        Raises:
            LabError: `no_change` where `onto` has it already; `unrelated`; those of `source.check`.
        """
        fork = self.merge_base(commit, onto)
        entries = self._entries(onto)
        before, theirs, ours = (self._editable_files(self._entries(c) if c != onto else entries) for c in (fork, commit, onto))
        changed: dict[str, bytes] = {}
        conflicts: dict[str, str] = {}
        for path in sorted(path for path in theirs if theirs[path] != before.get(path)):
            self._check_place(entries, path)
            merged, clean = self._merge(ours.get(path, b""), before.get(path, b""), theirs[path])
            if not clean:
                conflicts[path] = merged.decode("utf-8", "replace")
            elif merged != ours.get(path):
                changed[path] = merged
        if conflicts:
            return Conflict(list(conflicts), "\n".join(f"{path}:\n{_conflict_lines(text)}" for path, text in conflicts.items()))
        return self._draft(onto, entries, ours, changed, message, author)

    def transplant(self, commit: str, onto: str, message: str, author: str) -> str:
        """A commit on `onto` whose editable files are those of `commit`, whatever `onto` has there. Returns its full id."""
        entries = self._entries(onto)
        old, new = self._editable_files(entries), self.editable_files(commit)
        for path in new:
            self._check_place(entries, path)
        gone = old.keys() - new.keys()
        kept = {
            path: entry._replace(id="") if any(other.startswith(f"{path}/") for other in gone) else entry  # no id: built anew
            for path, entry in entries.items()
            if path not in gone
        }
        blobs = {path: Entry(entries[path].mode if path in entries else "100644", "blob", self._store(data)) for path, data in new.items()}
        return self._commit(self._plant(kept, blobs), [onto], message, author)

    def keep(self, commit: str) -> None:
        """Holds a proposal's commit by a ref, so that git never collects it. Idempotent."""
        self._move(f"{PROPOSALS}/{commit}", commit)

    def advance(self, expected: str, new: str) -> None:
        """Moves the champion from `expected` to `new`, both full ids, or not at all.

        Raises:
            LabError: `champion_moved` where it is not at `expected`.
        """
        try:
            self._move(self.branch, new, expected)
        except LabError:
            if (now := self.champion()) != expected:
                raise LabError(
                    f"The champion moved meanwhile: it is {now[:12]}, not {expected[:12]}. Nothing was changed.", "champion_moved"
                ) from None
            raise

    def _draft(
        self, base: str, entries: Mapping[str, Entry], old: Mapping[str, bytes], changed: Mapping[str, bytes], message: str, author: str
    ) -> Draft:
        if not changed:
            raise LabError(f"The change leaves every file as it is at {base[:12]}. Nothing was kept.", "no_change")
        modules = _modules(entries) | _modules(changed)
        for path, data in changed.items():
            source.check(path, data, modules)
        blobs = {
            path: Entry(entries[path].mode if path in entries else "100644", "blob", self._store(data)) for path, data in changed.items()
        }
        commit = self._commit(self._plant(entries, blobs), [base], message, author)
        counts = self._git("diff-tree", "-r", "-z", "--numstat", "--no-renames", base, commit).decode("utf-8", "replace").rstrip("\0")
        lines = [line.split("\t", 2) for line in counts.split("\0")]
        return Draft(
            commit=commit,
            base=base,
            fingerprint=source.fingerprint({**old, **changed}),
            files_changed=len(lines),
            insertions=sum(int(added) for added, _, _ in lines if added != "-"),
            deletions=sum(int(gone) for _, gone, _ in lines if gone != "-"),
            stat="\n".join(f"{path} | +{added} -{gone}" for added, gone, path in lines),
        )

    def _entries(self, commit: str) -> dict[str, Entry]:
        """Everything in a commit's tree by path, folders too. Bytes that are not UTF-8 become lone surrogates, as in `os.fsdecode`."""
        entries = {}
        for line in self._git("ls-tree", "-r", "-t", "-z", commit).split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            entries[path.decode("utf-8", "surrogateescape")] = Entry(*head.decode().split())
        return entries

    def _editable_files(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
        return self._files({path: entry for path, entry in entries.items() if path in self.editable})

    def _files(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
        wanted = {path: entry.id for path, entry in entries.items() if _is_file(entry)}
        data = self._git("cat-file", "--batch", stdin="".join(f"{id}\n" for id in wanted.values()).encode()) if wanted else b""
        files, at = {}, 0
        for path in wanted:
            head = data.index(b"\n", at)
            size = int(data[at:head].split()[2])
            files[path] = data[head + 1 : head + 1 + size]
            at = head + size + 2
        return files

    def _check_place(self, entries: Mapping[str, Entry], path: str) -> None:
        """Refuses a path that is, or goes through, something other than folders and a regular file."""
        entry = entries.get(path)
        folders = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
        if (entry and not _is_file(entry)) or any(entries[folder].kind != "tree" for folder in folders if folder in entries):
            raise LabError(
                f"{path} is not a regular file at this commit (a link, folder or submodule is in the way), so it cannot be edited.",
                "not_editable",
            )

    def _store(self, data: bytes) -> str:
        return self._line("hash-object", "-w", "--stdin", "--no-filters", stdin=data)

    def _plant(self, entries: Mapping[str, Entry], blobs: Mapping[str, Entry], folder: str = "") -> str:
        """Stores the tree of `folder` (empty, or ending in a slash) with `blobs` put in place, and answers with its id."""
        names = {
            path[len(folder) :]: entry for path, entry in entries.items() if path.startswith(folder) and "/" not in path[len(folder) :]
        }
        for path, entry in blobs.items():
            if path.startswith(folder):
                name, slash, _ = path[len(folder) :].partition("/")
                names[name] = Entry("040000", "tree", "") if slash else entry
        for name, entry in names.items():
            if not entry.id:
                names[name] = entry._replace(id=self._plant(entries, blobs, f"{folder}{name}/"))
        lines = (f"{entry.mode} {entry.kind} {entry.id}\t{name}\0" for name, entry in names.items())
        return self._line("mktree", "-z", stdin="".join(lines).encode("utf-8", "surrogateescape"))

    def _commit(self, tree: str, parents: Iterable[str], message: str, author: str) -> str:
        parts = [part for parent in parents for part in ("-p", parent)]
        commit = self._line("commit-tree", tree, *parts, "-F", "-", stdin=_message(message, author), env=_identity(author))
        for id in (commit, tree):
            _sync_folder(self._dir / "objects" / id[:2])
        return commit

    def _merge(self, ours: bytes, before: bytes, theirs: bytes) -> tuple[bytes, bool]:
        with tempfile.TemporaryDirectory(prefix="autoresearch-") as folder:
            names = [Path(folder, name) for name in ("champion", "base", "proposal")]
            for name, data in zip(names, (ours, before, theirs), strict=True):
                name.write_bytes(data)
            labels = [part for name in names for part in ("-L", name.name)]
            conflicts, merged, err = self._run("merge-file", "-p", "--quiet", *labels, *map(str, names))
        if conflicts > 127:
            raise _failure("merge-file", err)
        return merged, conflicts == 0

    def _move(self, ref: str, new: str, expected: str | None = None) -> None:
        env = _identity("autoresearch-mcp")
        self._git("update-ref", "-m", "autoresearch-mcp", ref, new, *([expected] if expected else []), env=env)
        _sync_folder((self._dir / ref).parent)

    def _fetch(self, existing: Path) -> None:
        """Gets HEAD of another repository, which git may refuse to trust: that is the user's setting, so it counts here."""
        try:
            trust = {"GIT_CONFIG_GLOBAL": None, "GIT_CONFIG_NOSYSTEM": None}
            self._git("fetch", "--quiet", "--no-tags", "--update-shallow", str(existing), "HEAD", env=trust)
        except LabError as error:
            if "couldn't find remote ref HEAD" in str(error):
                raise LabError(f"{existing} has no commit yet. Commit its files, then try again.", "no_commits") from None
            if "does not appear to be a git repository" in str(error):
                raise LabError(
                    f"{existing} is not a git repository (give its top directory). Nothing was made.", "not_a_repository"
                ) from None
            raise

    def _line(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None, allow: Sequence[int] = (0,)) -> str:
        return self._git(*args, stdin=stdin, env=env, allow=allow).decode("ascii").strip()

    def _git(
        self, *args: str, stdin: bytes | None = None, env: Mapping[str, str | None] | None = None, allow: Sequence[int] = (0,)
    ) -> bytes:
        """What a git command wrote to stdout.

        Raises:
            LabError: `git_missing`, `not_a_lab`, `disk_full`, `read_only`, `not_trusted`, `git_failed`.
        """
        status, out, err = self._run(*args, stdin=stdin, env=env)
        if status not in allow:
            raise _failure(args[0], err)
        return out

    def _run(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str | None] | None = None) -> tuple[int, bytes, str]:
        if not self._dir.is_dir():
            raise LabError(f"{self.root} is not a lab: it has no git repository. Make a lab with `autoresearch-mcp init DIR`.", "not_a_lab")
        git = _import_git()
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
            raise _failure(args[0], str(error.strerror)) from None
        return status, out, err

    def _environment(self) -> dict[str, str | None]:
        """Where git shall look, whatever the caller's environment and the user's settings say."""
        config = {
            f"GIT_CONFIG_{part}_{n}": text
            for n, item in enumerate(_CONFIG.items())
            for part, text in zip(("KEY", "VALUE"), item, strict=True)
        }
        return {
            "GIT_DIR": str(self._dir),
            "GIT_COMMON_DIR": str(self._dir),
            "GIT_WORK_TREE": str(self.root),
            "GIT_INDEX_FILE": str(self._dir / "index"),
            "GIT_OBJECT_DIRECTORY": str(self._dir / "objects"),
            "GIT_SHALLOW_FILE": str(self._dir / "shallow"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
            "GIT_NAMESPACE": "",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_PARAMETERS": "",
            "GIT_CONFIG_COUNT": str(len(_CONFIG)),
            **config,
        }


_GIT_MISSING = "git was not found. Install it (https://git-scm.com), or put it on PATH, then try again."


def _import_git() -> ModuleType:
    try:
        import git
    except ImportError as error:
        if "executable" in str(error):
            raise LabError(_GIT_MISSING, "git_missing") from None
        raise LabError("The package GitPython is missing. Install it with `pip install gitpython`.", "package_missing") from None
    return git


def _left_out(existing: Path) -> list[str]:
    """A warning for what a clone of `existing` does not hold, found without touching its index."""
    git = _import_git()
    try:
        repo = git.Repo(existing, expand_vars=False)
        repo.git.update_environment(GIT_OPTIONAL_LOCKS="0")
        changes = 0 if repo.bare else len(repo.git.status("--porcelain").splitlines())
    except git.GitError:
        return []
    return [f"{changes} uncommitted change(s) in {existing} were left out: the lab starts from the last commit."] if changes else []


def _failure(command: str, stderr: str) -> LabError:
    for mark, code, sentence in _REASONS:
        if mark in stderr:
            return LabError(f"{sentence} (git {command}: {_last_line(stderr)})", code)
    return LabError(f"git {command} failed: {_last_line(stderr)}", "git_failed")


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))] or [stderr.strip()]
    return " ".join(lines)[:400] or "no reason was given"


def _is_file(entry: Entry) -> bool:
    return entry.mode in ("100644", "100755")


def _modules(paths: Iterable[str]) -> set[str]:
    """Names that files could be imported by, from whichever folder."""
    return {part.removesuffix(".py") for path in paths for part in path.split("/")}


def _conflict_lines(text: str, cap: int = 4_000) -> str:
    """The conflicts of a merged text, from mark to mark, each with its line number."""
    out, inside = [], False
    for number, line in enumerate(text.split("\n"), 1):
        inside = inside or line.startswith("<<<<<<< ")
        if inside:
            out.append(f"{number:5} | {line[:160]}")
        inside = inside and not line.startswith(">>>>>>> ")
    return "\n".join(out)[:cap]


def _name(author: str) -> str:
    return " ".join(re.sub(r"[<>]", "", clean(author)).split())[:64].strip(" .,:;\"'\\") or "agent"


def _identity(author: str) -> dict[str, str]:
    now = f"{int(time.time())} +0000"
    who = {"NAME": _name(author), "EMAIL": EMAIL, "DATE": now}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}


def _message(text: str, author: str) -> bytes:
    """A hypothesis as a commit message: subject, body, our trailers. Lines of the body that git could take for a trailer are indented."""
    subject, _, body = clean(text).replace("\t", " ").strip().partition("\n")
    if len(subject) > 100:
        cut = subject.rfind(" ", 40, 97)
        cut = cut if cut > 0 else 97
        subject, body = f"{subject[:cut]}...", f"...{subject[cut:]}\n{body}"
    lines = [f"  {line}" if re.match(r"[\w-]+\s*[:=]|-{3}|\(cherry", line) else line for line in body.strip().split("\n")]
    parts = [subject or "(no hypothesis)", "\n".join(lines), f"Autoresearch-Author: {_name(author)}"]
    return ("\n\n".join(part for part in parts if part) + "\n").encode("utf-8")


def _sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, as git does for files only. A folder may be gone: packed."""
    with contextlib.suppress(FileNotFoundError):
        files.sync(folder)
