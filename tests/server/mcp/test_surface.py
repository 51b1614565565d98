"""What a client sees and gets, the same over every transport and in both protocol eras."""

import json
import re
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import ImageContent, TextContent

from autoresearch_mcp.contracts import TOOLS
from tests.server.mcp.calls import UNKNOWN, answer, call, launch, propose, refusal, text
from tests.server.mcp.conftest import FakeRunnerLab

pytestmark = pytest.mark.anyio


async def test_tools_are_few_small_and_described(client: Client) -> None:
    listed = await client.list_tools()
    assert tuple(tool.name for tool in listed.tools) == TOOLS
    size = len(listed.model_dump_json(by_alias=True, exclude_none=True))
    assert size < 16 * 1024, size
    for tool in listed.tools:
        assert tool.title
        assert 60 < len(tool.description or "") < 600
        assert "\n" not in (tool.description or "")
        assert tool.annotations is not None and tool.annotations.open_world_hint is False
        assert tool.annotations.read_only_hint is not None


async def test_schemas_are_objects_that_every_client_can_read(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        for schema in filter(None, [tool.input_schema, tool.output_schema]):
            assert schema["type"] == "object"
            assert not {"anyOf", "oneOf", "allOf", "$ref"} & schema.keys()
            assert "anyOf" not in json.dumps(schema) and '"title": "' not in json.dumps(schema)
        assert '"additionalProperties": false' not in json.dumps(tool.input_schema), "google-genai reads no boolean there"
        assert "$ref" not in json.dumps(tool.input_schema)
        assert tool.output_schema or tool.name in ("read_file", "read_log", "plot_progress")


async def test_answers_are_typed_all_the_way_down(client: Client) -> None:
    free: set[str] = set()

    def untyped(node: dict[str, Any], definitions: dict[str, Any], where: str) -> list[str]:
        node = definitions[node["$ref"].split("/")[-1]] if "$ref" in node else node
        if not node:  # anything, with names that depend on the call: fastmcp 2 would make an empty object of a typed one
            free.add(where)
            return []
        if node["type"] == "array":
            return untyped(node["items"], definitions, where + "[]")
        if node["type"] != "object":
            return []
        inside = [untyped(each, definitions, f"{where}.{name}") for name, each in node.get("properties", {}).items()]
        return [place for places in inside for place in places] if inside else [where]

    for tool in (await client.list_tools()).tools:
        if tool.output_schema:
            assert untyped(tool.output_schema, tool.output_schema.get("$defs", {}), tool.name) == []
    assert free == {"query_experiments.rows[]", "get_experiment.rows[]"}


async def test_a_client_with_tools_only_reads_tables_and_diffs_too(client: Client) -> None:
    assert "val_bpb REAL" in (await answer(client, "query_experiments", sql="schema"))["note"]
    assert "val_bpb REAL" in await refusal(client, "query_experiments", sql="SELECT loss FROM experiments")
    commit = (await propose(client, 104))["commit"]
    assert "+WIDTH = 104" in text(await call(client, "read_file", commit=commit, diff=True))


async def test_a_query_by_metric_shows_the_best_first(client: Client, runner_lab: FakeRunnerLab) -> None:
    ids = await launch(client, 112, replicates=2)
    for id, val_bpb in zip(ids, (1.9, 1.2)):
        runner_lab.finish(id, val_bpb, "best")
    rows = (await answer(client, "query_experiments", text="width of 112", order_by="val_bpb"))["rows"]
    assert [row["val_bpb"] for row in rows] == [1.2, 1.9]


async def test_a_sweep_is_shown_waited_for_and_cancelled_by_its_id(client: Client) -> None:
    choices = {"RATE": {"choices": ["0.02", "0.08"]}, "DEPTH": {"low": 1, "high": 4}}
    asked = {"commit": "champion", "parameters": choices, "trials": 6, "sampler": "random", "idempotency_key": "one sweep"}
    launched = await answer(client, "launch_sweep", **asked)
    id, again = launched["id"], await answer(client, "launch_sweep", **asked)
    assert (again["id"], again["repeated"], launched["repeated"]) == (id, True, False)
    assert [each["left"] for each in (await answer(client, "get_status"))["sweeps"]] == [6]
    assert (await answer(client, "get_experiment", id=[id]))["sweep"]["state"] == "open"
    waited = await answer(client, "wait_for_experiments", ids=[id], timeout_s=1)
    assert not waited["done"] and f"{id}: 0 of 6 trials" in waited["note"]
    assert "Did you mean RATE" in await refusal(
        client, "launch_sweep", commit="champion", parameters={"RATES": {"low": 1, "high": 2}}, trials=2
    )
    assert "less than or equal to 1000" in await refusal(client, "launch_sweep", **asked | {"trials": 100_000})
    misspelt = await refusal(client, "launch_sweep", **asked | {"parameters": {"MATRIX_LR": {"lo": 1, "high": 2}}})
    assert misspelt == "launch_sweep has no argument `parameters.MATRIX_LR.lo`. It takes low, high, log, choices."
    await answer(client, "cancel_experiment", ids=[id])
    ended = await answer(client, "wait_for_experiments", ids=[id], timeout_s=1)
    assert ended["done"] and f"{id} is cancelled, 0 trials" in ended["note"]
    assert "sweeps" not in await answer(client, "get_status")


async def test_hints_tell_readers_from_writers(client: Client) -> None:
    hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
    writers = {name for name, hint in hints.items() if hint and not hint.read_only_hint}
    assert writers == {
        "propose_patch",
        "launch_training",
        "launch_sweep",
        "cancel_experiment",
        "write_memory",
        "claim_idea",
        "promote_commit",
    }
    assert {name for name in writers if hints[name].destructive_hint} == {"cancel_experiment"}  # type: ignore[union-attr]


async def test_instructions_introduce_the_lab(client: Client) -> None:
    assert client.instructions is not None and len(client.instructions.encode()) < 2048
    assert "get_status" in client.instructions and "`author`" in client.instructions and "val_bpb" in client.instructions
    assert client.server_info is not None and (client.server_info.name, client.server_info.version != "") == ("autoresearch", True)


async def test_status_shows_at_once_what_was_acknowledged(client: Client, runner_lab: FakeRunnerLab) -> None:
    for width in (201, 202, 203):
        before = await answer(client, "get_status")
        (id,) = await launch(client, width)
        after = await answer(client, "get_status")
        assert after["counts"]["queued"] == before.get("counts", {}).get("queued", 0) + 1, id
        await call(client, "cancel_experiment", ids=[id], reason="It was queued to be seen.")


async def test_what_the_lab_refuses_reaches_the_model_word_for_word(client: Client) -> None:
    assert (await refusal(client, "get_experiment", id=UNKNOWN)).startswith(f"There is no experiment {UNKNOWN}")
    assert "notes.md" in await refusal(client, "propose_patch", hypothesis="Edit what is fixed.", files={"notes.md": "# Mine\n"})


async def test_a_file_comes_back_in_one_text_below_a_heading(client: Client) -> None:
    (block,) = (await call(client, "read_file", first_line=2, max_lines=2)).content
    assert isinstance(block, TextContent)
    heading, _, body = block.text.partition("\n\n")
    assert "]\nDEPTH = 2\nRATE = 0.04\n[end of data " in body
    assert "lines 2 to 3 of 7 (raise first_line for more); editable" in heading and "notes.md" in heading


async def test_a_heading_counts_lines_as_the_lab_does(client: Client) -> None:
    lines = "DEPTH = 1\nPAGE = 'a\x0cb\u2028c'\nRATE = 1.0\n"  # where str.splitlines would see five
    commit = (await answer(client, "propose_patch", hypothesis="Lines that other line ends are in.", files={"train.py": lines}))["commit"]
    heading, _, body = text(await call(client, "read_file", commit=commit)).partition("\n\n")
    shown = lines.replace("\x0c", "\\x0c").replace("\u2028", "\\u2028")
    assert shown in body and "lines 1 to 3 of 3;" in heading


async def test_a_proposal_is_signed_and_its_twin_recognised(client: Client, connection: str) -> None:
    name = "agent" if connection == "http-legacy" else "Tester -v2"  # without sessions, only `initialize` has the client's name
    first = await propose(client, 96)
    signature = first["author"]
    assert not first["duplicate"] and re.fullmatch(f"{re.escape(name)}-[0-9a-f]{{4}}", signature)
    assert ("pass `author`" in first["note"]) == (connection == "http-legacy")
    again = await propose(client, 96, author="worker-7")
    assert (again["duplicate"], again["commit"], again["author"]) == (True, first["commit"], signature)
    other = await propose(client, 98, author="worker-7")
    assert other["author"] == "worker-7" and "pass `author`" not in other["note"]


async def test_a_wait_reports_progress_and_what_changed(client: Client, runner_lab: FakeRunnerLab) -> None:
    ids = await launch(client, 128, replicates=2)
    heard: list[str] = []
    waiting, running = anyio.Event(), anyio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        waiting.set()
        if f"{ids[0]} running" in heard[-1]:
            running.set()

    async def play_runner() -> None:
        await waiting.wait()
        for id in reversed(ids):
            runner_lab.move(id, "running")
        await running.wait()
        for id in ids:
            runner_lab.finish(id, 1.5, "c")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_runner)
            result = await client.call_tool("wait_for_experiments", {"ids": ids, "timeout_s": 15}, progress_callback=listen)
    waited = result.structured_content
    assert waited is not None and waited["done"]
    assert [line["state"] for line in waited["experiments"]] == ["finished", "finished"]
    assert [line["val_bpb"] for line in waited["experiments"]] == [1.5, 1.5]
    assert f"{ids[0]}: queued -> running" in waited["changed"] and f"{ids[1]}: running -> finished" in waited["changed"]
    assert heard[0].startswith("0 of 2 ended")


async def test_a_wait_ends_with_its_time_and_says_what_is_open(client: Client) -> None:
    (id,) = await launch(client, 160)
    waited = await answer(client, "wait_for_experiments", ids=[id, id], timeout_s=1)
    assert (waited["done"], waited["changed"], len(waited["experiments"])) == (False, [], 1)
    assert id in waited["note"]


async def test_a_wait_for_any_ends_with_the_first(client: Client, runner_lab: FakeRunnerLab) -> None:
    ids = await launch(client, 192, replicates=2)
    runner_lab.finish(ids[0], 1.4, "c")
    waited = await answer(client, "wait_for_experiments", ids=ids, until="any")
    assert waited["done"] and ids[1] in waited["note"]


async def test_a_cancelled_call_leaves_the_server_working(client: Client) -> None:
    ids = await launch(client, 224)
    with anyio.move_on_after(0.3):
        await client.call_tool("wait_for_experiments", {"ids": ids, "timeout_s": 40})
    assert (await answer(client, "cancel_experiment", ids=[ids[0]]))["states"] == {ids[0]: "cancelled"}
    assert (await answer(client, "cancel_experiment", ids=[ids[0]]))["states"] == {ids[0]: "cancelled"}


async def test_many_calls_at_once_are_all_answered(client: Client) -> None:
    ids: list[str] = []

    async def write(number: int) -> None:
        ids.append((await answer(client, "write_memory", kind="idea", text=f"Idea number {number} of the crowd."))["id"])

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(write, number)
    assert len(set(ids)) == 30


async def test_a_memory_is_found_again(client: Client) -> None:
    text = "Zebra stripes of width 3 lowered val_bpb by 0.01 (n=3)."
    written = await answer(client, "write_memory", kind="finding", text=text, tags=["zebra"], author="ada")
    (hit,) = (await answer(client, "search_memory", query="zebra stripes", tag="zebra"))["memories"]
    assert (hit["id"], hit["text"], hit["author"]) == (written["id"], text, "ada")


async def test_experiments_are_queried_and_counted(client: Client) -> None:
    ids = await launch(client, 256, replicates=3)
    rows = (await answer(client, "query_experiments", text="width of 256", columns=["state"], limit=2))["rows"]
    assert len(rows) == 2 and all(row["state"] == "queued" and row["id"] in ids for row in rows)
    counted = (await answer(client, "query_experiments", text="width of 256", group_by="state"))["rows"]
    assert counted == [{"state": "queued", "count": 3}]


async def test_a_promotion_without_evidence_is_refused_with_a_verdict(client: Client) -> None:
    refused = await answer(client, "promote_commit", commit=(await propose(client, 72))["commit"])
    assert (refused["promoted"], refused["verdict"]["code"]) == (False, "continue")


async def test_progress_comes_as_picture_and_text(client: Client) -> None:
    facts, picture = (await call(client, "plot_progress")).content
    assert isinstance(picture, ImageContent) and picture.mime_type == "image/png"
    assert isinstance(facts, TextContent) and facts.text
