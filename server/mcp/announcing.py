"""News in every answer: what its caller has not heard yet, once, whatever it asked for."""

import logging
from collections import OrderedDict
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from pydantic_core import to_json

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.callers import CALLERS
from autoresearch_mcp.server.untrusted import one_line

_MOST = 600  # characters of a piece
logger = logging.getLogger(__name__)


class Announcer:
    """A middleware of the SDK's server. Where there is nothing new it costs microseconds."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._told = OrderedDict[str, int]()  # the newest piece of news when a caller had heard all

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass the call on, and add the news to its answer."""
        result = await call_next(ctx)
        if ctx.method != "tools/call" or not isinstance(result, dict) or not result.get("content"):
            return result
        news = await self._news(self._bridge.reader(ctx))
        return _with_news(result, news) if news else result

    async def _news(self, caller: str) -> list[str]:
        lab = self._bridge.lab
        try:
            newest = lab.newest_news()
            if self._told.get(caller) == newest:
                return []
            news = await self._bridge.call(lab.unheard, caller)
        except LabError as error:  # the answer goes out, whatever became of the news
            logger.warning("no news for %s: %s", caller, error)
            return []
        self._told[caller] = newest
        self._told.move_to_end(caller)
        if len(self._told) > CALLERS:
            self._told.popitem(last=False)
        return [one_line(each, _MOST) for each in news]


def _with_news(result: dict[str, Any], news: list[str]) -> dict[str, Any]:
    """Return a tool's answer with news: as a field where it is structured, else as a text of its own."""
    if "structuredContent" not in result:
        return {**result, "content": [*result["content"], {"type": "text", "text": f"News: {' '.join(news)}"}]}
    answer = {**result["structuredContent"], "news": [*news, *result["structuredContent"].get("news", ())]}
    return {**result, "structuredContent": answer, "content": [{"type": "text", "text": to_json(answer).decode()}]}
