"""An agent's rhythm with files of its own, whatever way its branch came to the lab: read, claim, edit, propose with a launch, wait."""

from collections.abc import Callable

from mcp import Client

from tests.server.mcp.calls import answer
from tests.server.mcp.conftest import FakeRunnerLab

IDEA = "A wider model has more room to learn in."


async def go_through(lab: FakeRunnerLab, client: Client, edit: Callable[[], str], author: str | None = None) -> str:
    """Go through it once, and return the commit that the lab made.

    Args:
        lab: where the test is the runner.
        client: the agent's.
        edit: makes the change in the agent's own files, and returns the branch that the lab knows then.
        author: the agent's name, where the connection doesn't tell it.
    """
    who = {"author": author} if author else {}
    assert (await answer(client, "search_memory", query="width"))["memories"] == []
    claimed = await answer(client, "claim_idea", text=IDEA, **who)
    proposed = await answer(client, "propose_patch", ref=edit(), launch=1, idea=claimed["id"], **who)
    (launched,) = proposed["launched"]
    lab.finish(launched["id"], 1.5, "c")
    waited = await answer(client, "wait_for_experiments", ids=[launched["id"]], timeout_s=5)
    assert [(line["id"], line["val_bpb"]) for line in waited["experiments"]] == [(launched["id"], 1.5)]
    return str(proposed["commit"])
