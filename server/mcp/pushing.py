"""News that are pushed: `subscriptions/listen`, and `resources/subscribe` of older clients over stdio.

What can be followed are the resources `lab://status`, `lab://champion`, and `experiment://ID` with its log. Other processes change the lab, so a
stream looks at the ledger's change counter a few times a second, which costs microseconds. A push says that something is new, not what:
the client reads the resource. Nothing is replayed.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.arguments import ID
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.models import TERMINAL_STATES

POLL_S = 0.3  # between two looks of a stream
MOST_STREAMS = 256  # of one server
MOST_FOLLOWED = 200  # resources of one stream
STATUS, CHAMPION = "lab://status", "lab://champion"
_EXPERIMENT = re.compile(rf"experiment://({ID.strip('^$')})(/log)?")


class Pushing:
    """Follows resources for the clients that listen.

    Args:
        bridge: to the lab.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._streams = 0
        self._subscribed: set[str] = set()  # by the one client of stdio
        self._known: dict[str, object] = {}  # of those
        self._following: asyncio.Task[None] | None = None

    async def listen(self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serve one stream until its client leaves.

        Raises:
            MCPError: -32602 for too many resources, -32603 for too many streams.
        """
        uris = [str(uri) for uri in params.notifications.resource_subscriptions or []]
        if len(uris) > MOST_FOLLOWED:
            raise MCPError(INVALID_PARAMS, f"A stream follows at most {MOST_FOLLOWED} resources, not {len(uris)}.")
        if self._streams >= MOST_STREAMS:
            raise MCPError(INTERNAL_ERROR, f"{MOST_STREAMS} streams are open, the most that this server serves.")
        bus = InMemorySubscriptionBus()
        self._streams += 1
        try:
            known = await self._first_look(uris)
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow, lambda: uris, lambda uri: bus.publish(ResourceUpdated(uri)), known)
                result = await ListenHandler(bus)(ctx, params)
                group.cancel_scope.cancel()
            return result
        finally:
            self._streams -= 1

    async def subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """Follow one more resource for the client of stdio."""
        if len(self._subscribed) >= MOST_FOLLOWED:
            raise MCPError(INVALID_PARAMS, f"A client follows at most {MOST_FOLLOWED} resources.")
        self._known |= await self._first_look([str(params.uri)])
        self._subscribed.add(str(params.uri))
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow_for(ctx))
        return EmptyResult()

    async def unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """Follow one resource less."""
        self._subscribed.discard(str(params.uri))
        return EmptyResult()

    async def _follow_for(self, ctx: ServerRequestContext[Any, Any]) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the client has left
            await self._follow(lambda: self._subscribed, ctx.session.send_resource_updated, self._known)

    async def _follow(self, uris: Callable[[], Iterable[str]], publish: Callable[[str], Awaitable[None]], known: dict[str, object]) -> None:
        """Publish each resource that is another than what is known of it, for ever."""
        counter = -1
        while True:
            with contextlib.suppress(LabError):  # a busy ledger is asked again
                followed, now = list(uris()), self._bridge.lab.changes()
                if now != counter or not known.keys() >= set(followed):
                    seen = await self._looked([uri for uri in followed if not _is_over(known.get(uri))])
                    changed = [uri for uri in seen if uri in known and seen[uri] != known[uri]]
                    known |= seen
                    counter = now
                    for uri in known.keys() - set(uris()):
                        del known[uri]
                    for uri in changed:
                        await publish(uri)
            await anyio.sleep(POLL_S)

    async def _first_look(self, uris: Iterable[str]) -> dict[str, object]:
        """Return what is known before the client hears that these are followed; nothing where the ledger is busy."""
        with contextlib.suppress(LabError):
            seen = await self._looked(uris)
            if waits := [match[1] for uri in seen if (match := _EXPERIMENT.fullmatch(uri)) and seen[uri] and not _is_over(seen[uri])]:
                await self._bridge.call(self._bridge.lab.states, waits)  # starts a runner, if none is alive
            return seen
        return {}

    async def _looked(self, uris: Iterable[str]) -> dict[str, object]:
        """Return the states of resources as they are now."""
        uris, counter = list(uris), self._bridge.lab.changes()
        ids = {uri: match[1] for uri in uris if (match := _EXPERIMENT.fullmatch(uri))}
        states = await self._bridge.glance(self._bridge.lab.states_now, list(ids.values())) if ids else {}
        return {uri: states.get(ids.get(uri, "")) or await self._look(uri, counter) for uri in uris}

    async def _look(self, uri: str, counter: int) -> object:
        """Return what tells one state of a resource from another; nothing of one that is none."""
        if uri == STATUS:
            return counter
        if uri == CHAMPION:
            return await self._bridge.glance(self._bridge.lab.champion)
        if match := _EXPERIMENT.fullmatch(uri):
            with contextlib.suppress(LabError):
                return (await self._bridge.call(self._bridge.lab.states, [match[1]]))[0].state
        return None


def _is_over(state: object) -> bool:
    """Return whether a resource is that of an experiment that ended: it changes no more."""
    return state in TERMINAL_STATES
