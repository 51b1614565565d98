"""`python -m tests.session` writes docs/session.md: an hour of an agent in a lab, call by call, through the real tools.

The lab, the server, the runner and the gate are real. Only the trainings are not: `tests.session_launcher` draws what they find.
"""

import contextlib
import json
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.types import TextContent

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner

PAGE = Path(__file__).parents[1] / "docs" / "session.md"
LAUNCHER = Path(__file__).with_name("session_launcher.py")
AUTHOR = "ada"
_SHOWN, _FIELD, _WIDTH = 2_600, 600, 130  # characters of an answer, of a field in it, and of a line, on the page
_MOST_WAITS = 60


@dataclass
class Step:
    """A call of the session.

    Attributes:
        why: what the agent wants to know or do.
        tool: its name.
        arguments: without the author.
        answer: all text of it.
        waits: how often the same call was made again before it was done.
    """

    why: str
    tool: str
    arguments: dict[str, Any]
    answer: str
    waits: int = 0


@dataclass
class Session:
    """An agent at work, who writes down each call."""

    client: Client
    steps: list[Step] = field(default_factory=list)
    calls: int = 0
    characters: int = 0

    async def ask(self, why: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Make a call, and keep it for the page. Returns its structured answer, if it has one."""
        answer, text = await self._call(tool, arguments)
        self.steps.append(Step(why, tool, arguments, text))
        return answer

    async def wait(self, why: str, **arguments: Any) -> dict[str, Any]:
        """Wait until done, calling again as a client does whose calls are cut."""
        answer, text = await self._call("wait_for_experiments", arguments)
        waits = 0
        while not answer["done"]:
            waits += 1
            assert waits < _MOST_WAITS, text
            answer, text = await self._call("wait_for_experiments", arguments)
        self.steps.append(Step(why, "wait_for_experiments", arguments, text, waits))
        return answer

    async def _call(self, tool: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
        signs = tool in ("propose_patch", "launch_training", "write_memory", "promote_commit", "cancel_experiment")
        with anyio.fail_after(60):
            result = await self.client.call_tool(tool, {**arguments, "author": AUTHOR} if signs else arguments)
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        assert not result.is_error, f"{tool}: {text}"
        self.calls += 1
        self.characters += len(text)
        return result.structured_content or {}, text


async def play(session: Session) -> None:
    """Work as a worker does: measure, decide, promote, rebase, learn from a crash, and look back."""
    ask, wait = session.ask, session.wait

    async def propose(why: str, title: str, hypothesis: str, old: str, new: str, **more: Any) -> dict[str, Any]:
        edits = [{"path": "train.py", "search": old, "replace": new}]
        return await ask(why, "propose_patch", hypothesis=hypothesis, title=title, edits=edits, **more)

    async def decide(why: str, commit: str) -> dict[str, Any]:
        launched = await ask(why, "launch_training", commit=commit, until="decided", idempotency_key=f"decide-{commit}")
        return launched

    await ask("What is this lab, and what is to be done?", "get_status")
    await ask("What did others learn?", "search_memory")
    await ask("What does the code do? The first look shows how it begins.", "read_file", first_line=300, max_lines=32)
    first = await propose(
        "One idea, one change.",
        "Longer warmdown",
        "A warmdown over 80 % of the budget instead of half: at so few steps the end matters most.",
        "WARMDOWN_RATIO = 0.5",
        "WARMDOWN_RATIO = 0.8",
    )
    await decide("Let the lab train it, and the champion beside it, until the gate knows.", first["commit"])
    await wait("Has it started?", until="started", timeout_s=45)
    second = await propose(
        "Meanwhile, the next idea; with a first look at it in the same call.",
        "No softcap",
        "Logits stay small at this size, so the softcap only costs time.",
        "SOFTCAP = 15.0",
        "SOFTCAP = 0.0",
        launch=1,
        wait_s=45,
    )
    await ask("How long until all of mine is done?", "get_status")
    await wait("Wait for all that is mine.", timeout_s=45)
    await ask("What does the gate say?", "promote_commit", commit=first["commit"])
    await ask(
        "Write down what was learned, before the next idea.",
        "write_memory",
        kind="finding",
        text="A warmdown over 80 % of the budget instead of 50 % lowers val_bpb by 0.03 and was promoted. Untested: 1.0.",
        commits=[first["commit"]],
        tags=["schedule"],
    )
    await ask("The champion moved. What is most useful now?", "get_status")
    rebased = await ask("The second idea was built on the old champion: the gate rebases it.", "promote_commit", commit=second["commit"])
    onto = rebased.get("retrain") or second["commit"]
    await decide("Train the combination: gains don't always add up.", onto)
    crashed = await propose(
        "A bold one, meanwhile.",
        "64 layers",
        "Depth instead of width: 64 layers at the same width should use the data better.",
        "DEPTH = 2 ",
        "DEPTH = 64 ",
        launch=1,
        wait_s=45,
    )
    await ask("Why did it crash?", "get_experiment", id=crashed["launched"][0]["id"])
    await ask(
        "A failure is worth a note too.",
        "write_memory",
        kind="failure",
        text="64 layers need 3.2 GB of memory; a run may use 3 GB. Depth 32 would fit, untested.",
        commits=[crashed["commit"]],
    )
    await wait("Wait for the combination.", timeout_s=45)
    await ask("Does it go on top?", "promote_commit", commit=onto)
    await ask("What has been tried, what worked, by how much, and how sure is it?", "query_experiments", group_by="commit")
    await ask("The curves of both beside the champion's.", "plot_progress", commits=[first["commit"], second["commit"]])
    await ask("How does the champion differ from where we began?", "read_file", commit="champion", diff=first["base"])
    await ask(
        "A question that no filter answers.",
        "query_experiments",
        sql="SELECT c.idea, count(*) AS runs, round(sum(e.finished_at - e.started_at)) AS seconds "
        "FROM experiments e JOIN commits c USING (commit) GROUP BY commit ORDER BY seconds DESC",
    )
    await ask("Where does the lab stand at the end?", "get_status")


@contextlib.asynccontextmanager
async def lab_at_work(root: Path, seconds: float) -> AsyncIterator[Client]:
    """Make a lab with two slots and a runner at work, and connect a client to its server."""
    create_lab(root, profile="tiny", budget_s=1.0)
    toml = root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("slots = 0", "slots = 2"), encoding="utf-8")
    settings, state = lab_settings.load(root), LabPaths(root).state
    with runner_lock(state) as mine, contextlib.closing(Lab(root)) as lab, contextlib.closing(Ledger(LabPaths(root).ledger)) as ledger:
        assert mine
        lake = EmbeddedLake(state / "lake")
        compute = LocalCompute("tiny", 1, state / "runner.log", command=(sys.executable, str(LAUNCHER), str(seconds)))
        async with anyio.create_task_group() as tasks, Client(build_server(lab)) as client:
            runner = Runner(settings, state, ledger, Repo(root), lake, compute)
            tasks.start_soon(runner.run, 3600.0)
            yield client
            runner.stopping.set()
        lake.close()


async def recorded(root: Path, seconds: float) -> Session:
    """Play the session in a new lab.

    Args:
        root: where the lab is made.
        seconds: that a training takes.
    """
    async with lab_at_work(root, seconds) as client:
        session = Session(client)
        await play(session)
    return session


def page(session: Session) -> str:
    """Return docs/session.md."""
    lines = [
        "# A session, call by call",
        "",
        "<!-- Generated by `python -m tests.session`; change that instead. -->",
        "",
        "An agent has nothing but the tools. This one takes an idea to the gate, makes it champion, rebases a second one onto it, and learns from a crash.",
        "The lab, the runner and the gate are real; the trainings draw their results, so that an hour takes a minute. Long answers are cut here, "
        f"where it says so. In all, {session.calls} calls read {session.characters:,} characters.",
    ]
    for number, step in enumerate(session.steps, 1):
        again = f" *(called {step.waits} more times: not done is normal)*" if step.waits else ""
        lines += ["", f"## {number}. {step.why}", "", "```text", _call(step), "```"]
        lines += [again.strip(), ""] if again else []
        lines += ["", "```text", _shown(step.answer), "```"]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _call(step: Step) -> str:
    """Return a call as a reader writes it, an argument a line where it is long."""
    arguments = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in step.arguments.items()]
    line = f"{step.tool}({', '.join(arguments)})"
    return line if len(line) <= _WIDTH else "\n".join([f"{step.tool}(", *(f"    {each}," for each in arguments), ")"])


def _shown(answer: str) -> str:
    """Return an answer as a reader likes it: JSON a field a line, without what is empty, wrapped, and cut where it is long."""
    with contextlib.suppress(ValueError):
        fields = json.loads(answer)
        answer = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items() if value not in ([], ""))
    shown: list[str] = []
    lines = answer.splitlines()
    for n, line in enumerate(lines):
        if sum(map(len, shown)) > _SHOWN:
            return "\n".join([*shown, f"… ({len(lines) - n} more lines)"])
        cut = f"{line[:_FIELD]}… ({len(line) - _FIELD} more characters)" if len(line) > _FIELD else line
        shown += textwrap.wrap(cut, _WIDTH, subsequent_indent="    ", break_on_hyphens=False, drop_whitespace=True) or [""]
    return "\n".join(shown)


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(page(anyio.run(recorded, Path(place, "lab"), 2.0)), encoding="utf-8")


if __name__ == "__main__":
    main()
