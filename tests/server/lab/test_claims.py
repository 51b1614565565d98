"""One agent works on an idea at a time, knows what was tried, and never holds it for longer than its lease."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from tests.server.measured import MeasuredLab

WARMUP = "Warm the learning rate up over the first tenth of the budget."
WARMUP_AGAIN = "Warm up the learning rate, over the first tenth of the budget"
OTHERS = ["Tie the embedding and the output weights.", "Halve the number of heads in each block.", "Decay the weights of matrices only."]
CHAMPION = [1.60, 1.61, 1.59, 1.602, 1.605, 1.595, 1.612, 1.586]


def idea(measured: MeasuredLab, text: str = WARMUP, author: str = "eve", **more: list[str]) -> str:
    return measured.lab.write_memory("idea", text, author, **more).id


def free(measured: MeasuredLab, author: str = "bob") -> list[str]:
    return [each.id for each in measured.lab.search_memory(kind="idea", free_for=author).memories]


def refusal(measured: MeasuredLab, *args: object, **kwargs: object) -> tuple[str, str]:
    with pytest.raises(LabError) as refused:
        measured.lab.claim_idea(*args, **kwargs)  # type: ignore[arg-type]
    return refused.value.code, str(refused.value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Hours by which the machine's clock was set forward."""
    hours, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours[0] * 3600)
    return hours


def test_what_another_holds_is_refused_with_its_holder_and_the_free_ideas(measured: MeasuredLab) -> None:
    warmup, others = idea(measured), [idea(measured, text) for text in OTHERS]
    mine = measured.lab.claim_idea("ada", warmup)
    assert mine.claimed and mine.id == warmup and "Yours until" in mine.note
    for theirs in (measured.lab.claim_idea("bob", warmup), measured.lab.claim_idea("bob", text=WARMUP_AGAIN)):
        assert not theirs.claimed and theirs.id == warmup and "ada holds it until" in theirs.note
        assert [each.id for each in theirs.free] == others
    assert free(measured) == others and warmup in free(measured, "ada")
    assert "You don't hold" in measured.lab.claim_idea("bob", warmup, release=True).note
    assert "Released" in measured.lab.claim_idea("ada", warmup, release=True).note
    assert measured.lab.claim_idea("bob", warmup).claimed


def test_a_new_idea_is_written_down_with_its_claim_and_an_old_one_is_found_by_its_text(measured: MeasuredLab) -> None:
    new = measured.lab.claim_idea("ada", text=WARMUP)
    (memory,) = measured.lab.search_memory(kind="idea").memories
    assert new.claimed and (memory.id, memory.text, memory.author) == (new.id, WARMUP, "ada")
    measured.lab.claim_idea("ada", new.id, release=True)
    assert measured.lab.claim_idea("bob", text=WARMUP_AGAIN).id == new.id
    assert len(measured.lab.search_memory(kind="idea").memories) == 1


def test_a_claim_ends_by_itself_and_its_holder_renews_it_by_working(measured: MeasuredLab, clock: list[float]) -> None:
    warmup = idea(measured)
    measured.lab.claim_idea("ada", warmup)
    clock[0] += 0.4
    files = {"train.py": measured.lab.read_file().text.replace("DEPTH = 2", "DEPTH = 3")}
    proposed = measured.lab.propose_patch("Three layers, warmed up.", "ada", files=files, idea=warmup)
    clock[0] += 0.4
    measured.lab.launch_training(proposed.commit, "ada")
    clock[0] += 0.4
    assert "ada" in measured.lab.claim_idea("bob", warmup).note, "1.2 hours after a claim for half of one"
    clock[0] += 0.2
    launched = measured.lab.launch_training(proposed.commit, "bob")
    assert "holds the idea" not in launched.note
    assert f"bob is training it as {proposed.commit[:12]}" in measured.lab.claim_idea("cleo", warmup).note


def test_a_clock_that_jumps_a_day_neither_keeps_a_claim_nor_gives_it_to_two(measured: MeasuredLab, clock: list[float]) -> None:
    warmup = idea(measured)
    clock[0] = 24.0
    measured.lab.claim_idea("ada", warmup)
    clock[0] = 0.0
    assert not measured.lab.claim_idea("bob", warmup).claimed
    clock[0] = 0.6
    assert measured.lab.claim_idea("bob", warmup).claimed, "no longer than its minutes from the set back clock's now"
    clock[0] = 24.6
    files = {"train.py": measured.lab.read_file().text.replace("DEPTH = 2", "DEPTH = 3")}
    commit = measured.lab.propose_patch("Three layers, warmed up.", "bob", files=files, idea=warmup).commit
    assert "bob holds it" in measured.lab.claim_idea("ada", warmup).note, "nobody took it meanwhile, so its work renewed it"
    clock[0] += 0.6
    assert f"It was proposed before, as {commit[:12]}, and has no result." in measured.lab.claim_idea("ada", warmup).note


def test_a_claim_ends_with_the_decision_on_its_commit_and_the_idea_names_its_results(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    warmup = idea(measured)
    measured.lab.claim_idea("ada", warmup)
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 1 + 2"}]
    commit = measured.lab.propose_patch("Warmup, at last.", "ada", edits=edits, idea=warmup).commit
    measured.measure(commit, [1.70])
    assert [each.holder for each in measured.ledger.claims()] == ["ada"]
    measured.measure(commit, [1.71])
    assert measured.lab.promote_commit(commit, "ada").verdict.code == "futile"
    assert measured.ledger.claims() == []
    refuted = measured.lab.claim_idea("bob", warmup)
    assert not refuted.claimed and f"tried as {commit[:12]}: mean 1.7050 (n 2); the gate says futile" in refuted.note
    assert warmup not in free(measured)


def test_a_text_like_a_tried_hypothesis_is_refused_with_the_results_and_an_idea_of_its_own_is_not(measured: MeasuredLab) -> None:
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 1 + 2"}]
    commit = measured.lab.propose_patch(WARMUP, "ada", edits=edits).commit
    assert measured.lab.claim_idea("bob", text=WARMUP_AGAIN).claimed, "it has no results yet"
    measured.measure(commit, [1.70, 1.72])
    refused = measured.lab.claim_idea("cleo", text=f"{WARMUP} Please.")
    assert "bob holds it" in refused.note
    measured.lab.claim_idea("bob", refused.id, release=True)
    refused = measured.lab.claim_idea("cleo", text=WARMUP)
    assert not refused.claimed and [(each.commit, each.ended, each.mean_val_bpb) for each in refused.similar] == [(commit, 2, 1.71)]
    again = measured.lab.claim_idea("cleo", idea(measured, WARMUP, "cleo"))
    assert again.claimed and [each.commit for each in again.similar] == [commit]


def test_an_idea_waits_for_the_one_that_it_names(measured: MeasuredLab) -> None:
    first = idea(measured)
    second = idea(measured, OTHERS[0], tags=[f"after:{first}"])
    assert free(measured) == [first]
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 1 + 2"}]
    commit = measured.lab.propose_patch("Warmup, at last.", "ada", edits=edits, idea=first).commit
    measured.measure(commit, [1.70])
    assert free(measured) == [second]
    with pytest.raises(LabError, match="no memory m-000000000000000"):
        idea(measured, OTHERS[1], tags=["after:m-000000000000000"])


def test_the_backlog_puts_first_what_resembles_gains_and_last_what_resembles_losses(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    for words, number, value in (("wider feed forward layers", 3, 1.30), ("label smoothing of the targets", 4, 1.95)):
        edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = {number} + 2"}]
        commit = measured.lab.propose_patch(f"Use {words} in all the blocks.", "ada", edits=edits).commit
        measured.measure(commit, [value, value + 0.01, value - 0.01])
    losing = idea(measured, "Label smoothing only for rare tokens, at a tenth.")
    unknown = idea(measured, OTHERS[0])
    gaining = idea(measured, "A narrower feed forward part in the first block only.")
    backlog = measured.lab.search_memory(kind="idea", free_for="bob").memories
    assert [each.id for each in backlog] == [gaining, unknown, losing]
    assert backlog[0].why.startswith("expected gain +") and backlog[1].why == "nothing like it was measured"


def test_the_lab_suggests_a_combination_of_two_promising_proposals_once(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    commits = [measured.propose("DEPTH = 2", "DEPTH = 4"), measured.propose("SOFTCAP = 15.0", "SOFTCAP = 30.0")]
    for commit in commits:
        measured.measure(commit, [1.40, 1.41])
    for _ in range(2):
        (suggested,) = measured.lab.search_memory(kind="idea", free_for="bob").memories
    assert suggested.author == "[lab]" and set(suggested.commits) == set(commits) and suggested.text.startswith("Combine ")
    assert "1 idea is untried and free" in "\n".join(measured.lab.next_steps("bob"))
    measured.lab.propose_patch("Both at once.", "bob", port=suggested.commits[1], base=suggested.commits[0], idea=suggested.id)
    assert measured.lab.claim_idea("bob", suggested.id).claimed


def test_a_combination_is_free_no_more_where_the_champion_holds_a_part_of_it(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    one, other = measured.propose("DEPTH = 2", "DEPTH = 4"), measured.propose("SOFTCAP = 15.0", "SOFTCAP = 30.0")
    for commit in (one, other):
        measured.measure(commit, [1.40, 1.41])
    assert len(measured.lab.search_memory(kind="idea", free_for="bob").memories) == 1
    measured.measure(one, [1.39, 1.40, 1.41, 1.40])
    assert measured.lab.promote_commit(one, "ada").promoted
    assert measured.lab.search_memory(kind="idea", free_for="bob").memories == []
    steps = "\n".join(measured.lab.next_steps("bob"))
    assert "Search memory" in steps and "untried and free" not in steps


def test_a_claim_that_means_nothing_is_refused(measured: MeasuredLab) -> None:
    nothing: list[tuple[dict[str, object], str]] = [
        ({}, "bad_arguments"),
        ({"id": "m-000000000000000", "text": WARMUP}, "bad_arguments"),
        ({"id": "m-000000000000000"}, "unknown_memory"),
        ({"id": "e-000000000000000"}, "bad_id"),
        ({"id": "m-000000000000000", "minutes": 10_000}, "bad_arguments"),
        ({"text": "  \u200b "}, "bad_arguments"),
        ({"text": WARMUP, "release": True}, "bad_arguments"),
        ({"id": measured.lab.write_memory("finding", "Warmup gained nothing.", "ada").id}, "not_an_idea"),
    ]
    for arguments, code in nothing:
        assert refusal(measured, "ada", **arguments)[0] == code
    assert measured.ledger.claims() == [] and measured.lab.search_memory(kind="idea").memories == []


def test_one_agent_may_hold_four_ideas(measured: MeasuredLab) -> None:
    ideas = [idea(measured, f"Idea {word} of a kind of its own.") for word in ("rotary", "sinusoid", "alibi", "learned", "none")]
    for each in ideas[:4]:
        assert measured.lab.claim_idea("ada", each).claimed
    code, text = refusal(measured, "ada", ideas[4])
    assert code == "too_many_claims" and ideas[0] in text and "[swarm] claims" in text
    assert measured.lab.claim_idea("ada", ideas[0], minutes=60).claimed, "its own it may take again"


def test_hundreds_of_claims_at_once_give_each_idea_to_one(measured: MeasuredLab) -> None:
    """Eight agents, each with a server of its own, ask for the same ideas by their texts."""
    texts = [WARMUP, *OTHERS, "Dropout of a tenth in every block.", "Rotary positions over half the width."]

    def ask(agent: int) -> list[tuple[str, str, bool]]:
        answers = []
        with closing(Lab(measured.root)) as lab:
            for text in [*texts[agent % 6 :], *texts[: agent % 6]] * 2:
                try:
                    answer = lab.claim_idea(f"agent-{agent}", text=text)
                except LabError as error:
                    assert error.code == "too_many_claims"
                else:
                    answers.append((text, answer.id, answer.claimed))
        return answers

    with ThreadPoolExecutor(8) as pool:
        every = [each for answers in pool.map(ask, range(8)) for each in answers]
    assert len({id for _, id, _ in every}) == len(texts) == len(measured.lab.search_memory(kind="idea", limit=50).memories)
    claims = measured.ledger.claims()
    assert len({claim.idea for claim in claims}) == len(claims) == len(texts)
