"""Sums that are kept beside what ended say what the rows themselves say."""

import contextlib
import itertools
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from autoresearch_mcp.server.gate.evidence import counted, metrics
from autoresearch_mcp.server.gate.noise import listed, sums_of_squares
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.counting import Counting
from autoresearch_mcp.server.ledger.results import Ended
from autoresearch_mcp.server.models import Experiment, Promotion, Score, new_id
from autoresearch_mcp.server.settings import MetricSection, PromotionSection
from tests.server.test_ledger import proposal

CHOICES: tuple[Literal["refuse", "allow"], ...] = ("refuse", "allow")
EVERY_RULE = [
    PromotionSection(reported=reported, unsandboxed=unsandboxed).comparing(MetricSection(name=name))
    for reported, unsandboxed, name in itertools.product(CHOICES, CHOICES, ("", "accuracy"))
]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        yield ledger


def trainings(seed: int, count: int) -> Iterator[tuple[Experiment, dict[str, object]]]:
    """Yield experiments of few commits, models and agents, each with the evidence that is kept of it."""
    rng = random.Random(seed)
    for number in range(count):
        reported, finished = rng.random() < 0.2, rng.random() < 0.85
        e = Experiment(
            id=new_id("e"), commit=rng.choice("abcde") * 40, base="0" * 40, author=rng.choice(["ada", "bob", "the lab"]), hypothesis="h",
            seed=number, device=rng.choice(["cpu", "h100"]), created_at=float(number), by_lab=rng.random() < 0.2, reserved_s=1.0,
            reproduces="e-0" if rng.random() < 0.1 else "", state="finished" if finished else rng.choice(["crashed", "cancelled"]),
            val_bpb=None if reported or not finished else round(rng.uniform(1.4, 1.6), 1), finished_at=1000.0 + number + rng.choice([0, 40]),
            reported_bpb=rng.uniform(1.4, 1.6) if reported else None, conditions=rng.choice("kl"), steps=rng.choice([None, 10, 20, 30]),
        )  # fmt: skip
        evidence = {
            "sandbox": rng.choice(["landlock-7", "landlock-7", "unsandboxed"]),
            "test_bpb": None if reported or rng.random() < 0.1 else round(rng.uniform(1.4, 1.6), 1),
            "weights": rng.choice([None, "w1", "w2", *map(str, range(20))]),
            "answers": rng.choice([None, None, "a1", *map(str, range(20))]),
        }
        yield e, evidence


def end(ledger: Ledger, e: Experiment, evidence: dict[str, object], late: bool = False) -> None:
    """Take an experiment through the ledger to its end; `late` keeps its evidence only then."""
    ledger.enqueue([e.model_copy(update={"state": "queued", "finished_at": None})], 1e12, None, "r")
    ledger.start(e.id, 1e12)
    if not late:
        ledger.keep_evidence(e.id, **evidence)  # type: ignore[arg-type]
    names = ("state", "val_bpb", "reported_bpb", "conditions", "steps", "finished_at")
    ledger.move(e.id, ["starting"], started_at=900.0, **e.model_dump(include=set(names)))
    if late:
        ledger.keep_evidence(e.id, **evidence)  # type: ignore[arg-type]


def promote(ledger: Ledger, at: float) -> None:
    promotion = Promotion(id=new_id("p"), commit="a" * 40, previous="0" * 40, author="ada", approved_by="policy", verdict={}, created_at=at)
    ledger.intend_promotion(promotion)
    ledger.confirm_promotion(promotion)


def as_the_rows_say(ledger: Ledger, since: float) -> None:
    """Compare every sum with what the rows say."""
    ended, finished = [Ended._make(row) for row in ledger.ended_after(0)], [score for _, score in ledger.finished_after(0)]
    assert ledger.counts() == Counter(e.state for e in ended)
    seconds: defaultdict[str, float] = defaultdict(float)
    for e in ended:
        seconds["the lab" if e.by_lab else e.author] += max(e.finished_at - (e.started_at or 0.0), 0.0)
    assert ledger.seconds_by_author(9) == pytest.approx(seconds)
    own = ledger.ended([e.id for e in ended]).values()
    new = [row for row in own if row["finished_at"] > since and row["started"] and not (row["by_lab"] or row["reproduces"])]
    trained = ledger.trained_since(since)
    assert (trained.trainings, trained.commits) == (len(new), len({row["commit"] for row in new}))
    assert trained.device_s == pytest.approx(sum(row["finished_at"] - row["started_at"] for row in new))
    for device in ("cpu", "h100", "mps"):
        assert ledger.newest_conditions(device) == next((score.conditions for score in reversed(finished) if score.device == device), "")
    groups: defaultdict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in finished:
        groups[score.conditions, score.commit].append(score)
    for rules, conditions in itertools.product(EVERY_RULE, "klm"):
        kept = {commit: counted(group, rules) for (under, commit), group in groups.items() if under == conditions}
        values = {commit: metrics(scores) for commit, scores in kept.items() if scores}
        known = ledger.standings(conditions, Counting.of(rules))
        assert {commit: (each.n, each.mean) for commit, each in known.items()} == {c: (len(v), mean(v)) for c, v in values.items()}
        assert all(each.squares == sums_of_squares(values[commit]) for commit, each in known.items())
        spreads = listed([sums_of_squares(each) for commit, each in values.items() if commit != "a" * 40])
        for limit in (None, lambda degrees: 0.01 * degrees):
            degrees, squares = ledger.spread(conditions, Counting.of(rules), ["a" * 40], limit)
            assert (degrees, squares) == (spreads(limit)[0], pytest.approx(spreads(limit)[1]))


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_what_the_rows_say_whoever_wrote_them_and_whenever(ledger: Ledger, tmp_path: Path, seed: int) -> None:
    as_the_rows_say(ledger, 0.0)
    for number, (e, evidence) in enumerate(trainings(seed, 60)):
        end(ledger, e, evidence, late=number % 7 == 0)
        if number == 40:
            promote(ledger, 1030.0)
    as_the_rows_say(ledger, 1030.0)
    promote(ledger, 1050.0)
    as_the_rows_say(ledger, 1050.0)
    assert not ledger.recount()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:  # as a program does that knows no sums
        db.execute("INSERT INTO evidence SELECT 'x' || experiment, test_bpb, sandbox, weights, answers, finding FROM evidence")
        columns = ", ".join(f'"{row[1]}"' for row in db.execute("PRAGMA table_info(ended)") if row[1] != "id")
        db.execute(f"INSERT INTO ended (id, {columns}) SELECT 'x' || id, {columns} FROM ended ORDER BY rowid")
    last = ledger.scores("a" * 40)[-1]
    ledger.keep_evidence(last.experiment, "landlock-7", 9.5, "w9")
    assert next(score for score in ledger.scores("a" * 40) if score.experiment == last.experiment).test_bpb == 9.5
    as_the_rows_say(ledger, 1050.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute("UPDATE standings SET mean = mean - 1")
    assert ledger.recount() and not ledger.recount()
    as_the_rows_say(ledger, 1050.0)


def test_in_a_large_lab_the_best_those_with_replicates_and_some_of_the_others_are_looked_at(ledger: Ledger, tmp_path: Path) -> None:
    end(ledger, *next((e, evidence) for e, evidence in trainings(0, 99) if e.val_bpb and evidence["test_bpb"] and not e.reproduces))
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(ended)")]
        made = {"id": "'e' || n", '"commit"': "CASE WHEN n > 5000 THEN 'r' || (n / 3) ELSE 'c' || n END", "val_bpb": "2.0 - n / 1e5"}
        chosen = ", ".join(made.get(f'"{name}"' if name == "commit" else name, f'"{name}"') for name in columns)
        many = "WITH RECURSIVE many(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM many WHERE n < 5300)"
        names = ", ".join(f'"{name}"' for name in columns)
        db.execute(f"INSERT INTO ended ({names}) {many} SELECT {chosen} FROM ended, many")
        db.execute(f"INSERT INTO evidence (experiment, sandbox, test_bpb) {many} SELECT 'e' || n, 'landlock-7', 1.0 FROM many")
    counting, conditions = Counting.of(PromotionSection()), Ended._make(ledger.ended_after(0)[0]).conditions
    everyone = ledger.standings(conditions, counting)
    ledger.add_proposal(proposal("f", "c4999"), kind="measurement")
    before = time.process_time()
    for goal, sign in (("min", 1), ("max", -1)):
        crowd = ledger.crowd(conditions, counting, goal, ["c4998"], 100, 100, 1000)  # type: ignore[arg-type]
        ranked = sorted((each for each in everyone.values() if each.commit not in ("c4998", "c4999")), key=lambda each: sign * each.mean)
        assert [each.commit for each in crowd[:100]] == [each.commit for each in ranked[:100]]
        assert ledger.best(conditions, counting, goal, ["c4998"], 100) == crowd[:100]  # type: ignore[arg-type]
        assert {each.commit for each in ranked if each.n >= 3} <= {each.commit for each in crowd}
        assert 900 < len(crowd) < 1300 and len({each.commit for each in crowd}) == len(crowd)
        assert [each.mean for each in crowd] == sorted((each.mean for each in crowd), reverse=goal == "max")
        centre = mean([each.mean for each in crowd if each.n == 1])
        assert centre == pytest.approx(mean([each.mean for each in ranked if each.n == 1]), abs=0.003), "the others are an even sample"
    assert time.process_time() - before < 2
