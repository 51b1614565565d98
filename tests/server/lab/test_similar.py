"""An idea that was tried before is named before it is tried again."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab import similar
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from tests.server.measured import without_runner

PARAPHRASE = ("Use a bigger LR for muon", "A larger learning rate for the muon optimizer")
SAME_WORDS = ("Warm-up over 200 steps instead of 100", "warmup over 200 steps instead of the 100")


@pytest.fixture(params=["auto", "none"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lab(make_lab: Callable[..., Path], model: str) -> Iterator[Lab]:
    """A lab that nobody runs: the test plays its runner."""
    with without_runner(make_lab(toml={'[embeddings]\nbackend = "auto"': f'[embeddings]\nbackend = "{model}"'})) as opened:
        yield opened.lab


def propose(lab: Lab, hypothesis: str, number: int) -> tuple[str, list[str], str]:
    answer = lab.propose_patch(hypothesis, "ada", files={"train.py": f"{lab.read_file().text}\nUNUSED = {number}\n"})
    return answer.commit, [each.commit for each in answer.similar], answer.note


def test_hypotheses_with_the_same_words_are_similar_without_a_model_and_paraphrases_with_one(lab: Lab, model: str) -> None:
    lr, similar, note = propose(lab, PARAPHRASE[0], 1)
    assert similar == [] and "similar" not in note
    warmup, similar, _ = propose(lab, SAME_WORDS[0], 2)
    assert similar == []
    _, similar, note = propose(lab, SAME_WORDS[1], 3)
    assert similar == [warmup] and "`similar`" in note
    _, similar, _ = propose(lab, PARAPHRASE[1], 4)
    assert similar == ([lr] if model == "auto" else [])
    assert propose(lab, "Dropout of a tenth in every block", 5)[1] == []
    search = lab.status().search
    repeats = 2 if model == "auto" else 1
    assert search is not None and search.novelty is not None and 1 - (repeats + 1) / 5 < search.novelty <= 1 - repeats / 5 + 0.005


@pytest.mark.parametrize("grown", [1.0, 1e9])
def test_what_came_since_words_were_weighed_is_found_too(lab: Lab, model: str, monkeypatch: pytest.MonkeyPatch, grown: float) -> None:
    monkeypatch.setattr(similar, "_GROWN", grown)
    propose(lab, "Dropout of a tenth in every block", 1)
    warmup, _, _ = propose(lab, SAME_WORDS[0], 2)
    propose(lab, "Rotary positions over half of the width", 3)
    assert propose(lab, SAME_WORDS[1], 4)[1] == [warmup]
    assert warmup in {each.commit for each in lab.search_memory(SAME_WORDS[0]).proposed}


def test_a_search_names_proposals_and_what_became_of_them(lab: Lab, model: str) -> None:
    warmup, _, _ = propose(lab, SAME_WORDS[0], 1)
    with closing(Ledger(lab.root / ".autoresearch" / "ledger.sqlite")) as ledger:
        for id, val_bpb in zip(lab.launch_training(warmup, "ada", 2).experiments, (1.5, 1.7)):
            ledger.keep_evidence(id, "landlock-7", val_bpb, id)
            ledger.move(id, ["queued"], state="finished", val_bpb=val_bpb, conditions="k", started_at=1.0)
    (proposed,) = lab.search_memory(SAME_WORDS[1]).proposed
    assert (proposed.commit, proposed.author, proposed.hypothesis) == (warmup, "ada", SAME_WORDS[0])
    assert (proposed.ended, proposed.mean_val_bpb) == (2, 1.6) and 0.5 <= proposed.likeness <= 1
    assert lab.search_memory("").proposed == lab.search_memory("rotary embeddings of half the width").proposed == []
    assert ("meaning" in lab.search_memory("warmup").ranking) is (model == "auto")
