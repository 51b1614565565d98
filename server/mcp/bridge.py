"""Where calls from an event loop meet the lab: worker threads for its blocking methods, and the name of who asks.

A call that has begun is finished even when its client goes away, so nothing that the lab acknowledges is half done.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.masking import mask_paths

Ctx = Context[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")

THREADS = 64


class Noted(Protocol):
    """An answer of the lab that has a note."""

    note: str

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """Return a copy with other values."""
        ...


Answer = TypeVar("Answer", bound=Noted)


@dataclass(frozen=True)
class Identity:
    """Whom a server works for.

    Attributes:
        name: the one agent that it signs as. Empty: each call names its author, and the lab believes it.
        orchestrator: whether it may cancel what others launched.
    """

    name: str = ""
    orchestrator: bool = False


ANYBODY = Identity()


class Bridge:
    """Async access to a lab, with the name of those who speak to it."""

    def __init__(self, lab: Lab, identity: Identity = ANYBODY) -> None:
        self.lab = lab
        self.identity = identity
        self._agent = identity.name or os.environ.get("AUTORESEARCH_AGENT")
        self._limiter = anyio.CapacityLimiter(THREADS)

    async def call(self, use_case: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a use case in a worker thread.

        Raises:
            LabError: the use case's own, without paths of this machine unless it quotes the caller's patch.
        """
        try:
            return await anyio.to_thread.run_sync(partial(use_case, *args, **kwargs), limiter=self._limiter)
        except LabError as error:
            if error.code == "does_not_apply":
                raise
            raise LabError(mask_paths(str(error), self.lab.root), error.code) from error

    def author(self, given: str | None, context: Ctx) -> str:
        """Return the name to sign with: the argument, else the server's own agent, else what the client calls itself.

        Raises:
            LabError: `other_author`, where the server works for another agent than the argument names.
        """
        if given and self.identity.name and given != self.identity.name:
            raise LabError(
                f"This server signs as {self.identity.name}, not as {given}. Leave `author` out, or give {self.identity.name}. "
                "Nothing was changed.",
                "other_author",
            )
        return given or _printable(self._agent) or self.client(context)

    def signed(self, answer: Answer, given: str | None, context: Ctx) -> Answer:
        """Return the answer, with a hint where its author can't be told from others: the call and the client named none."""
        if given or _printable(self._agent) or context.session.client_params:
            return answer
        hint = "Signed as `agent`, because this connection names no client: pass `author`, your own name, to tell your work from others'."
        return answer.model_copy(update={"note": f"{answer.note} {hint}".strip()})

    def caller(self, context: Ctx) -> str:
        """Return what tells callers over HTTP apart: the session, else the connection. Empty on stdio, where there is one client."""
        request = context.request_context.request
        session = request.headers.get("mcp-session-id") if request is not None else None
        return session or (str(request.client) if request is not None else "")

    def client(self, context: Ctx) -> str:
        """Return what the client calls itself, or `agent`."""
        params = context.session.client_params
        return (_printable(params.client_info.name) if params else "") or "agent"


def _printable(name: str | None) -> str:
    """Return a name from outside, in the form that the `author` argument asks for."""
    return re.sub(r"[^\w .@:/+-]+", "-", name or "").strip(" -")[:64]
