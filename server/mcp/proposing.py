"""`propose_patch`: a change becomes a commit, and in the same call, where asked for, its first training and the result."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated

import anyio
from pydantic import Field

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.arguments import Author, Commit, Edit, Files, MemoryId, Tags, Text
from autoresearch_mcp.server.mcp.bridge import Bridge, Ctx
from autoresearch_mcp.server.mcp.brief import brief_branch, brief_wait
from autoresearch_mcp.server.mcp.wait import Watch
from autoresearch_mcp.server.models import ProposalKind

CALLERS, COMMITS = 1_000, 8  # whose reading is remembered, and how many commits of each


class Readings:
    """The commits whose files each caller read last, so that a change made for one isn't put on another without a word."""

    def __init__(self) -> None:
        self._read = OrderedDict[str, list[str]]()

    def add(self, caller: str, commit: str) -> None:
        """Remember that a caller knows a commit."""
        self._read[caller] = [*self._read.pop(caller, []), commit][-COMMITS:]
        if len(self._read) > CALLERS:
            self._read.popitem(last=False)

    def unread(self, caller: str, champion: str) -> str:
        """Say that a caller read another commit than the champion, which it then knows; empty where it did not."""
        read = self._read.get(caller, [])
        if not read or champion in read:
            return ""
        self.add(caller, champion)
        return f"The champion is {champion[:12]} now; the file that you read is {read[-1][:12]}'s. Without `base` the change goes on the champion."


def proposing(bridge: Bridge, readings: Readings) -> Callable[..., Awaitable[a.ProposalAnswer]]:
    """Return the tool, bound to a lab."""

    async def propose_patch(
        context: Ctx,
        hypothesis: Annotated[
            str | None, Field(min_length=10, max_length=2000, description="what changes, why it helps; needed without ref")
        ] = None,
        ref: Annotated[
            str | None, Field(max_length=300, description="your branch agents/NAME/..., from `autoresearch-mcp checkout`")
        ] = None,
        diff: Annotated[Text | None, Field(description="unified diff")] = None,
        edits: Annotated[list[Edit] | None, Field(max_length=50, description="each search occurs exactly once")] = None,
        files: Files | None = None,
        port: Annotated[Commit | None, Field(description="a proposal whose change goes on base")] = None,
        base: Annotated[Commit | None, Field(description="default: the champion")] = None,
        title: Annotated[str | None, Field(max_length=60)] = None,
        amend: Annotated[Commit | None, Field(description="instead: correct this proposal's text")] = None,
        kind: ProposalKind | None = None,
        launch: Annotated[int | None, Field(ge=0, le=16, description="replicates")] = None,
        wait_s: Annotated[int | None, Field(ge=0, le=45, description="for their results")] = None,
        idea: Annotated[MemoryId | None, Field(description="that it tries")] = None,
        tags: Tags | None = None,
        author: Author | None = None,
    ) -> a.ProposalAnswer:
        """Make a commit from one idea, as exactly one of ref, edits, diff, files or port.

        Code that was proposed before gives that commit and its results. launch=1 trains it too. A measurement is never promoted.
        """
        started, unread = anyio.current_time(), ""
        if amend is not None:
            if any(each is not None for each in (ref, diff, edits, files, port, base, kind, launch, tags)) or hypothesis is None:
                raise LabError("amend goes with hypothesis and title, and with no change. Nothing was changed.", "bad_arguments")
            signed = bridge.author(author, context), hypothesis, title, bridge.rules_others(context)
            return bridge.signed(await bridge.call(bridge.lab.amend, amend, *signed), author, context)
        if base is None and ref is None:
            unread = readings.unread(bridge.caller(context), await bridge.call(bridge.lab.champion))
        try:
            answer = await bridge.work(
                bridge.lab.propose_patch,
                hypothesis,
                bridge.author(author, context),
                diff=diff,
                edits=[edit.model_dump() for edit in edits] if edits is not None else None,
                files=files,
                ref=ref,
                base=base,
                tags=tags,
                port=port,
                title=title,
                kind=kind or "candidate",
                launch=launch or 0,
                idea=idea,
            )
        except LabError as error:
            raise LabError(f"{error} {unread}".strip(), error.code) from error
        notes = [answer.note, unread]
        if answer.launched and wait_s:
            watch = Watch(bridge, [line.id for line in answer.launched], "all")
            await watch.until_done(started + wait_s)
            lines = [brief_wait(each) for each in await bridge.call(bridge.lab.marked, watch.lines)]
            answer = answer.model_copy(update={"launched": lines})
            notes = [answer.note.partition("Queued. ")[0] if watch.done else answer.note, unread, watch.note()]
        answer = answer.model_copy(update={"note": " ".join(filter(None, notes))})
        if ref is not None:
            answer = brief_branch(answer)
        return bridge.signed(answer, author, context)

    return propose_patch
