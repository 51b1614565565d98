"""Arguments as clients send them: what is taken as meant, and what is refused in a sentence; over every transport and in both eras."""

import json
from typing import Any

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.contracts import TOOLS
from tests.server.mcp.calls import UNKNOWN, answer, call, launch, refusal, text

pytestmark = pytest.mark.anyio


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

    async def wait(each: object) -> None:
        waited = await answer(client, "wait_for_experiments", ids=each, timeout_s="1")
        assert [line["id"] for line in waited["experiments"]] == ids, each

    async with anyio.create_task_group() as waits:
        for each in joined:
            waits.start_soon(wait, each)
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


async def test_null_means_that_an_argument_was_left_out(client: Client) -> None:
    assert "champion" in await answer(client, "get_status")
    hits = await answer(client, "search_memory", query="nothing of the kind", kind=None, tag=None)
    assert (hits["memories"], hits["proposed"], hits["note"]) == ([], [], "") and hits["ranking"].startswith("full text (BM25)")


async def test_a_list_that_came_as_json_text_is_read(client: Client) -> None:
    error = await refusal(client, "wait_for_experiments", ids=json.dumps([UNKNOWN]))
    assert f"no experiment {UNKNOWN}" in error
