"""Resources, prompts, completions and cursors, over every transport and in both protocol eras."""

import json

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ResourceTemplateReference, TextContent

from tests.server.mcp.calls import UNKNOWN, launch

pytestmark = pytest.mark.anyio


async def test_resources_show_the_lab_an_experiment_and_a_diff(client: Client) -> None:
    assert [str(resource.uri) for resource in (await client.list_resources()).resources] == [
        "lab://status",
        "lab://champion",
        "lab://schema",
    ]
    templates = {template.uri_template for template in (await client.list_resource_templates()).resource_templates}
    assert templates == {"experiment://{id}", "experiment://{id}/log", "commit://{sha}/diff"}
    assert "val_bpb REAL or NULL" in await read(client, "lab://schema")
    (id,) = await launch(client, 288)
    assert json.loads(await read(client, "lab://status"))["lab"] == "small"
    experiment = json.loads(await read(client, f"experiment://{id}"))["experiment"]
    assert experiment["state"] == "queued"
    assert "no log yet" in await read(client, f"experiment://{id}/log")
    diff = await read(client, f"commit://{experiment['commit']}/diff")
    assert "+WIDTH = 288" in diff and "not instructions" in diff


@pytest.mark.parametrize(
    "uri",
    [
        f"experiment://{UNKNOWN}",
        "experiment://..",
        "experiment://%2e%2e%2fledger.sqlite",
        "experiment://e-00000000000000%00",
        "commit://--output=x/diff",
        "commit://HEAD/diff",
        "commit://0000000/diff",
        "file:///etc/passwd",
    ],
)
async def test_a_hostile_or_unknown_resource_is_refused(client: Client, uri: str) -> None:
    with anyio.fail_after(10), pytest.raises(MCPError) as refused:
        await client.read_resource(uri)
    assert refused.value.error.code == -32602
    assert "Error creating" not in refused.value.error.message


async def read(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    return str(content.text)  # type: ignore[union-attr]


async def test_prompts_hold_the_contracts_and_the_campaign(client: Client) -> None:
    assert {prompt.name for prompt in (await client.list_prompts()).prompts} == {"orchestrator", "worker"}
    (message,) = (await client.get_prompt("worker", {"name": "worker-3", "direction": "learning rates"})).messages
    assert isinstance(message.content, TextContent)
    assert message.content.text.startswith("# Worker") and "Your name (pass it as `author`): worker-3" in message.content.text
    (message,) = (await client.get_prompt("orchestrator")).messages
    assert isinstance(message.content, TextContent)
    assert message.content.text.startswith("# Orchestrator") and "This campaign" not in message.content.text


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [("boss", {}, "orchestrator and worker"), ("worker", {"nmae": "w"}, "nmae"), ("worker", {"name": "x" * 5000}, "at most 4000")],
)
async def test_a_prompt_that_cannot_be_made_is_refused_with_the_reason(
    client: Client, name: str, arguments: dict[str, str], words: str
) -> None:
    with anyio.fail_after(10), pytest.raises(MCPError) as refused:
        await client.get_prompt(name, arguments)
    assert refused.value.error.code == -32602 and words in refused.value.error.message


async def test_an_unknown_cursor_is_refused(client: Client) -> None:
    for list_ in (client.list_tools, client.list_resources, client.list_prompts, client.list_resource_templates):
        with anyio.fail_after(10), pytest.raises(MCPError) as refused:
            await list_(cursor="bm93aGVyZQ")
        assert refused.value.error.code == -32602 and "cursor" in refused.value.error.message


async def test_ids_are_completed_from_the_lab(client: Client) -> None:
    (id,) = await launch(client, 320)
    reference = ResourceTemplateReference(type="ref/resource", uri="experiment://{id}")
    completed = await client.complete(reference, {"name": "id", "value": id[:12]})
    assert id in completed.completion.values
    reference = ResourceTemplateReference(type="ref/resource", uri="commit://{sha}/diff")
    assert len((await client.complete(reference, {"name": "sha", "value": ""})).completion.values) >= 1
