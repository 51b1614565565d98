"""A model for real clients that is a script: it answers as Anthropic's, OpenAI's and Google's services would, and needs no account.

It is a function of what the client sent. The script runs anew at each request, over the answers that the conversation holds already: so
it keeps no state, and any number of agents may ask it at once.
"""

import json
import re
import secrets
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from autoresearch_mcp.contracts import TOOLS

Call = tuple[str, dict[str, Any]]
Script = Generator[Call, str, str]
"""Yields the calls that the model makes, is sent the answers as text, and returns what the model says in the end."""
Json = dict[str, Any]
_SEARCH = "ToolSearch"
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


_NAMED = r"(.*[^a-z])?{}"  # how clients call a tool of a server


class Asked(NamedTuple):
    """A request to a model, whatever service it is for.

    Attributes:
        prompt: all that was said to the model.
        answers: those of tools, in order.
        offered: the names of the tools, as the client has them.
    """

    prompt: str
    answers: list[str]
    offered: list[str]

    def name(self, tool: str) -> str:
        """Return the client's name of a tool of the lab, such as `mcp__autoresearch__get_status` or `autoresearch_get_status`."""
        return next(name for name in self.offered if re.fullmatch(_NAMED.format(tool), name))

    def has(self, tool: str) -> bool:
        """Return whether the client offers a tool of the lab."""
        return any(re.fullmatch(_NAMED.format(tool), name) for name in self.offered)


def said(answer: str, name: str) -> str:
    """Return a field's value out of a tool's answer, whatever a client wrapped its JSON in; of a list the first."""
    found = re.search(rf'\\*"{name}\\*":\s*\[?\s*\\*"?([^"\\,}}\]\s]+)', answer)
    assert found, f"there is no {name} in: {answer[:2000]}"
    return found[1]


def _texts(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(_texts(inner) for key, inner in value.items() if key in ("text", "content", "output", "parts", "input"))
    return "\n".join(map(_texts, value)) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)


def _messages_asked(body: Json) -> Asked:
    """Claude Code defers the tools of servers: a model finds them by ToolSearch, whose answers aren't the lab's."""
    blocks = [block for message in body["messages"] if isinstance(message["content"], list) for block in message["content"]]
    called = {block["id"]: block["name"] for block in blocks if block["type"] == "tool_use"}
    results = [block for block in blocks if block["type"] == "tool_result" and called[block["tool_use_id"]] != _SEARCH]
    answers = [_texts(block.get("content", "")) for block in results]
    return Asked(_texts([body.get("system", ""), body["messages"]]), answers, [tool["name"] for tool in body.get("tools", [])])


def _search(asked: Asked, tool: str) -> Call | None:
    """Return the search for a tool that is deferred; None where there is nothing to search for."""
    deferred = re.search(rf"\bmcp__\w+__{tool}\b", asked.prompt)
    return (_SEARCH, {"query": f"select:{deferred[0]}"}) if deferred and _SEARCH in asked.offered else None


def _messages(call: Call | None, text: str, turn: str, body: Json) -> list[tuple[str, Json]]:
    message: Json = {"id": f"m{turn}", "type": "message", "role": "assistant", "model": "scripted", "stop_reason": None, "usage": USAGE}
    why = "tool_use" if call else "end_turn"
    whole = {"type": "tool_use", "id": f"toolu_{turn}", "name": call[0], "input": call[1]} if call else {"type": "text", "text": text}
    if not body.get("stream"):
        return [("", message | {"content": [whole], "stop_reason": why})]
    start = whole | ({"input": {}} if call else {"text": ""})
    delta = {"type": "input_json_delta", "partial_json": json.dumps(call[1])} if call else {"type": "text_delta", "text": text}
    events: list[Json] = [
        {"type": "message_start", "message": message | {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": why}, "usage": USAGE},
        {"type": "message_stop"},
    ]
    return [(event["type"], event) for event in events]


def _responses_asked(body: Json) -> Asked:
    items = body["input"]
    answers = [_texts(item["output"]) for item in items if item["type"] == "function_call_output"]
    tools = [tool for offered in body.get("tools", []) for tool in offered.get("tools", [offered])]
    return Asked(_texts([body.get("instructions", ""), items]), answers, [tool["name"] for tool in tools if "name" in tool])


def _responses(call: Call | None, text: str, turn: str, body: Json) -> list[tuple[str, Json]]:
    item: Json = {"type": "message", "role": "assistant", "id": f"m{turn}", "content": [{"type": "output_text", "text": text}]}
    if call:
        spaces = [space["name"] for space in body.get("tools", []) for tool in space.get("tools", []) if tool.get("name") == call[0]]
        item = {"type": "function_call", "call_id": f"c{turn}", "name": call[0], "arguments": json.dumps(call[1])}
        item |= {"namespace": spaces[0]} if spaces else {}
    events: list[Json] = [
        {"type": "response.created", "response": {"id": f"r{turn}"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": f"r{turn}", "output": [item], "usage": USAGE}},
    ]
    return [(event["type"], event) for event in events]


def _completions_asked(body: Json) -> Asked:
    answers = [_texts(message["content"]) for message in body["messages"] if message["role"] == "tool"]
    return Asked(_texts(body["messages"]), answers, [tool["function"]["name"] for tool in body.get("tools", [])])


def _completions(call: Call | None, text: str, turn: str, body: Json) -> list[tuple[str, Json]]:
    what: Json = {"role": "assistant", "content": text}
    if call:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        what = {"role": "assistant", "tool_calls": [{"index": 0, "id": f"c{turn}", "type": "function", "function": function}]}
    why = "tool_calls" if call else "stop"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = {"id": f"r{turn}", "object": "chat.completion", "created": 0, "model": "scripted", "usage": usage}
    if not body.get("stream"):
        return [("", answer | {"choices": [{"index": 0, "message": {"content": None, **what}, "finish_reason": why}]})]
    chunk = answer | {"object": "chat.completion.chunk"}
    choices: list[Json] = [{"index": 0, "delta": what, "finish_reason": None}, {"index": 0, "delta": {}, "finish_reason": why}]
    return [("", chunk | {"choices": [choice]}) for choice in choices]


def _gemini_asked(body: Json) -> Asked:
    parts = [part for content in body["contents"] for part in content.get("parts", [])]
    answers = [json.dumps(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]
    tools = [tool for offered in body.get("tools", []) for tool in offered.get("functionDeclarations", [])]
    return Asked(_texts([body.get("systemInstruction", ""), body["contents"]]), answers, [tool["name"] for tool in tools])


def _gemini(call: Call | None, text: str, turn: str, body: Json) -> list[tuple[str, Json]]:
    part: Json = {"functionCall": {"name": call[0], "args": call[1]}} if call else {"text": text}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return [("", {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted"})]


SERVICES: list[tuple[str, Callable[[Json], Asked], Callable[[Call | None, str, str, Json], list[tuple[str, Json]]]]] = [
    (r"/v1/messages$", _messages_asked, _messages),
    (r"/responses$", _responses_asked, _responses),
    (r"/chat/completions$", _completions_asked, _completions),
    (r":(stream)?[gG]enerateContent$", _gemini_asked, _gemini),
]


@dataclass
class ScriptedModel:
    """The running service.

    Attributes:
        url: where it listens, without the part of a path that a service adds.
        faults: what went wrong in it.
        offered: the names of all tools that it was offered.
    """

    script: Callable[[str], Script]
    url: str = ""
    faults: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)

    def answer(self, path: str, body: Json) -> list[tuple[str, Json]]:
        """Return the events of an answer.

        Raises:
            LookupError: there is no such service.
        """
        read, write = next((read, write) for pattern, read, write in SERVICES if re.search(pattern, path))
        asked = read(body)
        self.offered |= set(asked.offered)
        call, text = None, "Nothing to do."  # of what clients ask beside the conversation, such as for a title
        if any(asked.has(tool) or _search(asked, tool) for tool in TOOLS):
            call, text = self._next(asked)
        return write(call, text, secrets.token_hex(6), body)

    def _next(self, asked: Asked) -> tuple[Call | None, str]:
        script = self.script(asked.prompt)
        try:
            tool, arguments = next(script)
            for given in asked.answers:
                tool, arguments = script.send(given)
        except StopIteration as end:
            return None, str(end.value)
        return (asked.name(tool), arguments) if asked.has(tool) else _search(asked, tool), ""


class _Handler(BaseHTTPRequestHandler):
    model: ScriptedModel

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(404, "application/json", b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            events = self.model.answer(self.path.partition("?")[0], body)
        except StopIteration:  # such as counting tokens
            self._send(404, "application/json", b"{}")
            return
        except Exception:
            self.model.faults.append(f"{self.path}: {traceback.format_exc()}")
            self._send(400, "application/json", b'{"error": {"type": "invalid_request_error", "message": "the script failed"}}')
            return
        if body.get("stream") or "stream" in self.path:
            self._send(200, "text/event-stream", "".join(_stream(events, self.path)).encode())
        else:
            self._send(200, "application/json", json.dumps(events[0][1]).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _stream(events: Iterable[tuple[str, Json]], path: str) -> Iterator[str]:
    for name, event in events:
        yield (f"event: {name}\n" if name else "") + f"data: {json.dumps(event)}\n\n"
    if path.endswith("/chat/completions"):
        yield "data: [DONE]\n\n"


@contextmanager
def scripted_model(script: Callable[[str], Script]) -> Iterator[ScriptedModel]:
    """Serve a script as a model until the block ends, which fails where the script did; it is given the prompt."""
    model = ScriptedModel(script)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model})) as server:
        model.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield model
        finally:
            server.shutdown()
            thread.join()
            assert not model.faults, model.faults[0]
