"""The agents of the demo: MCP clients with a name, each with a server of its own, and the terminal on which they tell what they do."""

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult, Implementation, TextContent
from rich.console import Console
from rich.markup import escape

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths


@dataclass(frozen=True)
class Idea:
    """One change to train.py and what it is good for in the demo."""

    hypothesis: str
    search: str
    replace: str
    replicates: int = 0  # 0: until the gate has decided
    path: str = "train.py"

    @property
    def edits(self) -> list[dict[str, str]]:
        """The change, as `propose_patch` takes it."""
        return [{"path": self.path, "search": self.search, "replace": self.replace}]


class DemoFailure(Exception):
    """Raised where something in the demo did not happen as it must."""


class LiveConsole:
    """The terminal: a line for every event, and one live line with what is happening now."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._now: dict[str, str] = {}
        self._live = console.status("", spinner="dots")
        self._started = time.monotonic()
        self._shown_at = 0.0

    def __enter__(self) -> "LiveConsole":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, who: str, text: str, style: str = "default") -> None:
        """Print a line about an event."""
        line = f"[dim]{self._clock()}[/] [bold]{who:<12}[/] [{style}]{escape(text)}[/]"
        self.console.print(line, highlight=False, soft_wrap=not self.console.is_terminal)

    def now(self, who: str, text: str) -> None:
        """Show what `who` is doing. Where there is no terminal to redraw, print a line every ten seconds."""
        self._now[who] = text
        line = "   ".join(f"{name}: {what}" for name, what in self._now.items() if what)
        if self.console.is_terminal:
            self._live.update(f"[dim]{self._clock()}[/] {escape(line)}")
        elif text and time.monotonic() - self._shown_at > 10:
            self._shown_at = time.monotonic()
            self.console.print(f"{self._clock()} ... {escape(line)}", highlight=False, soft_wrap=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02d}"


@dataclass
class Agent:
    """An MCP client with a name."""

    name: str
    client: Client
    screen: LiveConsole
    trained: list[str] = field(default_factory=list)
    folder: Path = Path()
    branch: str = ""

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured answer.

        Raises:
            DemoFailure: the tool answered with an error.
        """
        result = await self.client.call_tool(tool, arguments)
        if not isinstance(result, CallToolResult) or result.is_error:
            raise DemoFailure(f"{tool}: {_text(result)}")
        return result.structured_content or {}

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Make a call that the server has to refuse, and return its words.

        Raises:
            DemoFailure: it did not refuse.
        """
        result = await self.client.call_tool(tool, arguments)
        if not isinstance(result, CallToolResult) or not result.is_error:
            raise DemoFailure(f"{tool} was not refused")
        return _text(result)

    async def wait(self, ids: list[str]) -> list[dict[str, Any]]:
        """Wait until all have ended, as long as that takes, with what the server reports on the live line."""
        while True:
            answer = await self.look(ids, 40)
            if answer["done"]:
                self.screen.now(self.name, "")
                return list(answer["experiments"])

    async def look(self, ids: list[str], timeout_s: int) -> dict[str, Any]:
        """Wait for at most `timeout_s` seconds; returns the server's answer.

        Raises:
            DemoFailure: the tool answered with an error.
        """

        async def report(progress: float, total: float | None, message: str | None) -> None:
            self.screen.now(self.name, message or "")

        arguments = {"ids": ids, "timeout_s": timeout_s}
        result = await self.client.call_tool("wait_for_experiments", arguments, progress_callback=report)
        if not isinstance(result, CallToolResult) or not result.structured_content:
            raise DemoFailure(f"wait_for_experiments: {_text(result)}")
        answer: dict[str, Any] = result.structured_content
        return answer

    async def propose(self, idea: Idea) -> str:
        """Propose an idea and return its commit."""
        answer = await self.call("propose_patch", hypothesis=idea.hypothesis, edits=idea.edits)
        commit = str(answer["commit"])
        note = "a duplicate of" if answer["duplicate"] else "proposed as"
        self.screen.say(self.name, f"{idea.hypothesis} -> {note} {commit[:10]} ({answer['diff_stat'].strip()})")
        return commit

    async def check_out(self, root: Path) -> None:
        """Make this worker a work tree of its own beside the lab, as `autoresearch-mcp checkout` does."""
        self.folder = root.with_name(f"{root.name}-{self.name}")
        with contextlib.closing(Lab(root)) as lab:
            self.branch = await anyio.to_thread.run_sync(lab.check_out, "champion", self.folder, self.name)
        self.screen.say(self.name, f"edits in {self.folder}, on the branch {self.branch}")

    async def commit(self, idea: Idea) -> list[dict[str, Any]]:
        """Edit the work tree, commit, and have the branch proposed and trained in one call; returns the experiments as they ended."""
        await self._git("reset", "--quiet", "--hard", "research")
        file = self.folder / idea.path
        text = file.read_text(encoding="utf-8")
        expect(idea.search in text, f"{idea.search!r} is not in {file}")
        file.write_text(text.replace(idea.search, idea.replace), encoding="utf-8")
        await self._git(
            "-c", f"user.name={self.name}", "-c", "user.email=demo@example.invalid", "commit", "--quiet", "-am", idea.hypothesis
        )
        self.screen.now(self.name, f"training {idea.hypothesis}")
        answer = await self.call("propose_patch", ref=self.branch, launch=idea.replicates, wait_s=45)
        ids = [line["id"] for line in answer["launched"]]
        self.trained += ids
        self.screen.say(self.name, f"{idea.hypothesis} -> {answer['commit'][:10]} from {self.branch}, training {', '.join(ids)}")
        ended = await self.wait(ids)
        for line in ended:
            self.screen.say(self.name, f"{line['id']} {line['state']}: {line.get('failure') or line.get('val_bpb')}")
        return ended

    async def _git(self, *command: str) -> None:
        await anyio.run_process(["git", *command], cwd=self.folder)

    async def decide(self, commit: str) -> dict[str, Any]:
        """Have the lab train a commit until the gate has decided, and ask the gate all the while. Returns its last answer."""
        launched = await self.call("launch_training", commit=commit, until="decided", idempotency_key=f"{self.name}-{commit}")
        self.screen.say(self.name, f"training {commit[:10]} until the gate decides, beside the champion")
        self.trained += launched["experiments"]
        await self.wait(launched["experiments"])
        code, done = "", False
        while not done:
            done = (await self.look([launched["until_decided"]], 5))["done"]
            answer = await self.call("promote_commit", commit=commit)
            verdict = answer["verdict"]
            if verdict["code"] != code:
                code = verdict["code"]
                self.screen.say(self.name, f"the gate on {commit[:10]}: {code.upper()}. {verdict['reason']} {verdict.get('next', '')}")
            done = done or answer["promoted"]
        self.screen.now(self.name, "")
        return answer

    async def remember(self, kind: str, text: str, experiments: list[str]) -> None:
        """Write a memory."""
        answer = await self.call("write_memory", kind=kind, text=text, experiments=experiments, tags=["demo"])
        self.screen.say(self.name, f"remembered as {answer['id']}: {text}")


def _text(result: object) -> str:
    parts = result.content if isinstance(result, CallToolResult) else []
    return " ".join(part.text for part in parts if isinstance(part, TextContent))


@contextlib.asynccontextmanager
async def agent(name: str, root: Path, screen: LiveConsole, signs: bool = False) -> AsyncIterator[Agent]:
    """Start a server for this agent, as Claude Code and others like it do, and connect to it.

    Args:
        name: of the agent; the server tells its sessions apart, unless it `signs`.
        root: of the lab.
        screen: where the agent tells what it does.
        signs: whether the server signs all its calls by that name, so that a later session goes on as the same agent.
    """
    with LabPaths(root).server_log(name).open("a", encoding="utf-8") as log:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-P", "-m", "autoresearch_mcp.server.cli", "serve", *(["--as", name] if signs else []), str(root)],
            env=dict(os.environ),
        )
        async with Client(stdio_client(server, errlog=log), client_info=Implementation(name=name, version="1")) as client:
            yield Agent(name, client, screen)


def expect(true: object, otherwise: str) -> None:
    """Raise `DemoFailure` where something did not happen as it must."""
    if not true:
        raise DemoFailure(otherwise)
