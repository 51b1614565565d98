"""What to do next follows from the lab's state, and what is the caller's comes first. The tests are a lab's life, in order."""

import pytest

from tests.server.measured import MeasuredLab

CHAMPION = [1.60, 1.61, 1.59, 1.602, 1.605, 1.595, 1.612, 1.586]


@pytest.fixture(scope="module")
def measured(lab_of_module: MeasuredLab) -> MeasuredLab:
    return lab_of_module


def test_an_empty_lab_is_told_to_launch_a_first_idea_and_which_ideas_nobody_tried(measured: MeasuredLab) -> None:
    memory = measured.lab.write_memory("idea", "Warm up the learning rate over the first tenth of the budget.", "bob").id
    steps = measured.lab.next_steps("ada")
    assert "Nothing is measured yet" in steps[0] and "propose_patch" in steps[1]
    assert steps[1].endswith("1 idea is untried and free: claim_idea one of search_memory(kind='idea', free=true).")
    assert steps[2].startswith(f"Free ideas in memory: {memory} 'Warm up the learning rate")


def test_who_holds_an_idea_is_told_how_far_it_is(measured: MeasuredLab) -> None:
    lab, held = measured.lab, measured.lab.claim_idea("eve", text="Drop the softcap, as logits stay small at this size.").id

    def told() -> str:
        (step,) = [each for each in lab.next_steps("eve") if each.startswith(f"You hold {held} 'Drop the softcap")]
        return step

    assert told().endswith(f"UTC; nothing of it is proposed yet: propose_patch(idea='{held}').")
    assert not any(held in step for step in lab.next_steps("ada")), "it is nobody else's"
    edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": "SOFTCAP = 0.0"}]
    commit = lab.propose_patch("Logits without a softcap.", "eve", edits=edits, idea=held).commit
    assert told().endswith(f"{commit[:12]} of it was never trained: launch_training(commit='{commit[:12]}').")
    (id,) = lab.launch_training(commit, "eve").experiments
    assert told().endswith(f"{commit[:12]} of it is being trained.")
    measured.ledger.move(id, ["queued"], state="running")
    measured.ledger.move(id, ["running"], state="crashed")
    assert told().endswith(f"{commit[:12]} of it has results: write them down, and release it, or go on.")
    lab.claim_idea("eve", held, release=True)
    assert not any(held in step for step in lab.next_steps("eve"))


@pytest.fixture(scope="module")
def idea(measured: MeasuredLab) -> str:
    measured.measure(measured.lab.champion(), list(CHAMPION))
    return measured.propose("DEPTH = ", "DEPTH = 1 + ")


def test_ones_own_promising_candidate_is_to_be_decided_and_then_promoted(measured: MeasuredLab, idea: str) -> None:
    measured.measure(idea, [1.40])
    (first, *_) = measured.lab.next_steps("ada")
    assert first == f"Your {idea[:12]} (+0.2000, n=1) is open: launch_training(commit='{idea[:12]}', until='decided')."
    assert "propose_patch" in measured.lab.next_steps("bob")[0], "it is nothing of bob's"
    measured.measure(idea, [1.41, 1.39])
    measured.lab.gate.verdict(idea, measured.lab.champion())
    assert measured.lab.next_steps("ada")[0] == f"Your {idea[:12]} passes the gate: promote_commit(commit='{idea[:12]}')."
    assert measured.lab.next_steps("bob")[0].startswith(f"Candidate {idea[:12]} passes"), "anybody may promote it"


def test_what_waits_for_a_person_is_asked_for_once_and_other_work_comes_first(measured: MeasuredLab, idea: str) -> None:
    toml = measured.root / "lab.toml"
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text.replace('approval = "none"', 'approval = "human"'), encoding="utf-8")
    assert measured.lab.promote_commit(idea, "ada").verdict.code == "awaiting_approval"
    wanted = f"A person's yes is wanted for {idea[:12]}: promote_commit asks for it, once each. Don't wait for it: go on with other work."
    for caller in ("ada", "bob"):
        steps = measured.lab.next_steps(caller)
        assert wanted in steps and not any("passes the gate" in step for step in steps)
    other = measured.propose("SOFTCAP = ", "SOFTCAP = 3 + ")
    measured.measure(other, [1.44])
    steps = measured.lab.next_steps("ada")
    assert steps[0].startswith(f"Your {other[:12]} (") and steps[1] == wanted
    toml.write_text(text, encoding="utf-8")
    measured.lab.withdraw(other, "ada")


def test_a_decided_idea_is_to_be_written_down_after_what_is_open_and_a_measurement_is_never_to_be_decided(
    measured: MeasuredLab, idea: str
) -> None:
    worse, other = measured.propose("WIDTH = ", "WIDTH = 1 + "), measured.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ")
    measured.measure(worse, [1.70, 1.71])
    measured.measure(other, [1.45])
    assert measured.lab.promote_commit(worse, "ada").verdict.code == "futile"
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 4"}]
    probe = measured.lab.propose_patch("An upper bound of depth.", "ada", edits=edits, kind="measurement").commit
    measured.measure(probe, [1.2])
    passes, open_, futile, *rest = measured.lab.next_steps("ada")
    assert idea[:12] in passes and other[:12] in open_ and not any(probe[:12] in step for step in rest)
    assert futile == f"Your {worse[:12]} is decided (futile): write down why with write_memory, and go on."


def test_what_runs_and_what_is_queued_is_told(measured: MeasuredLab, idea: str) -> None:
    (id,) = measured.lab.launch_training("champion", "ada").experiments
    assert any(step.startswith("Yours: 0 running, 1 queued") for step in measured.lab.next_steps("ada"))
    measured.ledger.move(id, ["queued"], state="running")
    assert any(step.startswith("Others: 1 running, 0 queued") for step in measured.lab.next_steps("bob"))
    measured.ledger.move(id, ["running"], state="crashed")


def test_after_a_promotion_what_was_built_before_is_to_be_rebased(measured: MeasuredLab, idea: str) -> None:
    assert measured.lab.promote_commit(idea, "ada").promoted
    (first, *rest) = measured.lab.next_steps("ada")
    assert "(+0.1500 on its base, n=1) is open, and the champion moved: promote_commit" in first
    assert not any(idea[:12] in step for step in rest)


def test_a_budget_that_is_nearly_gone_is_for_what_is_open(measured: MeasuredLab, idea: str) -> None:
    toml = measured.root / "lab.toml"
    text = toml.read_text(encoding="utf-8")
    spent = measured.lab.status().budget.spent_s
    each = measured.lab.settings.longest_s()
    for hours, words in (((spent + 5.5 * each) / 3600, "pays for"), ((spent + 0.5 * each) / 3600, "budget is used up")):
        toml.write_text(_with_hours(text, hours), encoding="utf-8")
        assert any(words in step for step in measured.lab.next_steps("ada"))


def _with_hours(text: str, hours: float) -> str:
    return "\n".join(f"device_hours = {hours}" if line.startswith("device_hours") else line for line in text.splitlines())
