"""Builds commits from changes: of an agent's patch, of a rebase onto a moved champion, of another commit's whole code."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.keeping import keep
from autoresearch_mcp.server.proposals import patch, source
from autoresearch_mcp.server.proposals.examining import Question, examined
from autoresearch_mcp.server.proposals.git import Git
from autoresearch_mcp.server.proposals.objects import Entry, Objects, check_place, without

_MOST_CONFLICT_CHARS = 4_000
_SOUND = 4_096  # files of commits that are known to run as far as a check tells


@dataclass(frozen=True)
class DiffStat:
    """How much a commit changes, in numbers and as text: a line for each file."""

    files_changed: int
    insertions: int
    deletions: int
    text: str


@dataclass(frozen=True)
class Draft:
    """A commit in the object store that no ref holds yet: git may collect it after two weeks, unless `Repo.keep` is called."""

    commit: str
    base: str
    fingerprint: str
    canonical: str
    files_changed: int
    insertions: int
    deletions: int
    stat: str
    added: int  # bytes of new information beyond the lab's first source: see `growth`
    notes: tuple[str, ...] = ()  # what of the patch was forgiven, in sentences
    sound: tuple[str, ...] = ()  # of the changed paths, those that could run whatever their base was


@dataclass(frozen=True)
class Conflict:
    """Why a change could not be put onto another commit: the files, and their text with git's conflict marks (capped)."""

    files: list[str]
    text: str


class Drafts:
    """Makes commits that change editable files only.

    Args:
        git: of the lab's repository.
        objects: its object store.
        editable: the paths that may change.
        first: names the commit with the lab's first source, beyond which growth counts; None if nothing does.
        judges_imports: returns whether a module that nobody can find is a fault.
    """

    def __init__(
        self, git: Git, objects: Objects, editable: Editable, first: Callable[[], str | None], judges_imports: Callable[[], bool]
    ) -> None:
        self._judges_imports = judges_imports
        self._first = first
        self._git = git
        self._objects = objects
        self._editable = editable
        self._sound: dict[str, None] = {}  # so that launches parse the file of a commit once

    def build(self, base: str, message: str, author: str, change: patch.Change) -> Draft:
        """Commit a change on `base`. See `Repo.build`."""
        entries = self._objects.entries(base)
        old = self.editable_files(entries)

        def read(path: str) -> str | None:
            check_place(entries, path)
            return source.decode(path, old[path]) if path in old else None

        texts, notes = patch.apply(read, self._editable, *change)
        new = {path: None if text is None else source.encode(path, text) for path, text in texts.items()}
        draft = self._draft(base, entries, old, {path: data for path, data in new.items() if data != old.get(path)}, message, author)
        return replace(draft, notes=tuple(notes))

    def rebase(self, commit: str, fork: str, onto: str, message: str, author: str) -> Draft | Conflict:
        """Commit on `onto` what changed from `fork` to `commit`, merged file by file. See `Repo.rebase`."""
        entries = self._objects.entries(onto)
        before, theirs, ours = (self.editable_files(self._objects.entries(c) if c != onto else entries) for c in (fork, commit, onto))
        changed: dict[str, bytes | None] = {}
        conflicts: dict[str, str] = {}
        for path in sorted((before.keys() - theirs.keys()) & ours.keys()):
            if ours[path] == before[path]:
                changed[path] = None
            else:
                conflicts[path] = "<<<<<<< champion\nchanged it\n=======\ndeleted it\n>>>>>>> proposal"
        for path in sorted(path for path in theirs if theirs[path] != before.get(path)):
            check_place(entries, path)
            merged, is_clean = self._objects.merge(ours.get(path, b""), before.get(path, b""), theirs[path])
            if not is_clean:
                conflicts[path] = merged.decode("utf-8", "replace")
            elif merged != ours.get(path):
                changed[path] = merged
        if conflicts:
            return Conflict(list(conflicts), "\n".join(f"{path}:\n{_conflict_lines(text)}" for path, text in conflicts.items()))
        return self._draft(onto, entries, ours, changed, message, author)

    def transplant(self, commit: str, onto: str, message: str, author: str) -> str:
        """Commit the editable files of `commit` on `onto`. See `Repo.transplant`."""
        entries = self._objects.entries(onto)
        old, new = self.editable_files(entries), self.editable_files(self._objects.entries(commit))
        for path in new:
            check_place(entries, path)
        kept = without(entries, old.keys() - new.keys())
        return self._objects.commit(self._objects.write_tree(kept, self._objects.store(new, entries)), [onto], message, author)

    def editable_files(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
        """Return the content of the editable files among a tree's entries, by path."""
        return self._objects.read_all({path: entry for path, entry in entries.items() if path in self._editable})

    def check(self, commit: str, path: str) -> None:
        """Refuse a commit of which one file could not run. See `Repo.check`."""
        name = f"{commit}:{path}"
        if name in self._sound:
            return
        entries = self._objects.entries(commit)
        if path in self._editable and path in entries and entries[path].is_file:
            source.check(path, self._objects.read(entries[path]), _modules(entries), is_new=False)
            keep(self._sound, name, None, _SOUND)

    def stat(self, base: str, commit: str) -> DiffStat:
        """Return how much changes from one commit to another."""
        counts = self._git.output("diff-tree", "-r", "-z", "--numstat", "--no-renames", base, commit)
        lines = [line.split("\t", 2) for line in counts.decode("utf-8", "replace").split("\0")[:-1]]
        return DiffStat(
            files_changed=len(lines),
            insertions=sum(int(added) for added, _, _ in lines if added != "-"),
            deletions=sum(int(removed) for _, removed, _ in lines if removed != "-"),
            text="\n".join(f"{path} | +{added} -{removed}" for added, removed, path in lines),
        )

    def _draft(
        self,
        base: str,
        entries: Mapping[str, Entry],
        old: Mapping[str, bytes],
        changes: Mapping[str, bytes | None],
        message: str,
        author: str,
    ) -> Draft:
        """Commit changes of files on `base`; None deletes one."""
        changed = {path: data for path, data in changes.items() if data is not None}
        gone = changes.keys() - changed.keys()
        if named := [path for path in sorted(gone) if self._editable.names(path)]:
            raise LabError(
                f"{named[0]} can't be deleted or renamed: [training] editable names it by itself. Nothing was kept.", "not_editable"
            )
        if not changes:
            raise LabError(f"The change leaves every file as it is at {base[:12]}. Nothing was kept.", "no_change")
        modules = _modules(entries.keys() - gone) | _modules(changed) if self._judges_imports() else None
        for path, data in changed.items():
            if old.get(path) and not data.strip() and self._editable.names(path) and not path.endswith("__init__.py"):
                raise LabError(f"{path} would be left without text. Nothing was kept; send the text that it should hold.", "empty_file")
        after = {path: data for path, data in {**old, **changed}.items() if path not in gone}
        first = self._first()
        origin = old if first in (None, base) else self.editable_files(self._objects.entries(first))
        found = examined(Question(origin, old, after, list(changed), modules))
        tree = self._objects.write_tree(without(entries, gone) if gone else entries, self._objects.store(changed, entries))
        commit = self._objects.commit(tree, [base], message, author)
        stat = self.stat(base, commit)
        draft = Draft(
            commit=commit,
            base=base,
            fingerprint=found.fingerprint,
            canonical=found.canonical,
            files_changed=stat.files_changed,
            insertions=stat.insertions,
            deletions=stat.deletions,
            stat=stat.text,
            added=found.added,
            sound=tuple(found.sound),
        )
        self.know(draft)
        return draft

    def know(self, draft: Draft) -> None:
        """Note which files of a draft need no other check."""
        for path in draft.sound:
            keep(self._sound, f"{draft.commit}:{path}", None, _SOUND)


def _modules(paths: Iterable[str]) -> set[str]:
    """Return the names that files could be imported by, from any folder."""
    return {part.removesuffix(".py") for path in paths for part in path.split("/")}


def _conflict_lines(text: str) -> str:
    """Return the conflicts of a merged text, from mark to mark, each with its line number."""
    out, inside = [], False
    for number, line in enumerate(text.split("\n"), 1):
        inside = inside or line.startswith("<<<<<<< ")
        if inside:
            out.append(f"{number:5} | {line[:160]}")
        inside = inside and not line.startswith(">>>>>>> ")
    return "\n".join(out)[:_MOST_CONFLICT_CHARS]
