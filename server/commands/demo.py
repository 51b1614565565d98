"""A research campaign in minutes: `autoresearch-mcp demo`.

A scripted orchestrator and two workers, each an MCP client with a server of its own over stdio, research one fresh lab at once. One worker
edits files in a work tree. In a second act they share a lab as a swarm does (`demo_swarm`). The script knows which ideas to try; everything
they answer is measured: real text, a real tokenizer, a real GPT, trained for real.
"""

import argparse
import base64
import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from mcp.types import CallToolResult, ImageContent
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoresearch_mcp.server.commands import demo_swarm
from autoresearch_mcp.server.commands.demo_agents import Agent, DemoFailure, Idea, LiveConsole, agent, expect
from autoresearch_mcp.server.commands.examples import EXAMPLES as LABS
from autoresearch_mcp.server.commands.examples import Change
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.page.serving import served_page
from autoresearch_mcp.trainer.records import METRIC

EXAMPLES = ("autoresearch-mcp demo", "autoresearch-mcp demo my-first-lab --budget-s 10", "autoresearch-mcp demo --example tabular")


_SHAPE = "DEPTH = {}  # layers\nWIDTH = 64  # channels of the residual stream\nHEAD_DIM = {} "
BETTER = Idea("One layer with one head: more steps in the same time", _SHAPE.format(2, 32), _SHAPE.format(1, 64))  # by 5 sd
WORSE = Idea("Four times the batch: smoother gradients", "BATCH_TOKENS = 1024", "BATCH_TOKENS = 4096")
CRASH = Idea("Wider heads see more at once", "HEAD_DIM = 32", "HEAD_DIM = 48", replicates=1)
NAN = Idea("A far higher matrix learning rate learns faster", "MATRIX_LR = 0.04", "MATRIX_LR = 1e30", replicates=1)
TWIN = Idea("What if the heads were wider?", "HEAD_DIM = 32 ", "HEAD_DIM = 48 ")
FORBIDDEN = Idea("Measure on fewer bytes: a faster evaluation", "eval_bytes", "eval_bites", path="trainer/prepare.py")


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
        expect(bool(answer["memories"]), "what was remembered was not found again")
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
    expect(answer["promoted"] is wins, f"{change.hypothesis}: {'not promoted' if wins else 'promoted'}")
    kind = "finding" if wins else "failure"
    await worker.remember(kind, f"{change.hypothesis}: {answer['verdict']['reason']}", worker.trained[-1:])


async def _worker_one(one: Agent) -> None:
    """Try what should win."""
    refusal = await one.refused("propose_patch", hypothesis=FORBIDDEN.hypothesis, edits=FORBIDDEN.edits)
    one.screen.say(one.name, f"{FORBIDDEN.hypothesis} -> refused: {refusal}")
    commit = await one.propose(BETTER)
    answer = await one.decide(commit)
    expect(answer["promoted"], "the better commit was not promoted")
    await one.remember("finding", f"{BETTER.hypothesis}: {answer['verdict']['reason']}", one.trained[-1:])


async def _worker_two(two: Agent, root: Path) -> None:
    """Try what should fail, in a work tree, and what is no better."""
    await two.check_out(root)
    for idea, failure in ((CRASH, "shape_error"), (NAN, "nan")):
        (ended,) = await two.commit(idea)
        full = await two.call("get_experiment", id=ended["id"])
        got = full.get("failure", {})
        expect(got.get("kind") == failure, f"{idea.hypothesis}: expected {failure}, got {got}")
        await two.remember("failure", f"{idea.hypothesis}: {failure}. {got['advice']}", [ended["id"]])
    twin = await two.call("propose_patch", hypothesis=TWIN.hypothesis, edits=TWIN.edits)
    expect(twin["duplicate"], "the duplicate was not recognised")
    two.screen.say(two.name, f"{TWIN.hypothesis} -> {twin['note']}")
    answer = await two.decide(await two.propose(WORSE))
    expect(not answer["promoted"], "a worse commit was promoted")
    await two.remember("failure", f"{WORSE.hypothesis}: {answer['verdict']['reason']}", two.trained[-1:])


async def _report(boss: Agent, root: Path, metric: str = METRIC) -> None:
    """Show the leaderboard, and save the picture."""
    picture = await boss.client.call_tool("plot_progress", {})
    images = [part for part in picture.content if isinstance(part, ImageContent)] if isinstance(picture, CallToolResult) else []
    expect(len(images) == 1, "no picture came")
    (root / "progress.png").write_bytes(base64.b64decode(images[0].data))
    columns = ["commit", "state", "val_bpb", "author", "hypothesis", "failure"]
    rows = (await boss.call("query_experiments", columns=columns, order_by="val_bpb", limit=100))["rows"]
    status = await boss.call("get_status")
    boss.screen.console.print(_table(rows, status["champion"]["commit"], metric, "higher is better" in status["metric"]))
    expected = status["expected_false_promotions"]
    boss.screen.say(boss.name, f"promotions: {status['promotions']}; at most {expected:.2g} of them are expected to be luck")


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
                shared = _free(root.with_name(f"{root.name}-swarm"))
                demo_swarm.create(shared)
                screen.say("you", f"and now a swarm, in a lab of its own: {shared}")
                anyio.run(demo_swarm.campaign, shared, screen)
    except (DemoFailure, LabError, BaseExceptionGroup) as error:
        causes = list(_causes(error))
        if not all(isinstance(cause, DemoFailure | LabError) for cause in causes):
            raise
        console.print(f"[red]The demo failed:[/] {escape(str(causes[0]))}\nThe lab is kept in {escape(str(root))}.", soft_wrap=True)
        return 1
    end = f"Done in {time.monotonic() - started:.0f} s. The lab: {root}\nThe page: autoresearch-mcp ui {root}\nThe picture: {root / 'progress.png'}"
    console.print(f"{end}\nThe champions: git -C {root} log research", highlight=False, markup=False, soft_wrap=True)
    return 0
