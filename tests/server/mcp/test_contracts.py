"""The contracts speak of tools, arguments and verdicts that exist."""

import contextlib
import re
from pathlib import Path
from typing import Literal, get_args

import pytest
from mcp import Client

from autoresearch_mcp.contracts import contract
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.models import Verdict
from autoresearch_mcp.server.search_answers import SearchStateName
from autoresearch_mcp.trainer.failures import ADVICE
from tests.server.mcp.conftest import make_runner_lab

pytestmark = pytest.mark.anyio
Role = Literal["orchestrator", "worker"]


@pytest.mark.parametrize("role", get_args(Role))
async def test_every_call_in_a_contract_can_be_made(role: Role, tmp_path: Path) -> None:
    for runner_lab in make_runner_lab(tmp_path / "lab"):
        with contextlib.closing(Lab(runner_lab.root)) as lab:
            async with Client(build_server(lab)) as client:
                known = {tool.name: set(tool.input_schema["properties"]) for tool in (await client.list_tools()).tools}
    calls = re.findall(r"`(\w+)\(([^`]*)\)`", contract(role))
    assert len(calls) > 8
    for tool, arguments in calls:
        assert set(re.findall(r"(\w+)=", arguments)) <= known[tool], (tool, arguments)


@pytest.mark.parametrize("role", get_args(Role))
def test_every_verdict_has_its_advice(role: Role) -> None:
    for code in get_args(Verdict.model_fields["code"].annotation):
        assert f"| `{code}` |" in contract(role)


def test_every_kind_of_failure_has_its_advice() -> None:
    for kind in (*ADVICE, "lost", "hopeless"):
        assert re.search(rf"^\| .*`{kind}`.* \|", contract("worker"), re.MULTILINE), kind


@pytest.mark.parametrize("role", get_args(Role))
def test_every_state_of_the_search_has_its_advice(role: Role) -> None:
    for state in get_args(SearchStateName):
        assert f"`{state}`: " in contract(role)


@pytest.mark.parametrize("role", get_args(Role))
def test_a_contract_is_short(role: Role) -> None:
    assert len(contract(role).splitlines()) < 120
