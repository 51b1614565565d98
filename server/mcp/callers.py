"""Who calls: what tells sessions apart, and the name that each goes by."""

import hashlib
import re
import secrets
from collections import OrderedDict
from typing import Any

from mcp.server.context import ServerRequestContext

Asked = ServerRequestContext[Any, Any]

CALLERS = 1_000  # whose names are remembered
_NAME, _MARK = 64, 4  # characters


class Sessions:
    """The sessions of one server. On stdio there is one; over HTTP they differ by their session, else by their connection."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(_MARK // 2)
        self._names = OrderedDict[str, str]()

    def key(self, asked: Asked) -> str:
        """Return what tells callers over HTTP apart: the session, else the connection. Empty on stdio, where there is one client."""
        request = asked.request
        session = request.headers.get("mcp-session-id") if request is not None else None
        return session or (str(request.client) if request is not None else "")

    def signature(self, asked: Asked) -> str:
        """Return the client's name with a short mark of its session, such as `claude-code-3f2a`.

        Over HTTP, where a call may come on any connection, the mark stands for the machine and the program that call.
        """
        request, mark = asked.request, self._mark
        if request is not None:
            place = request.headers.get("mcp-session-id") or f"{request.client and request.client.host} {request.headers.get('user-agent')}"
            mark = hashlib.sha256(place.encode()).hexdigest()[:_MARK]
        return f"{client(asked)[: _NAME - _MARK - 1]}-{mark}"

    def remember(self, asked: Asked, name: str) -> None:
        """Keep the name that a session gave itself, for its calls that give none."""
        self._names[key := self.key(asked)] = name
        self._names.move_to_end(key)
        if len(self._names) > CALLERS:
            self._names.popitem(last=False)

    def name(self, asked: Asked) -> str:
        """Return the name that a session gave itself last; empty where it gave none."""
        return self._names.get(self.key(asked), "")


def client(asked: Asked) -> str:
    """Return what the client calls itself, or `agent`."""
    params = asked.session.client_params
    return (printable(params.client_info.name) if params else "") or "agent"


def printable(name: str | None) -> str:
    """Return a name from outside, in the form that the `author` argument asks for."""
    return re.sub(r"[^\w .@:/+-]+", "-", name or "").strip(" -")[:_NAME]
