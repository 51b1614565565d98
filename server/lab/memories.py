"""What the lab's agents learned: writing it down, and finding it."""

import re
import time
from collections.abc import Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.backlog import Backlog, awaited
from autoresearch_mcp.server.lab.core import LabCore, checked_id, clean_tags
from autoresearch_mcp.server.lab.known import newest, unknown_names
from autoresearch_mcp.server.lab.query import conditions
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.ledger.ideas import DIRECTION
from autoresearch_mcp.server.models import Memory, MemoryKind, Record, new_id
from autoresearch_mcp.server.untrusted import clean

_SPARE = 20  # ideas that are looked at beyond those asked for, as tried ones are left out
_BACKLOG = 200  # ideas that are looked at for the most promising ones
_MEMORY_ID = re.compile(r"m-[0-9a-z]{15}")


class Memories:
    """The use cases around memories."""

    def __init__(self, core: LabCore, similar: SimilarProposals, backlog: Backlog) -> None:
        self._core = core
        self._similar = similar
        self.backlog = backlog

    def idea(self, id: str) -> Memory:
        """Return an idea in memory.

        Raises:
            LabError: `bad_id`, `unknown_memory`, `not_an_idea`, `lake_unavailable`.
        """
        page = self._core.view.get("memories", [checked_id(id, _MEMORY_ID, "a memory")])
        memory = next((each for each in page.value if isinstance(each, Memory)), None)
        if memory is None and page.warning:
            raise LabError(f"{id} cannot be looked up now: {page.warning} Try again later.", "lake_unavailable")
        if memory is None:
            there = newest(self._core.view, "memories")
            raise LabError(f"There is no memory {id}. Find ids with search_memory.{there}", "unknown_memory")
        if memory.kind != "idea":
            raise LabError(f"{id} is no idea but a {memory.kind}, so it can't be claimed or tried.", "not_an_idea")
        return memory

    def write_memory(
        self,
        kind: MemoryKind,
        text: str,
        author: str,
        tags: list[str] | None = None,
        experiments: list[str] | None = None,
        commits: list[str] | None = None,
        supersedes: list[str] | None = None,
        contradicts: list[str] | None = None,
    ) -> a.MemoryAnswer:
        """Append a note. The experiments, commits and memories that it refers to must exist.

        Raises:
            LabError: `empty_memory`, `bad_id`, `unknown_memory`, `unknown_experiment`, `lake_unavailable`, and the repository's own.
        """
        core = self._core
        text = clean(text).strip()
        if not text:
            raise LabError("The memory is empty. Write what was learned, in a sentence or more.", "empty_memory")
        for id in experiments or []:
            core.experiment(id)
        tags = clean_tags(tags)
        named = [*(supersedes or []), *(contradicts or []), *(awaited(tags) if kind == "idea" else [])]
        older = [checked_id(id, _MEMORY_ID, "a memory") for id in named]
        known = {m.id for m in core.view.get("memories", older).value} if older else set()
        if missing := [id for id in older if id not in known]:
            there = newest(core.view, "memories")
            raise LabError(f"There is no memory {missing[0]}. Find ids with search_memory.{there} Nothing was written.", "unknown_memory")
        memory = Memory(
            id=new_id("m"),
            kind=kind,
            text=text,
            author=author,
            tags=tags,
            experiments=experiments or [],
            commits=[core.commit(c) for c in commits or []],
            supersedes=supersedes or [],
            contradicts=contradicts or [],
            created_at=time.time(),
        )
        core.ledger.remember(memory)
        core.wake()
        return a.MemoryAnswer(id=memory.id, note="Written down for good. To correct it later, write another that supersedes it.")

    def search_memory(
        self,
        query: str = "",
        kind: MemoryKind | None = None,
        tag: str | None = None,
        author: str | None = None,
        experiment: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 10,
        free_for: str | None = None,
    ) -> a.SearchAnswer:
        """Return memories by their relevance to `query`, the newest first on ties, and the proposals that resemble it.

        Of ideas, those that were tried are left out: a proposal much like it was trained, or a later memory supersedes it.

        Args:
            query: words; without any, the newest memories are returned.
            kind: of the memories.
            tag: one that they have.
            author: who wrote them.
            experiment: one that they refer to.
            since: not older, in seconds since the epoch.
            until: not newer.
            limit: the most memories to return.
            free_for: only ideas that this agent can begin with, the most promising first: none that another holds, that is trained, or that
                waits for one without results.

        Raises:
            LabError: `bad_arguments`.
        """
        if free_for is not None and kind != "idea":
            raise LabError('free goes with kind="idea": the other kinds are nobody\'s to begin with.', "bad_arguments")
        if free_for is not None:
            self.backlog.suggest_combinations()
        where = conditions(
            ("kind", "=", kind),
            ("tags", "has", tag),
            ("author", "=", author),
            ("experiments", "has", experiment),
            ("created_at", ">=", since),
            ("created_at", "<=", until),
        )
        untried = kind == "idea"
        wanted = limit if not untried else limit + _SPARE if free_for is None else max(limit + _SPARE, _BACKLOG)
        answer = self._core.view.search(query, where, wanted)
        hits = self._hits([(memory, score) for memory, score in answer.value.hits if isinstance(memory, Memory)])
        notes = [answer.warning]
        if untried:
            tried = {hit.id: commit for hit in hits if (commit := self._tried(hit))}
            hits = [hit for hit in hits if hit.id not in tried and not hit.superseded_by]
            if tried:
                notes.append(f"Left out, as tried: {', '.join(f'{id} as {commit[:12]}' for id, commit in list(tried.items())[:10])}.")
        if free_for is not None:
            hits = self.backlog.free(hits, free_for)
        if not hits:
            notes.append(unknown_names(self._core.view, "memories", author, tag))
        return a.SearchAnswer(
            memories=hits[:limit],
            ranking=answer.value.ranking,
            proposed=self._similar.find(query, holds=True) if query.strip() else [],
            note=" ".join(filter(None, notes)),
        )

    def _tried(self, idea: Memory) -> str:
        """Return a proposal much like an idea that was trained since; empty where there is none. A direction is never done."""
        if DIRECTION in idea.tags:
            return ""
        if len(idea.commits) == 2:  # a combination says what its parts say
            return self._similar.combination(*idea.commits)
        return next((each.commit for each in self._similar.find(idea.text) if each.ended), "")

    def _hits(self, ranked: Sequence[tuple[Memory, float]]) -> list[a.MemoryHit]:
        """Return the memories with the ids of later ones that supersede or contradict them."""
        ids = [memory.id for memory, _ in ranked]
        later: dict[str, list[Record]] = {
            column: self._core.view.select("memories", Query((Condition(column, "has any", ids),), limit=1_000)).value if ids else []
            for column in ("supersedes", "contradicts")
        }
        return [
            a.MemoryHit(
                **memory.model_dump(),
                score=round(score, 4),
                superseded_by=[m.id for m in later["supersedes"] if isinstance(m, Memory) and memory.id in m.supersedes][:20],
                contradicted_by=[m.id for m in later["contradicts"] if isinstance(m, Memory) and memory.id in m.contradicts][:20],
            )
            for memory, score in ranked
        ]
