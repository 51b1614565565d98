"""What a client sees and gets, the same over every transport and in both protocol eras."""

import json
import re
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ImageContent, ResourceTemplateReference, TextContent

from autoresearch_mcp.contracts import TOOLS
from tests.server.mcp.conftest import FakeRunnerLab

pytestmark = pytest.mark.anyio

UNKNOWN = "e-000000000000000"


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    with anyio.fail_after(20):
        return await client.call_tool(tool, arguments)


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer, which must also be what the text says."""
    result = await call(client, tool, **arguments)
    assert not result.is_error, text(result)
    assert result.structured_content == json.loads(text(result))
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await call(client, tool, **arguments)
    assert result.is_error
    return text(result)


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def propose(client: Client, width: int, **more: Any) -> dict[str, Any]:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": f"WIDTH = {width}"}]
    return await answer(client, "propose_patch", hypothesis=f"A width of {width} fits the budget better.", edits=edits, **more)


async def launch(client: Client, width: int, replicates: int = 1) -> list[str]:
    commit = (await propose(client, width))["commit"]
    launched = await answer(client, "launch_training", commit=commit, replicates=replicates)
    return list(launched["experiments"])


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


async def test_an_argument_that_may_be_left_out_takes_null_and_says_its_limits(client: Client) -> None:
    described = {}
    for tool in (await client.list_tools()).tools:
        for name, schema in tool.input_schema["properties"].items():
            optional = name not in tool.input_schema.get("required", ())
            assert ("null" in schema["type"]) == optional, (tool.name, name)
            assert not optional or "enum" not in schema, "Gemini takes no null in an enum"
            described[f"{tool.name}.{name}"] = schema.get("description", "")
    limits = {"wait_for_experiments.timeout_s": "1 to 45", "launch_training.replicates": "1 to 16", "query_experiments.limit": "1 to 200"}
    limits |= {"search_memory.query": "max 2000", "launch_training.tags": "letters, digits"}
    limits |= {"read_log.mode": "tail, head, grep, window", "write_memory.text": "10 to 8000 characters"}
    limits |= {"propose_patch.hypothesis": "10 to 2000 characters", "launch_training.idempotency_key": "8 to 100 characters"}
    limits |= {"wait_for_experiments.ids": "max 50", "query_experiments.tag": "letters, digits", "write_memory.author": "letters, digits"}
    limits |= {"get_experiment.id": "e-", "search_memory.experiment": "e-", "query_experiments.text": "max 2000"}
    assert {name: words for name, words in limits.items() if words not in described[name]} == {}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("get_status", {"random_string": "x"}),
        ("get_status", {"dummy": ""}),
        ("get_status", {"dummy": "x", "since": None}),
        ("plot_progress", {"": {}}),
        ("search_memory", {"query": "wide", "limit": 5.0, "tag": "", "kind": ""}),
        ("query_experiments", {"state": "finished", "commit": "", "author": "", "sql": "", "columns": [], "limit": 3.0}),
        ("query_experiments", {"state": ["", None], "columns": [None, "state"], "limit": "5", "descending": "true"}),
        ("query_experiments", {"state": "finished,crashed", "columns": "state, seed", "min_val_bpb": "0.5", "since": " 17 "}),
        ("query_experiments", {"state": ["Finished", " crashed "], "order_by": " VAL_BPB", "limit": "5.0", "descending": "False"}),
        ("query_experiments", {"state": "['finished', 'crashed']", "columns": "[state, seed]"}),
        ("query_experiments", {"commit": " champion ", "tag": " a ", "author": "  ", "sql": "\n", "cursor": " ", "group_by": "\t"}),
        ("search_memory", {"query": "  ", "kind": " ", "experiment": " ", "limit": "3", "until": "", "tag": None}),
        ("read_file", {"path": "./train.py", "max_lines": "3", "diff": "false"}),
        ("read_file", {"path": ".//./train.py ", "commit": "\t"}),
        ("query_experiments", dict.fromkeys(("state", "descending", "order_by", "limit", "group_by", "cursor"))),
        ("read_file", {"path": "", "commit": "", "first_line": 1.0}),
    ],
)
async def test_harmless_variants_are_taken_as_meant(client: Client, tool: str, arguments: dict[str, Any]) -> None:
    result = await call(client, tool, **arguments)
    assert not result.is_error, text(result)


async def test_empty_alternatives_of_a_change_are_left_out(client: Client) -> None:
    edits = {"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 66"}
    proposed = await answer(
        client, "propose_patch", hypothesis="One edit, not in a list.", edits=edits, diff="", files={}, base="", author="", tags="one"
    )
    assert not proposed["duplicate"]


async def test_a_path_may_begin_with_a_dot(client: Client) -> None:
    files = {"./train.py": "WIDTH = 68\n"}
    first = await answer(client, "propose_patch", hypothesis="A whole file by a long path.", files=files)
    edit = {"path": "./train.py", "search": "WIDTH = 68", "replace": "WIDTH = 70"}
    again = await answer(client, "propose_patch", hypothesis="An edit by a long path.", edits=[edit, None, ""], base=first["commit"])
    assert again["base"] == first["commit"] and "train.py | +1 -1" in again["diff_stat"]
    twice = await refusal(client, "propose_patch", hypothesis="One file named twice.", files=files | {"train.py": "WIDTH = 72\n"})
    assert "`files` must name each file once" in twice


async def test_ids_joined_by_commas_are_taken_apart(client: Client) -> None:
    ids = await launch(client, 116, replicates=3)
    joined = [", ".join(ids), [",".join(ids[:2]), None, "", f" {ids[2]} "], "\n".join(ids), str(ids), f"[{', '.join(ids)}]"]
    for each in joined:
        waited = await answer(client, "wait_for_experiments", ids=each, timeout_s="1")
        assert [line["id"] for line in waited["experiments"]] == ids, each
    written = await answer(
        client, "write_memory", kind="idea", text="Evidence in one text.", experiments=",".join(ids), tags="joined, tags"
    )
    (memory,) = (await answer(client, "search_memory", tag="joined"))["memories"]
    assert (memory["id"], memory["experiments"], memory["tags"]) == (written["id"], ids, ["joined", "tags"])


async def test_a_whole_hypothesis_finds_its_experiments(client: Client) -> None:
    hypothesis = ("A narrow model leaves room for more steps in the same budget. " * 40)[:2000].strip()
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 62"}]
    commit = (await answer(client, "propose_patch", hypothesis=hypothesis, edits=edits))["commit"]
    launched = await answer(client, "launch_training", commit=commit)
    rows = (await answer(client, "query_experiments", text=hypothesis))["rows"]
    assert [row["id"] for row in rows] == launched["experiments"]


async def test_an_empty_cursor_stands_for_none(client: Client) -> None:
    for cursor in ("", " "):
        assert len((await client.list_tools(cursor=cursor)).tools) == len(TOOLS)


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


async def test_an_unknown_argument_is_named_and_the_known_ones_listed(client: Client) -> None:
    error = await refusal(client, "propose_patch", hypothesis="A wider model is better.", patch="---")
    assert "no argument `patch`" in error and "diff, edits, files" in error
    assert "since" in await refusal(client, "get_status", verbose=True)
    nested = await refusal(
        client,
        "propose_patch",
        hypothesis="A wider model is better.",
        edits=[{"path": "train.py", "search": "a", "replace": "b", "count": 1}],
    )
    assert "`edits[0].count`" in nested and "path, search, replace" in nested


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("launch_training", {"commit": "champion", "replicates": "three"}, ["`replicates`", "must be a valid integer", '"three"']),
        ("launch_training", {"commit": "champion", "replicates": "2.5"}, ["`replicates`", "integer", "2.5"]),
        ("launch_training", {"commit": "champion", "replicates": "99"}, ["`replicates`", "less than or equal to 16", "99"]),
        ("launch_training", {"commit": "champion", "replicates": "true"}, ["`replicates`", "integer", '"true"']),
        ("query_experiments", {"min_val_bpb": "Infinity"}, ["`min_val_bpb`", "number"]),
        ("query_experiments", {"min_val_bpb": "9e999"}, ["`min_val_bpb`", "number"]),
        ("query_experiments", {"state": "finished,done"}, ["`state[1]`", "'finished'", '"done"']),
        ("launch_training", {"commit": "champion", "replicates": True}, ["`replicates`", "integer", "true"]),
        ("launch_training", {"commit": "champion", "replicates": 0}, ["`replicates`", "greater than or equal to 1"]),
        ("launch_training", {"commit": "HEAD; rm -rf /"}, ["`commit`", "wrong form", "hash", "or champion"]),
        ("propose_patch", {"hypothesis": "A base of no form.", "base": "HEAD~1"}, ["`base`", "wrong form", "hash", "or champion"]),
        ("write_memory", {"kind": "idea", "text": "Signed oddly.", "author": "Ada (worker 1)"}, ["`author`", "letters, digits, blanks"]),
        ("write_memory", {"kind": "idea", "text": "Tagged oddly.", "tags": ["my tag"]}, ["`tags[0]`", "letters, digits", "without blanks"]),
        ("query_experiments", {"tag": "my tag"}, ["`tag`", "letters, digits", "without blanks"]),
        ("get_experiment", {"id": "nope"}, ["`id[0]`", "such as e-"]),
        ("launch_training", {"commit": "champion", "idempotency_key": "short"}, ["`idempotency_key`", "at least 8 characters"]),
        ("write_memory", {"kind": "finding", "text": "short"}, ["`text`", "at least 10 characters"]),
        ("launch_training", {}, ["needs the argument `commit`"]),
        ("read_log", {"id": UNKNOWN, "mode": "all"}, ["`mode`", "'tail', 'head', 'grep' or 'window'"]),
        ("write_memory", {"kind": "finding", "text": "x" * 8001}, ["`text`", "at most 8000 characters"]),
        ("wait_for_experiments", {"ids": ["../../etc/passwd"]}, ["`ids[0]`", "such as e-"]),
        ("query_experiments", {"descending": "yes"}, ["`descending`", "boolean"]),
        ("search_memory", {"query": None, "limit": 1.5}, ["`limit`", "integer"]),
    ],
)
async def test_a_wrong_argument_is_refused_in_a_sentence(client: Client, tool: str, arguments: dict[str, Any], words: list[str]) -> None:
    error = await refusal(client, tool, **arguments)
    assert all(word in error for word in words), error
    assert "pydantic" not in error and "Error executing" not in error and "max " not in error and len(error) < 400


async def test_status_shows_at_once_what_was_acknowledged(client: Client, runner_lab: FakeRunnerLab) -> None:
    for width in (201, 202, 203):
        before = await answer(client, "get_status")
        (id,) = await launch(client, width)
        after = await answer(client, "get_status")
        assert after["counts"]["queued"] == before.get("counts", {}).get("queued", 0) + 1, id
        await call(client, "cancel_experiment", ids=[id], reason="It was queued to be seen.")


async def test_null_means_that_an_argument_was_left_out(client: Client) -> None:
    assert "champion" in await answer(client, "get_status")
    hits = await answer(client, "search_memory", query="nothing of the kind", kind=None, tag=None)
    assert (hits["memories"], hits["proposed"], hits["note"]) == ([], [], "") and hits["ranking"].startswith("full text (BM25)")


async def test_a_list_that_came_as_json_text_is_read(client: Client) -> None:
    error = await refusal(client, "wait_for_experiments", ids=json.dumps([UNKNOWN]))
    assert f"no experiment {UNKNOWN}" in error


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
        for id in ids:
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
