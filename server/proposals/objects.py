"""Reads and writes files, trees and commits in git's object store, without a work tree or an index."""

import contextlib
import posixpath
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.keeping import keep
from autoresearch_mcp.server.proposals.git import Git, failure
from autoresearch_mcp.server.proposals.message import commit_message, identity
from autoresearch_mcp.trainer import files

_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TREES, _MOST_ENTRIES = 16, 2_000  # commits whose trees are kept, and how large one may be
_BLOBS, _SMALL = 64, 128 << 10  # files that are kept, and bytes of one
_LINKS = 8  # that are followed, one to the next


T = TypeVar("T")


class Entry(NamedTuple):
    """An entry of a tree: git's mode, the kind of object, and its id."""

    mode: str
    kind: str
    id: str

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode in ("100644", "100755")


class Objects:
    """The object store of a repository. A method returns once its objects are on the disk.

    Raises:
        LabError: from every method, those of `Git.output`.
    """

    def __init__(self, git: Git) -> None:
        self._git = git
        self._trees: dict[str, dict[str, Entry]] = {}  # of the last commits: many proposals go on one, and an object never changes
        self._blobs: dict[str, bytes] = {}  # of the last small files

    def entries(self, commit: str) -> dict[str, Entry]:
        """Return everything in a commit's tree by path, folders too.

        Bytes of a path that are not UTF-8 become lone surrogates, as in `os.fsdecode`.
        """
        if (known := self._trees.get(commit)) is not None:
            return {**known}
        entries = {}
        for line in self._git.output("ls-tree", "-r", "-t", "-z", commit).split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            entries[path.decode("utf-8", "surrogateescape")] = Entry(*head.decode().split())
        if _ID.fullmatch(commit) and len(entries) <= _MOST_ENTRIES:
            keep(self._trees, commit, {**entries}, _TREES)
        return entries

    def sizes(self, commit: str) -> dict[str, int]:
        """Return the bytes of each file in a commit's tree, by path."""
        sizes = {}
        for line in self._git.output("ls-tree", "-r", "-l", "-z", commit).split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            if (size := head.split()[3]) != b"-":  # a submodule has none
                sizes[path.decode("utf-8", "surrogateescape")] = int(size)
        return sizes

    def read(self, entry: Entry) -> bytes:
        """Return the content of a file."""
        if (known := self._blobs.get(entry.id)) is not None:
            return known
        data = self._git.output("cat-file", "blob", entry.id)
        if len(data) <= _SMALL:
            keep(self._blobs, entry.id, data, _BLOBS)
        return data

    def read_all(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
        """Return the content of those entries that are regular files, by path."""
        return self._contents({path: entry.id for path, entry in entries.items() if entry.is_file})

    def _contents(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        known = {id: data for id in {*wanted.values()} if (data := self._blobs.get(id)) is not None}
        missing = list(dict.fromkeys(id for id in wanted.values() if id not in known))
        data = self._git.output("cat-file", "--batch", stdin="".join(f"{id}\n" for id in missing).encode()) if missing else b""
        at = 0
        for id in missing:
            head = data.index(b"\n", at)
            size = int(data[at:head].split()[2])
            known[id] = content = data[head + 1 : head + 1 + size]
            at = head + size + 2
            if size <= _SMALL:
                keep(self._blobs, id, content, _BLOBS)
        return {path: known[id] for path, id in wanted.items()}

    def others(self, entries: Mapping[str, Entry], wanted: Editable, editable: Editable) -> dict[str, Entry]:
        """Return what patterns name beside what is editable, by path, and the files that links among either stand for."""
        named = {path: entry for path, entry in entries.items() if path in wanted and path not in editable}
        linked, _ = self.through_links(entries)
        return named | {path: each for path, each in linked.items() if any(at in wanted or at in editable for at in upwards(path))}

    def through_links(self, entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], dict[str, str]]:
        """Follow the links of a tree to what they stand for.

        Returns:
            The files that links lead to, by the paths that the links give them; and the links that lead to none of the tree, with where.
        """
        links = {path: entry.id for path, entry in entries.items() if entry.mode == "120000"}
        if not links:
            return {}, {}
        to = {path: text.decode("utf-8", "surrogateescape") for path, text in self._contents(links).items()}
        files, idle = dict[str, Entry](), dict[str, str]()
        for path in links:
            place = path
            for _ in range(_LINKS):
                part = next((part for part in upwards(place) if part in to), "")
                if not part or to[part].startswith("/"):
                    break
                place = posixpath.normpath(posixpath.join(posixpath.dirname(part), to[part], place[len(part) + 1 :]))
            found = {path + other[len(place) :]: entry for other, entry in entries.items() if f"{other}/".startswith(f"{place}/")}
            found = {name: entry for name, entry in found.items() if entry.is_file}
            files |= found
            if not found:
                idle[path] = to[path]
        return files, idle

    def store(self, contents: Mapping[str, bytes], like: Mapping[str, Entry]) -> dict[str, Entry]:
        """Store files, by path. Each keeps the mode that it has in `like`, else it is not executable."""
        return {path: Entry(like[path].mode if path in like else "100644", "blob", self._store(data)) for path, data in contents.items()}

    def write_tree(self, entries: Mapping[str, Entry], changed: Mapping[str, Entry], folder: str = "") -> str:
        """Store the tree of a folder.

        Args:
            entries: the whole tree to start from. An entry without an id is a folder that is built anew.
            changed: files to put in place, by path.
            folder: empty, or ending in a slash.

        Returns:
            The tree's id.
        """
        names = {
            path[len(folder) :]: entry for path, entry in entries.items() if path.startswith(folder) and "/" not in path[len(folder) :]
        }
        for path, entry in changed.items():
            if path.startswith(folder):
                name, slash, _ = path[len(folder) :].partition("/")
                names[name] = Entry("040000", "tree", "") if slash else entry
        for name, entry in names.items():
            if not entry.id:
                names[name] = entry._replace(id=self.write_tree(entries, changed, f"{folder}{name}/"))
        lines = (f"{entry.mode} {entry.kind} {entry.id}\t{name}\0" for name, entry in names.items())
        return self._git.line("mktree", "-z", stdin="".join(lines).encode("utf-8", "surrogateescape"))

    def commit(self, tree: str, parents: Iterable[str], message: str, author: str) -> str:
        """Store a commit and return its id. No ref holds it yet.

        Args:
            tree: the id of its tree.
            parents: ids of commits.
            message: becomes the commit's message, and is cleaned.
            author: signs it, and is cleaned.
        """
        parts = [part for parent in parents for part in ("-p", parent)]
        commit = self._git.line("commit-tree", tree, *parts, "-F", "-", stdin=commit_message(message, author), env=identity(author))
        for id in (commit, tree):
            sync_folder(self._git.directory / "objects" / id[:2])
        return commit

    def merge(self, ours: bytes, before: bytes, theirs: bytes) -> tuple[bytes, bool]:
        """Merge two changes of one text line by line.

        Returns:
            The merged text, with git's conflict marks where it has to have them, and whether there are none.
        """
        with tempfile.TemporaryDirectory(prefix="autoresearch-") as folder:
            names = [Path(folder, name) for name in ("champion", "base", "proposal")]
            for name, data in zip(names, (ours, before, theirs), strict=True):
                name.write_bytes(data)
            labels = [part for name in names for part in ("-L", name.name)]
            conflicts, merged, err = self._git.run("merge-file", "-p", "--quiet", *labels, *map(str, names))
        if conflicts > 127:
            raise failure("merge-file", err)
        return merged, conflicts == 0

    def _store(self, data: bytes) -> str:
        return self._git.line("hash-object", "-w", "--stdin", "--no-filters", stdin=data)


def upwards(path: str) -> list[str]:
    """Return the folders that a path lies in, outermost first, and itself."""
    parts = path.split("/")
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def without(entries: Mapping[str, Entry], gone: Collection[str]) -> dict[str, Entry]:
    """Return a tree's entries without some files, and without the folders that hold nothing then. What held them is built anew."""
    kept = {path for path, entry in entries.items() if entry.kind != "tree" and path not in gone}
    folders = {"/".join(path.split("/")[:n]) for path in kept for n in range(1, path.count("/") + 1)}
    return {
        path: entry._replace(id="") if entry.kind == "tree" and any(other.startswith(f"{path}/") for other in gone) else entry
        for path, entry in entries.items()
        if path in kept or path in folders
    }


def check_place(entries: Mapping[str, Entry], path: str) -> None:
    """Refuse a path that can't be a file of this tree.

    Raises:
        LabError: `not_editable`.
    """
    if is_blocked(entries, path):
        raise LabError(
            f"{path} is not a regular file at this commit (a link, folder or submodule is in the way), so it cannot be edited.",
            "not_editable",
        )


def is_blocked(entries: Mapping[str, Entry], path: str) -> bool:
    """Return whether a path is, or goes through, something other than folders and a regular file."""
    entry = entries.get(path)
    folders = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
    return (entry is not None and not entry.is_file) or any(entries[folder].kind != "tree" for folder in folders if folder in entries)


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk, as git does for files only. A folder may be gone: packed."""
    with contextlib.suppress(FileNotFoundError):
        files.sync(folder)
