"""A scripted worker of a swarm: it wakes with one `get_status`, takes ideas from the backlog, and works each to its end, by the tools alone.

python -m tests.acceptance.working_agent NAME (ROOT | URL TOKEN) runs one as a process of its own, which can be killed. It prints each tool
before the call, and the cursor that it goes on from.
"""

import contextlib
import os
import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from autoresearch_mcp.server.lab.backlog import SUGGESTED_BY

HERE = Path(__file__).parents[2]
MINUTES = 1  # of a claim: the fewest
TAGS = ("shape", "rates", "data")
GAINING = 7  # the idea whose gain, of six standard deviations, nobody can miss
_CHOICE = 8  # of the best ideas: agents that all took the best would meet there
_SYLLABLES = [f"{consonant}{vowel}" for consonant in "bdfgklmnprst" for vowel in "aeiou"]


def text_of(number: int) -> str:
    """An idea in words that no other idea has, and unlike all others in meaning: of these 60, a search takes none for another one's result."""
    dice = random.Random(f"the words of idea 0 {number}")
    words = " ".join("".join(dice.sample(_SYLLABLES, 3)) for _ in range(4))
    return f"Idea {number}: {words}."


def files_of(number: int) -> dict[str, str]:
    """The change that tries an idea: a file that the drawing launcher reads the gain from."""
    return {f"ideas/idea_{number}.py": f'GAIN = {6.0 if number == GAINING else 0.0}\nNAME = "idea {number}"\nprint(NAME, GAIN)\n'}


@contextlib.asynccontextmanager
async def connected(name: str, place: str, token: str = "") -> AsyncIterator[Client]:
    """A client with a server of its own over stdio where `place` is a lab's folder, else with the server at this address."""
    if token:
        async with (
            create_mcp_http_client(headers={"Authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(place, http_client=http)) as client,
        ):
            yield client
    else:
        command = ["-P", "-m", "autoresearch_mcp.server.cli", "serve", "--as", name, place]
        async with Client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))) as client:
            yield client


class Worker:
    """An agent with a name.

    Args:
        client: connected, and known by that name.
        about: told of each call before it is made.
    """

    def __init__(self, client: Client, about: Callable[[str], None] = lambda tool: None) -> None:
        self._client = client
        self._about = about

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self._about(tool)
        with anyio.fail_after(60):
            result = await self._client.call_tool(tool, arguments)
        assert not result.is_error and result.structured_content is not None, (tool, result.content)
        answer: dict[str, Any] = result.structured_content
        return answer

    async def wake(self, since: str | None = None) -> dict[str, Any]:
        """The one call with which a session begins."""
        return await self.call("get_status", **({"since": since} if since else {}))

    async def work(self, status: dict[str, Any]) -> None:
        """Go on with the ideas that the status says are this agent's, then with free ones, until there is none."""
        for step in status["next"]:
            if held := re.match(r"You hold (m-\w+) 'Idea (\d+).*; (?:(\w{12}) of it)?", step):
                await self.finish(held[1], int(held[2]), held[3])
        while idea := await self.claimed():
            await self.finish(*idea)

    async def claimed(self) -> tuple[str, int] | None:
        """Claim one of the best free ideas. None where there is none. What the lab suggests, where draws were lucky, is left alone."""
        while free := [idea for idea in await self.free() if idea["author"] != SUGGESTED_BY]:
            idea = random.choice(free)
            answer = await self.call("claim_idea", id=idea["id"], minutes=MINUTES)
            if answer["claimed"]:
                return idea["id"], int(idea["text"].split()[1].rstrip(":"))
        return None

    async def free(self) -> list[dict[str, Any]]:
        return list((await self.call("search_memory", kind="idea", free=True, limit=_CHOICE))["memories"])

    async def finish(self, id: str, number: int, commit: str | None = None) -> None:
        """Propose an idea, train it once, have the one that gains decided and promoted, write it down, and let go of it."""
        if commit is None:
            hypothesis = f"{text_of(number)} It should lower the metric."
            proposed = await self.call("propose_patch", hypothesis=hypothesis, files=files_of(number), idea=id, tags=[TAGS[number % 3]])
            commit = str(proposed["commit"])
        launched = await self.call("launch_training", commit=commit, idempotency_key=f"once-{id}", confirm=True)
        (line,) = await self.ended(launched["experiments"])
        if number == GAINING:
            await self.decide(commit, f"decide-{id}")
            await self.promote(commit)
        text = f"Idea {number} gave {line['val_bpb']:.3f} in one run."
        await self.call("write_memory", kind="finding", text=text, experiments=[line["id"]])
        await self.call("claim_idea", id=id, release=True)

    async def decide(self, commit: str, key: str) -> None:
        """Have the change that gains decided."""
        decided = await self.call("launch_training", commit=commit, until="decided", idempotency_key=key, confirm=True)
        await self.ended([decided["until_decided"]])

    async def promote(self, commit: str) -> None:
        """Promote what the gate can't have missed; one that died may have done so already."""
        answer = await self.call("promote_commit", commit=commit)
        assert answer["promoted"] or answer["verdict"]["code"] == "is_champion", answer

    async def ended(self, ids: list[str]) -> list[dict[str, Any]]:
        while not (answer := await self.call("wait_for_experiments", ids=ids, timeout_s=30))["done"]:
            pass
        return list(answer["experiments"])


async def main(name: str, place: str, token: str = "") -> None:
    async with connected(name, place, token) as client:
        worker = Worker(client, lambda tool: print(tool, flush=True))
        status = await worker.wake()
        print(status["cursor"], flush=True)
        await worker.work(status)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
