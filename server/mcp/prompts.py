"""The prompts `orchestrator` and `worker`: the contracts, with what this campaign adds."""

from typing import Annotated

from mcp.server.mcpserver import MCPServer
from pydantic import Field

from autoresearch_mcp.contracts import contract
from autoresearch_mcp.server.untrusted import clean

Line = Annotated[str, Field(max_length=4000)]


def add_prompts(server: MCPServer[object]) -> None:
    """Give the server its prompts."""

    @server.prompt(
        title="Run a research campaign", description="The contract of the orchestrator: split the work, promote, keep the budget."
    )
    async def orchestrator(
        goal: Annotated[Line, Field(description="what this campaign is after, in a sentence")] = "",
        workers: Annotated[Line, Field(description="how many workers you may start, or their names")] = "",
    ) -> str:
        return _with(contract("orchestrator"), {"Goal of this campaign": goal, "Workers": workers})

    @server.prompt(title="Work on experiments", description="The contract of a worker: propose, train, learn, repeat.")
    async def worker(
        name: Annotated[Line, Field(description="the name to sign with")] = "",
        direction: Annotated[Line, Field(description="what to explore; others explore the rest")] = "",
    ) -> str:
        return _with(contract("worker"), {"Your name (pass it as `author`)": name, "Your direction": direction})


def _with(text: str, particulars: dict[str, str]) -> str:
    given = [f"- {label}: {clean(value).strip()}" for label, value in particulars.items() if value.strip()]
    return text + ("\n## This campaign\n" + "\n".join(given) + "\n" if given else "")
