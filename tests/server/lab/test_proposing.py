"""What a proposal can be made of and what it is good for: another proposal's change, a measurement, a first training at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab import similar
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.titles import beginning
from tests.server.measured import MeasuredLab, refusal, without_runner


@pytest.fixture
def bench(make_lab: Callable[..., Path]) -> Iterator[MeasuredLab]:
    """A lab that nobody runs: the test plays its runner."""
    with without_runner(make_lab(toml={"device_hours = 8.0": "device_hours = 0.3"})) as opened:
        yield opened


def edit(search: str, replace: str) -> list[dict[str, str]]:
    return [{"path": "train.py", "search": search, "replace": replace}]


def test_a_proposals_own_change_is_put_on_another_base(bench: MeasuredLab) -> None:
    lab = bench.lab
    deep = bench.propose("DEPTH = 2", "DEPTH = 3")
    small = bench.propose("BATCH_TOKENS = 1024", "BATCH_TOKENS = 512", base=deep)
    ported = lab.propose_patch("Smaller steps without being deeper.", "bob", port=small[:10])
    assert "+BATCH_TOKENS = 512" in ported.diff and "DEPTH = 3" not in lab.read_file(commit=ported.commit).text
    assert (ported.base, ported.duplicate) == (lab.champion(), False)
    proposal = bench.ledger.proposal(ported.commit)
    assert proposal is not None and proposal.ported_from == small and proposal.author == "bob"

    deeper = bench.propose("DEPTH = 2", "DEPTH = 4")
    error = refusal(lambda: lab.propose_patch("Both at once, please.", "bob", port=deep, base=deeper))
    assert error.code == "conflict" and "train.py" in str(error) and ">>>>>>> proposal" in str(error) and "DEPTH = 4" in str(error)
    assert refusal(lambda: lab.propose_patch("Both forms", "bob", port=deep, edits=edit("a", "b"))).code == "bad_patch"
    assert refusal(lambda: lab.propose_patch("The champion", "bob", port=lab.champion())).code == "not_a_proposal"
    assert refusal(lambda: lab.propose_patch("On itself", "bob", port=deep, base=deep)).code == "no_change"


def test_a_launch_in_the_same_call_queues_once_and_leaves_the_proposal_where_it_is_refused(bench: MeasuredLab) -> None:
    toml = bench.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("device_hours = 0.3", "device_hours = 0.45"), encoding="utf-8")

    def propose(depth: int, launch: int) -> tuple[str, int, str]:
        answer = bench.lab.propose_patch("Deeper, as the loss is flat.", "ada", edits=edit("DEPTH = 2", f"DEPTH = {depth}"), launch=launch)
        assert [line.commit for line in answer.launched] == [answer.commit] * len(answer.launched)
        return answer.commit, len(answer.launched), answer.note

    commit, queued, note = propose(3, 2)
    assert queued == len(bench.ledger.open_experiments()) == 2 and "wait_for_experiments" in note
    assert propose(3, 2)[:2] == (commit, 2), "a call whose answer was lost is repeated"
    assert len(bench.ledger.open_experiments()) == 2
    refused, queued, note = propose(4, 16)
    assert queued == 0 and "The proposal stays" in note and "budget" in note
    assert bench.ledger.proposal(refused) is not None and len(bench.ledger.open_experiments()) == 2


def test_a_measurement_is_trained_and_shown_and_is_never_a_candidate(bench: MeasuredLab) -> None:
    lab = bench.lab
    bench.measure(lab.champion(), [1.60, 1.61, 1.59])
    candidate = bench.propose("DEPTH = 2", "DEPTH = 3")
    bench.measure(candidate, [1.58])
    before = lab.status()
    change = edit("WIDTH = 64", "WIDTH = 256")
    measured = lab.propose_patch("How far width alone would go.", "ada", edits=change, kind="measurement")
    bench.measure(measured.commit, [1.20, 1.40, 1.30])
    after = lab.status()
    assert [leader.commit for leader in after.leaderboard] == [leader.commit for leader in before.leaderboard]
    assert after.noise_sd == before.noise_sd and measured.commit[:12] not in lab.plot_progress().text
    assert [row.val_bpb for row in lab.propose_patch("Again", "bob", edits=change, kind="measurement").results] == [1.20, 1.40, 1.30]
    assert refusal(lambda: lab.promote_commit(measured.commit, "ada")).code == "measurement"
    assert refusal(lambda: lab.launch_until_decided(measured.commit, "ada")).code == "measurement"

    again = lab.propose_patch("As a candidate after all.", "bob", port=measured.commit)
    assert again.duplicate and again.commit == measured.commit and "now it is a candidate" in again.note
    assert measured.commit in [leader.commit for leader in lab.status().leaderboard]
    assert lab.promote_commit(measured.commit, "ada").verdict.n == 3


def test_an_answer_shows_the_change_to_two_kilobytes_and_a_title(bench: MeasuredLab) -> None:
    lab: Lab = bench.lab
    small = lab.propose_patch("Deeper: the loss is flat at the end.", "ada", edits=edit("DEPTH = 2", "DEPTH = 3"))
    assert "-DEPTH = 2" in small.diff and "+DEPTH = 3" in small.diff and len(small.diff) < 1_000
    assert small.title == "Deeper"
    named = lab.propose_patch("Shallower, to take more steps.", "ada", edits=edit("DEPTH = 2", "DEPTH = 1"), title="One layer")
    assert named.title == "One layer"
    long = lab.propose_patch(
        "Many notes.", "ada", files={"train.py": lab.read_file().text + "# a note of forty characters, or so.\n" * 100 + "X = 1\n"}
    )
    assert len(long.diff) < 2_300 and "more lines: read_file(commit, diff='base')" in long.diff


@pytest.mark.parametrize(
    ("hypothesis", "title"),
    [
        ("Raise lr to 3e-4. It is low.", "Raise lr to 3e-4"),
        ("Use 0.5 of it", "Use 0.5 of it"),
        (f"A {'very ' * 20}long one", "A" + " very" * 11 + "…"),
    ],
)
def test_a_title_is_the_first_words_of_a_hypothesis(hypothesis: str, title: str) -> None:
    assert beginning(hypothesis) == title and len(title) <= 60


@pytest.mark.parametrize("first_look", [similar._FIRST_LOOK, 1])
def test_others_that_set_the_same_constant_are_told_with_what_it_gave(
    bench: MeasuredLab, monkeypatch: pytest.MonkeyPatch, first_look: int
) -> None:
    monkeypatch.setattr(similar, "_FIRST_LOOK", first_look)  # the newest of them is never trained
    lab = bench.lab
    bench.measure(lab.champion(), [1.60, 1.60])
    small = bench.propose("BATCH_TOKENS = 1024", "BATCH_TOKENS = 512")
    bench.measure(small, [1.55])
    large = bench.propose("BATCH_TOKENS = 1024", "BATCH_TOKENS = 2048")
    bench.measure(large, [1.61, 1.63])
    bench.propose("BATCH_TOKENS = 1024", "BATCH_TOKENS = 4096")
    answer = lab.propose_patch("Between those.", "bob", edits=edit("BATCH_TOKENS = 1024", "BATCH_TOKENS = 768"))
    assert "Others that set BATCH_TOKENS: 2048 gave -0.020 (n 2), 512 gave +0.050 (n 1)." in answer.note
    assert "Others" not in lab.propose_patch("Deeper.", "bob", edits=edit("DEPTH = 2", "DEPTH = 3")).note

    deep = lab.propose_patch("Four layers.", "bob", edits=edit("DEPTH = 2", "DEPTH = 4")).commit
    again = lab.propose_patch("The same, elsewhere.", "eve", edits=edit("DEPTH = 2", "DEPTH = 4"), base=small)
    assert f"{deep[:12]} is the same change on {lab.champion()[:12]}" in again.note


def test_a_search_finds_proposals_by_words_that_are_there(bench: MeasuredLab) -> None:
    lab = bench.lab
    hypothesis = "Halve the tokens of a step, because at this size more steps are worth more than less noisy gradients are."
    small = lab.propose_patch(hypothesis, "ada", edits=edit("BATCH_TOKENS = 1024", "BATCH_TOKENS = 512")).commit
    lab.propose_patch("Another head for the attention.", "ada", edits=edit("HEAD_DIM = 32", "HEAD_DIM = 16"))
    for query in ("Halve the tokens", "batch", "BATCH_TOKENS", "noisy gradients"):
        assert [each.commit for each in lab.search_memory(query).proposed] == [small], query


def test_an_idea_that_was_tried_leaves_the_list_of_the_untried(bench: MeasuredLab) -> None:
    lab = bench.lab
    text = "Halve the tokens of a step, so that more steps fit."
    tried = lab.write_memory("idea", text, "ada").id
    direction = lab.write_memory("idea", text, "ada", tags=["direction"]).id
    stale = lab.write_memory("idea", "Use a cosine schedule for the rates.", "ada").id
    fresh = lab.write_memory("idea", "Use a linear schedule for the rates.", "ada", supersedes=[stale]).id
    commit = lab.propose_patch(text, "bob", edits=edit("BATCH_TOKENS = 1024", "BATCH_TOKENS = 512")).commit
    assert {hit.id for hit in lab.search_memory(kind="idea").memories} == {tried, direction, fresh}, "nobody has trained it yet"
    bench.measure(commit, [1.55])
    answer = lab.search_memory(kind="idea")
    assert {hit.id for hit in answer.memories} == {direction, fresh} and f"{tried} as {commit[:12]}" in answer.note
    assert tried in {hit.id for hit in lab.search_memory("halve tokens").memories}
