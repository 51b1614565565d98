"""A research campaign in minutes: `autoresearch-mcp demo`.

A scripted orchestrator and two workers, each an MCP client with a server of its own over stdio, research one fresh lab at once. One worker
edits files in a work tree. The script knows which ideas to try; everything they answer is measured: real text, a real tokenizer, a real
GPT, trained for real.
"""

import argparse
import base64
import contextlib
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult, ImageContent, Implementation, TextContent
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoresearch_mcp.server.commands.examples import EXAMPLES as LABS
from autoresearch_mcp.server.commands.examples import Change
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.page.serving import served_page
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.trainer.records import METRIC

EXAMPLES = ("autoresearch-mcp demo", "autoresearch-mcp demo my-first-lab --budget-s 10", "autoresearch-mcp demo --example tabular")


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


_SHAPE = "DEPTH = {}  # layers\nWIDTH = 64  # channels of the residual stream\nHEAD_DIM = {} "
BETTER = Idea("One layer with one head: more steps in the same time", _SHAPE.format(2, 32), _SHAPE.format(1, 64))  # by 5 sd
WORSE = Idea("Four times the batch: smoother gradients", "BATCH_TOKENS = 1024", "BATCH_TOKENS = 4096")
CRASH = Idea("Wider heads see more at once", "HEAD_DIM = 32", "HEAD_DIM = 48", replicates=1)
NAN = Idea("A far higher matrix learning rate learns faster", "MATRIX_LR = 0.04", "MATRIX_LR = 1e30", replicates=1)
TWIN = Idea("What if the heads were wider?", "HEAD_DIM = 32 ", "HEAD_DIM = 48 ")
FORBIDDEN = Idea("Measure on fewer bytes: a faster evaluation", "eval_bytes", "eval_bites", path="trainer/prepare.py")


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
        _expect(idea.search in text, f"{idea.search!r} is not in {file}")
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
async def agent(name: str, root: Path, screen: LiveConsole) -> AsyncIterator[Agent]:
    """Start a server for this agent, as Claude Code and others like it do, and connect to it."""
    with LabPaths(root).server_log(name).open("a", encoding="utf-8") as log:
        server = StdioServerParameters(
            command=sys.executable, args=["-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)], env=dict(os.environ)
        )
        async with Client(stdio_client(server, errlog=log), client_info=Implementation(name=name, version="1")) as client:
            yield Agent(name, client, screen)


@contextlib.contextmanager
def page(root: Path, screen: LiveConsole) -> Iterator[None]:
    """Serve the lab's page while the demo goes on, and print its address."""
    with served_page(root) as address:
        screen.say("you", f"follow it in a browser: {address}")
        yield


async def campaign(root: Path, screen: LiveConsole) -> None:
    """Show everything, in order.

    Raises:
        DemoFailure: the lab did not do what it must.
    """
    async with agent("orchestrator", root, screen) as boss, agent("worker-1", root, screen) as one, agent("worker-2", root, screen) as two:
        status = await boss.call("get_status")
        screen.say(
            "orchestrator", f"champion {status['champion']['commit'][:10]}, budget {status['budget']['left_s'] / 3600:.1f} device hours"
        )
        plan = "Plan: worker-1 looks at the output layer and depth, worker-2 at batch size and learning rates."
        await boss.remember("insight", plan, [])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_worker_one, one)
            tasks.start_soon(_worker_two, two, root)

        answer = await boss.call("search_memory", query="layer")
        _expect(bool(answer["memories"]), "what was remembered was not found again")
        screen.say(boss.name, f"found again by 'layer': {answer['memories'][0]['text']}")
        await _report(boss, root)


async def example_campaign(root: Path, screen: LiveConsole, name: str) -> None:
    """Show a lab with a metric of its own: a better and a worse idea, each trained until the gate has decided.

    Raises:
        DemoFailure: the lab did not do what it must.
    """
    example = LABS[name]
    async with agent("orchestrator", root, screen) as boss, agent("worker-1", root, screen) as one, agent("worker-2", root, screen) as two:
        status = await boss.call("get_status")
        screen.say(boss.name, f"champion {status['champion']['commit'][:10]}; {status['metric']}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_try, one, example.better, True)
            tasks.start_soon(_try, two, example.worse, False)
        await _report(boss, root, example.metric)


async def _try(worker: Agent, change: Change, wins: bool) -> None:
    answer = await worker.decide(await worker.propose(Idea(change.hypothesis, change.search, change.replace)))
    _expect(answer["promoted"] is wins, f"{change.hypothesis}: {'not promoted' if wins else 'promoted'}")
    kind = "finding" if wins else "failure"
    await worker.remember(kind, f"{change.hypothesis}: {answer['verdict']['reason']}", worker.trained[-1:])


async def _worker_one(one: Agent) -> None:
    """Try what should win."""
    refusal = await one.refused("propose_patch", hypothesis=FORBIDDEN.hypothesis, edits=FORBIDDEN.edits)
    one.screen.say(one.name, f"{FORBIDDEN.hypothesis} -> refused: {refusal}")
    commit = await one.propose(BETTER)
    answer = await one.decide(commit)
    _expect(answer["promoted"], "the better commit was not promoted")
    await one.remember("finding", f"{BETTER.hypothesis}: {answer['verdict']['reason']}", one.trained[-1:])


async def _worker_two(two: Agent, root: Path) -> None:
    """Try what should fail, in a work tree, and what is no better."""
    await two.check_out(root)
    for idea, failure in ((CRASH, "shape_error"), (NAN, "nan")):
        (ended,) = await two.commit(idea)
        full = await two.call("get_experiment", id=ended["id"])
        got = full.get("failure", {})
        _expect(got.get("kind") == failure, f"{idea.hypothesis}: expected {failure}, got {got}")
        await two.remember("failure", f"{idea.hypothesis}: {failure}. {got['advice']}", [ended["id"]])
    twin = await two.call("propose_patch", hypothesis=TWIN.hypothesis, edits=TWIN.edits)
    _expect(twin["duplicate"], "the duplicate was not recognised")
    two.screen.say(two.name, f"{TWIN.hypothesis} -> {twin['note']}")
    answer = await two.decide(await two.propose(WORSE))
    _expect(not answer["promoted"], "a worse commit was promoted")
    await two.remember("failure", f"{WORSE.hypothesis}: {answer['verdict']['reason']}", two.trained[-1:])


async def _report(boss: Agent, root: Path, metric: str = METRIC) -> None:
    """Show the leaderboard, and save the picture."""
    picture = await boss.client.call_tool("plot_progress", {})
    images = [part for part in picture.content if isinstance(part, ImageContent)] if isinstance(picture, CallToolResult) else []
    _expect(len(images) == 1, "no picture came")
    (root / "progress.png").write_bytes(base64.b64decode(images[0].data))
    columns = ["commit", "state", "val_bpb", "author", "hypothesis", "failure"]
    rows = (await boss.call("query_experiments", columns=columns, order_by="val_bpb", limit=100))["rows"]
    status = await boss.call("get_status")
    boss.screen.console.print(_table(rows, status["champion"]["commit"], metric, "higher is better" in status["metric"]))
    expected = status["expected_false_promotions"]
    boss.screen.say(boss.name, f"{status['promotions']} promotions; at most {expected:.2g} of them are expected to be luck")


def _table(rows: list[dict[str, Any]], champion: str, metric: str, higher: bool) -> Table:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["commit"], []).append(row)

    def mean(group: list[dict[str, Any]]) -> float:
        values = [row["val_bpb"] for row in group if row.get("val_bpb") is not None]
        return sum(values) / len(values) if values else math.inf

    table = Table(title="What was tried, the best first", expand=True)
    for column in ("", "commit", "runs", metric, "by"):
        table.add_column(column, no_wrap=True)
    table.add_column("hypothesis", ratio=1)
    for commit, group in sorted(groups.items(), key=lambda item: -mean(item[1]) if higher else mean(item[1])):
        failure = group[0].get("failure")
        shown = f"{mean(group):.4f}" if math.isfinite(mean(group)) else failure["kind"] if failure else group[0]["state"]
        mark = "champion" if commit == champion else ""
        table.add_row(mark, commit[:10], str(len(group)), shown, group[0]["author"], escape(group[0]["hypothesis"]))
    return table


def _expect(true: object, otherwise: str) -> None:
    if not true:
        raise DemoFailure(otherwise)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _free(directory: Path) -> Path:
    """Return the directory, or the first of directory-2, directory-3, ... that does not exist yet."""
    n = 1
    free = directory
    while free.exists():
        n += 1
        free = directory.with_name(f"{directory.name}-{n}")
    return free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("directory", nargs="?", type=Path, default=Path("demo-lab"), help="where the lab is made (default: demo-lab)")
    parser.add_argument(
        "--budget-s", metavar="SECONDS", type=float, default=6.0, help="CPU seconds of training for each experiment (default: 6)"
    )
    parser.add_argument("--example", choices=LABS, help="another lab: one of those that `init --example` makes")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 if all happened as it must, else 1.
    """
    console = Console()
    root = _free(arguments.directory.resolve())
    started = time.monotonic()
    try:
        with LiveConsole(console) as screen:
            if arguments.example:
                create_lab(root, example=arguments.example)
                with page(root, screen):
                    anyio.run(example_campaign, root, screen, arguments.example)
            else:
                create_lab(root, profile="cpu", budget_s=arguments.budget_s)
                with page(root, screen):
                    anyio.run(campaign, root, screen)
    except (DemoFailure, LabError, BaseExceptionGroup) as error:
        causes = list(_causes(error))
        if not all(isinstance(cause, DemoFailure | LabError) for cause in causes):
            raise
        console.print(f"[red]The demo failed:[/] {escape(str(causes[0]))}\nThe lab is kept in {escape(str(root))}.", soft_wrap=True)
        return 1
    end = f"Done in {time.monotonic() - started:.0f} s. The lab: {root}\nThe page: autoresearch-mcp ui {root}\nThe picture: {root / 'progress.png'}"
    console.print(f"{end}\nThe champions: git -C {root} log research", highlight=False, markup=False, soft_wrap=True)
    return 0
