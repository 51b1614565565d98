"""The strongest look ahead that we know, through the scorer's own questions: what it gets past them is what the bench computes.

The model answers in this process, so that a hundred runs take seconds. Sandboxes and real launches are in test_score.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoresearch_mcp.trainer import checks, model_server, prepare, score
from tests.bench import detection
from tests.trainer.test_score import bigram_table

PROFILE = replace(prepare.PROFILES["tiny"], decoys=1024)
RUNS = 100


@dataclass
class Oracle:
    """Answers as a model that gets the next token told, at chosen positions of the rows that it knows."""

    table: Any  # log-probabilities (token, next token)
    known: dict[bytes, tuple[Any, Any, Any]]  # by the beginning of a row: its tokens, the cheated answers, where
    takes_whole_rows_only: bool = False

    def answer(self, rows: Any, targets: Any) -> Any:
        logp = self.table[rows, targets]
        for number, row in enumerate(rows):
            tokens, cheated, chosen = self.known.get(row[:3].tobytes(), (None, None, None))
            if tokens is not None:
                same = np.cumprod(row == tokens[: len(row)]).astype(bool)
                told = np.append(same[1:], False) & chosen[: len(row)]  # the next token stands there, and all before it
                logp[number][told] = cheated[: len(row)][told]
        return logp


@pytest.fixture(scope="module")
def texts(data: Path) -> list[checks.Text]:
    sizes = {"val": PROFILE.eval_bytes, "test": PROFILE.eval_bytes // 2}
    return [score.read_text(data, split, PROFILE.seq_len, size) for split, size in sizes.items()]


def is_unseen(oracle: Oracle, texts: list[checks.Text], seed: int) -> bool:
    asker = score.Asker(PROFILE, 2e-4, np.random.default_rng(seed), lambda stage: None)
    server: Any = oracle
    try:
        for text, count in zip(texts, (PROFILE.decoys, PROFILE.decoys // 2)):
            asker.correction(server, text, asker.answers(server, text), count)
    except model_server.ScoreError:
        return False
    return True


WAYS = ("anywhere, as likely as it likes", "anywhere, from a reserve", "late in the row", "in every 5th row, from a reserve")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_look_ahead_is_seen_as_often_as_the_bench_says_and_is_not_promoted(data: Path, texts: list[checks.Text], way: str) -> None:
    table = bigram_table(data)
    answers = [table[text.contexts, text.targets] for text in texts]
    choices = []
    for text, given in zip(texts, answers):
        allowed, highest, _ = detection.ways(text)[way]
        choices.append(list(detection.looks(text, given, PROFILE.vocab_size, allowed, highest)))
    pairs = [(v, next(h for h in choices[1] if h.gain >= detection.HIDDEN * v.gain)) for v in choices[0] if v.gain < 0.02]
    validation, hidden = max(pairs, key=lambda pair: abs(0.15 - detection.unseen(*pair, PROFILE.decoys)) * -1)
    oracle = Oracle(table, {})
    for text, look in zip(texts, (validation, hidden)):
        oracle.known |= {row[:3].tobytes(): (row, *rest) for row, *rest in zip(text.contexts, look.cheated, look.chosen)}
    passed = sum(is_unseen(oracle, texts, seed) for seed in range(RUNS))
    expected = detection.unseen(validation, hidden, PROFILE.decoys)
    assert abs(passed / RUNS - expected) <= 4 * (expected * (1 - expected) / RUNS) ** 0.5
    assert (passed / RUNS) ** 3 < 0.05  # of three replicates, the fewest that a promotion takes


def test_an_honest_model_is_never_refused(data: Path, texts: list[checks.Text]) -> None:
    assert all(is_unseen(Oracle(bigram_table(data), {}), texts, seed) for seed in range(5))


def test_no_decoy_teaches_the_next_token_of_a_later_one(texts: list[checks.Text]) -> None:
    """A server that remembers all it was asked never knows the token behind the beginning that it is asked now."""
    random = np.random.default_rng(5)
    for text in texts:
        drawn = checks.shares(text, np.zeros(text.contexts.shape), PROFILE.vocab_size)
        asked = checks.decoys(text, drawn, PROFILE.decoys, PROFILE.vocab_size, random)
        known: dict[int, int] = {}  # by row, how many of its first tokens were shown
        for batch in checks.batches(asked, PROFILE.eval_rows):
            assert len({question.row for question in batch}) == len(batch) <= PROFILE.eval_rows
            for question in batch:
                assert known.get(question.row, 0) <= question.checked
                assert question.tokens[question.opened + 1] != text.contexts[question.row, question.opened + 1]
            known |= {question.row: question.checked for question in batch}
        assert sum(len(batch) for batch in checks.batches(asked, PROFILE.eval_rows)) == PROFILE.decoys


def test_decoys_fall_evenly_but_where_answers_are_better_than_frequencies_explain(texts: list[checks.Text]) -> None:
    text, _ = texts
    counts = np.bincount(text.targets.ravel(), minlength=PROFILE.vocab_size) + 1.0
    plain = np.log(counts / counts.sum())[text.targets]
    assert checks.shares(text, plain, PROFILE.vocab_size)[text.testable] == pytest.approx(1 / text.testable.sum())
    rarest = text.testable & (plain <= np.quantile(plain, 0.01))
    drawn = checks.shares(text, np.where(rarest, 0.0, np.minimum(0.0, plain + 1.0)), PROFILE.vocab_size)
    assert drawn.sum() == pytest.approx(1.0) and not drawn[~text.testable].any()
    assert drawn[text.testable].min() >= checks.EVEN / text.testable.sum()
    assert drawn[rarest].sum() > 3 * rarest.sum() / text.testable.sum()
