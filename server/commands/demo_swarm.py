"""The second act of the demo: agents share a lab. One is refused what another holds, a sweep tunes a constant, and the lab suggests a combination.

Its trainings are short. Whoever set the lab up left the output layer's learning rate far too low and the batch far too large, so that both ideas
are better beyond doubt.
"""

from pathlib import Path

import anyio

from autoresearch_mcp.server.commands.demo_agents import Agent, Idea, LiveConsole, agent, expect
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.installation import is_installed
from autoresearch_mcp.server.proposals.making import NewRepo

BUDGET_S = 1.0  # CPU seconds of a training
TRIALS = 8
HEAD = Idea(
    "The output layer hardly moves: eight times its learning rate fits the bytes sooner",
    "UNEMBEDDING_LR = 0.0005",
    "UNEMBEDDING_LR = 0.004",
    1,
)
BATCH = Idea("A quarter of the batch: four times the steps in the same time", "BATCH_TOKENS = 4096", "BATCH_TOKENS = 1024", replicates=1)
TUNED = {"MATRIX_LR": {"low": 0.01, "high": 0.2, "log": True}}


def create(root: Path) -> None:
    """Make the lab of this act.

    Raises:
        LabError: those of `create_lab`.
    """
    create_lab(root, profile="tiny", budget_s=BUDGET_S)
    text = (root / "train.py").read_text(encoding="utf-8")
    for idea in (HEAD, BATCH):
        expect(text.count(idea.replace) == 1, f"train.py has no {idea.replace!r}")
        text = text.replace(idea.replace, idea.search)
    NewRepo(root).commit_files({"train.py": text.encode()}, "A learning rate far too low, and a batch far too large")


async def campaign(root: Path, screen: LiveConsole) -> None:
    """Show everything, in order.

    Raises:
        DemoFailure: the lab did not do what it must.
    """
    async with (
        agent("orchestrator", root, screen, signs=True) as boss,
        agent("worker-1", root, screen, signs=True) as one,
        agent("worker-2", root, screen, signs=True) as two,
    ):
        ideas = [(await boss.call("write_memory", kind="idea", text=each.hypothesis, tags=["rates"]))["id"] for each in (HEAD, BATCH)]
        screen.say(boss.name, f"two ideas for two workers: {', '.join(ideas)}")
        cursor = (await boss.call("get_status"))["cursor"]
        claimed = await one.call("claim_idea", id=ideas[0])
        screen.say(one.name, f"{HEAD.hypothesis} -> claimed. {claimed['note']}")
        refused = await two.call("claim_idea", text=HEAD.hypothesis)
        expect(not refused["claimed"] and refused["id"] == ideas[0], "a claim on what another holds was not refused")
        free = refused["free"][0]["id"]
        expect(free == ideas[1], "the free idea was not named")
        screen.say(two.name, f"the same, by its text -> {refused['note']} Takes {free} instead.")
        await two.call("claim_idea", id=free)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_sweep, boss)
            tasks.start_soon(_try, one, HEAD, ideas[0])
            tasks.start_soon(_try, two, BATCH, ideas[1])
        (suggested, *_) = (await one.call("search_memory", kind="idea", free=True))["memories"] or [{}]
        expect(suggested.get("author") == "[lab]" and len(suggested["commits"]) == 2, "the lab suggested no combination")
        screen.say("the lab", f"{suggested['id']}: {suggested['text']}")
    await _wake(root, screen, cursor, ideas[1])


async def _try(worker: Agent, idea: Idea, id: str) -> None:
    """Train an idea that the worker holds."""
    commit = (await worker.call("propose_patch", hypothesis=idea.hypothesis, edits=idea.edits, idea=id))["commit"]
    launched = await worker.call("launch_training", commit=commit, replicates=idea.replicates)
    for line in await worker.wait(launched["experiments"]):
        worker.screen.say(worker.name, f"{commit[:10]}: {line['id']} {line['state']}: {line.get('val_bpb')}")


async def _sweep(boss: Agent) -> None:
    """Tune a constant of the champion."""
    sampler = "tpe" if is_installed("optuna") else "random"
    launched = await boss.call("launch_sweep", commit="champion", parameters=TUNED, trials=TRIALS, parallel=2, sampler=sampler)
    boss.screen.say(boss.name, f"a sweep over {', '.join(TUNED)} by {sampler}: {launched['id']}. {launched['note']}")
    await boss.wait([launched["id"]])
    sweep = (await boss.call("get_experiment", id=[launched["id"]]))["sweep"]
    expect(sweep["state"] == "done" and sweep["ended"] == TRIALS and sweep.get("best_values"), f"the sweep is {sweep}")
    values = ", ".join(f"{name} = {value}" for name, value in sweep["best_values"].items())
    boss.screen.say(boss.name, f"{sweep['ended']} trials ended, the best {sweep['best']:.4f} with {values}: a candidate like any other")


async def _wake(root: Path, screen: LiveConsole, cursor: str, held: str) -> None:
    """Show a fresh session of worker-2, which knows nothing but a cursor: one call tells it what happened and what to do."""
    async with agent("worker-2", root, screen, signs=True) as fresh:
        status = await fresh.call("get_status", since=cursor)
    for line in status["news"]:
        screen.say("worker-2", f"wakes, and hears: {line}", "dim")
    for line in status["next"]:
        screen.say("worker-2", f"what next? {line}")
    expect(any("ended" in line for line in status["news"]), "a fresh agent did not hear what ended")
    expect(any(line.startswith(f"You hold {held} ") for line in status["next"]), "a fresh agent did not hear what it holds")
