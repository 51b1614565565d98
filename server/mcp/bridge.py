"""Where calls from an event loop meet the lab: worker threads for its blocking methods, and the name of who asks.

A call that has begun is finished even when its client goes away, so nothing that the lab acknowledges is half done.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context

from autoresearch_mcp.server.answers import StatusAnswer
from autoresearch_mcp.server.beside.asking import Helper, InThreads
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.mcp.callers import Asked, Sessions, client, printable
from autoresearch_mcp.server.mcp.lookout import Lookout
from autoresearch_mcp.server.mcp.reads import Reads
from autoresearch_mcp.server.mcp.turns import Turns
from autoresearch_mcp.server.models import ACTIVE_STATES
from autoresearch_mcp.server.roles import ANYBODY, Identity

Ctx = Context[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")

THREADS = 16  # for what mostly reads, and waits for the disk at most
WORKERS = 2  # for what computes: more would only take the interpreter from each other, and from those who read


class Noted(Protocol):
    """An answer of the lab that has a note."""

    note: str

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """Return a copy with other values."""
        ...


Answer = TypeVar("Answer", bound=Noted)


CALLER = "autoresearch.caller"  # the key of a request's identity in its ASGI scope
GUEST = "autoresearch.guest"  # the key of the user's name that came with the token there


class Bridge:
    """Async access to a lab, with the name of those who speak to it.

    Args:
        lab: what is called.
        identity: for whom.
        helper: answers what only reads; by default threads of this process.

    Attributes:
        lookout: tells calls that wait when something in the lab may have changed.
    """

    def __init__(self, lab: Lab, identity: Identity = ANYBODY, helper: Helper[Reads] | None = None) -> None:
        self.lab = lab
        self._turns = Turns()
        self._helper: Helper[Reads] = helper or InThreads(Reads(lab))
        self._asking, self._asking_turns = anyio.CapacityLimiter(THREADS), Turns() if helper else self._turns
        self._identity = identity
        self._agent = identity.name or os.environ.get("AUTORESEARCH_AGENT")
        self._sessions = Sessions()
        self._callers, self._glancing = anyio.CapacityLimiter(THREADS), anyio.CapacityLimiter(THREADS)
        self._workers = anyio.CapacityLimiter(WORKERS)
        self.lookout = Lookout(lab.changes, lambda ids: self.glance(lab.states_now, ids))

    async def call(self, use_case: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a use case in a worker thread, when its turn comes.

        Raises:
            LabError: the use case's own, without paths of this machine unless it quotes the caller's patch.
        """
        with self._masked():
            return await self._turns.run(partial(use_case, *args, **kwargs), self._callers)

    async def read(self, question: Callable[Concatenate[Reads, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Answer what changes nothing, when its turn comes: where a process beside the server answers, nobody waits for those who change something.

        Raises:
            LabError: as from `call`.
        """
        with self._masked():
            async with self._asking, self._asking_turns.taken():
                return await self._helper.ask(question, *args, **kwargs)

    async def awake(self, status: StatusAnswer) -> StatusAnswer:
        """Start the runner where there is work for it and none is alive, and return the status with that: who read it may start none."""
        is_open = any(status.counts.get(state) for state in ("queued", *ACTIVE_STATES))
        if status.runner or not (is_open or status.unflushed or status.open or status.sweeps):
            return status
        return status.model_copy(update={"runner": await self.glance(self.lab.wake, True)})

    async def glance(self, use_case: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a use case that takes a few statements of the ledger: it waits for no turn.

        Raises:
            LabError: as from `call`.
        """
        with self._masked():
            return await anyio.to_thread.run_sync(partial(use_case, *args, **kwargs), limiter=self._glancing)

    async def work(self, use_case: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a use case that computes for long. A swarm that asks for many of them waits in line, and those who read don't wait behind it.

        Raises:
            LabError: as from `call`.
        """
        with self._masked():
            return await anyio.to_thread.run_sync(partial(use_case, *args, **kwargs), limiter=self._workers)

    @contextlib.contextmanager
    def _masked(self) -> Iterator[None]:
        """Take the paths of this machine out of what a use case is refused for."""
        try:
            yield
        except LabError as error:
            if error.code in ("does_not_apply", "conflict"):
                raise
            raise LabError(mask_paths(str(error), self.lab.root), error.code) from error

    def identity(self, request: Any) -> Identity:
        """Return who sent a request over HTTP, by its token; else for whom the server works."""
        identity: Identity = self._identity if request is None else request.scope.get(CALLER, self._identity)
        return identity

    def author(self, given: str | None, context: Ctx) -> str:
        """Return the name to sign with: the argument, else the caller's own, else what the client calls itself.

        Raises:
            LabError: `other_author`, where the caller has a name and the argument is another.
        """
        own = self.identity(context.request_context.request).name
        if given and own and given != own:
            raise LabError(
                f"This {'server' if own == self._identity.name else 'token'} signs as {own}, not as {given}. "
                f"Leave `author` out, or give {own}. Nothing was changed.",
                "other_author",
            )
        if given:
            self._sessions.remember(context.request_context, given)
        return self.signature(given, context.request_context)

    def signature(self, given: str | None, asked: Asked) -> str:
        """Return the name that a call is signed with, once its author was accepted."""
        own = self.identity(asked.request).name
        return own or given or printable(self._agent) or self._sessions.signature(asked)

    def reader(self, asked: Asked) -> str:
        """Return the name of who calls, where the call gives none: as `signature`, but the last one that its session gave comes before."""
        return self.identity(asked.request).name or self._sessions.name(asked) or self.signature(None, asked)

    def rules_others(self, context: Ctx) -> bool:
        """Return whether the caller may cancel what others launched."""
        return self.identity(context.request_context.request).rules_others

    def signed(self, answer: Answer, given: str | None, context: Ctx) -> Answer:
        """Return the answer, with a hint where its author can't be told from others: the call and the client named none."""
        asked = context.request_context
        if given or self.identity(asked.request).name or printable(self._agent) or asked.session.client_params:
            return answer
        name = self.signature(None, asked)
        hint = f"Signed as `{name}`, because this connection names no client: pass `author`, your own name, to tell your work from others'."
        return answer.model_copy(update={"note": f"{answer.note} {hint}".strip()})

    def caller(self, context: Ctx) -> str:
        """Return what tells callers apart: the name of one that has a token, else its session. See `Sessions.key`."""
        asked = context.request_context
        return self.identity(asked.request).name or self._sessions.key(asked)

    def client(self, asked: Asked) -> str:
        """Return what the client calls itself, or `agent`."""
        return client(asked)
