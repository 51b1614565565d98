"""Measures val_bpb of a submitted model without trusting it, and test_bpb of the hidden split beside it (fixed).

The agent's `build_model` runs in sandboxed model servers (model_server.py). They see rows of token ids and answer logits through
shared memory. The targets, the softmax and the sum are here. So the number is that of a normalised distribution. Behind it two things
are checked, as checks.py says: that the model predicts from the past alone, and that it keeps no state and mixes no rows.

1. The first server answers the validation rows, and dies.
2. The second answers those of the hidden split, and dies. It is another process, so that no answer on validation can say how the hidden
   split went.
3. Only then the checks are drawn, and the third server is asked for them, those of validation first. So what answers what counts knows
   nothing of what will be checked, and what is checked knows nothing of what was answered.

The weights may hold the training text, so what a server does up to its first answer could be training. It may take no longer than
`Profile.build_s`. From then on its answers must stay what they are.

How far these checks go. A cheat can answer a real row with knowledge of the next token. Asked again without that token it must give
the same answer. So look-aheads at positions whose shares of the draws sum to q pass with probability (1 - q)^decoys, in each run, and on
the hidden split as well. One of them that shows bars the commit. `python -m tests.bench.detection` finds the best choice of positions
and the chance to be promoted with it; docs/metric.md has its table. What passes within the tolerance is taken back on average: the mean
gap at the splits, each weighted by how rarely it is drawn, is added to the number. A token's successor is never the first token of
another row (a token is left out between rows), so nothing is gained by peeking into other rows.

Decoys are short rows. A model that takes whole rows only says so at its rehearsal, and is asked whole ones. One whose numbers depend on
a row's length, as those in half precision do, is asked again with a whole row before it is refused.

What the hidden split says must not show. Each of its two parts may take `SLOWER` times as long as the same part on validation and
`SLACK_S` more, by a clock that a crowded machine doesn't move (patience.py). Scoring ends on a multiple of `Profile.score_grid_s`, in
whatever way it ends. So its time tells at most a few bits.
No training runs beside it that could be told more (quiet.py).

What is not covered: a dead process leaves traces on a machine, such as which pages are in memory, when a file was last read, how
far a counter went. Through n bits of that the third server can learn which tokens the first one looked up. What a look at a token
gains, in bits, is no less than what it takes to say which one it was. So n bits take at most n bits off the sum (the cpu profile's is
some 400,000). The sandbox closes what lasts and is exact, and refuses questions about the rest.

Some profiles have too many logits to copy (`Profile.sealed`; those of the h100 profile would be 250 GB). There a server first states
the log-probability of each row's next tokens. Then it is asked for the logits of the row's last position, whose target it hasn't seen,
and of one other position, which in a decoy is the split. What it stated is read before that question, and must be the softmax of the
logits that it shows. Then nothing is normalised by construction, but the bound is the same one: a decoy's logits at the split are
normalised here, and the original must have stated for its own next token what they give it. So a probability that is too high,
whether by looking ahead or by summing to more than 1, passes as often as there.
"""

import ctypes
import hashlib
import json
import math
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autoresearch_mcp.trainer import checks, patience, prepare, sandbox
from autoresearch_mcp.trainer.checks import Question, Text
from autoresearch_mcp.trainer.model_server import ModelServer, ScoreError, keep_freed_memory
from autoresearch_mcp.trainer.patience import OwnClock
from autoresearch_mcp.trainer.submission import Submission

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = {"cpu": 2e-4, "cuda": 5e-2, "mps": 5e-2}  # nats that another place in the batch, or another choice of kernels, may change
DIGITS = 4  # of val_bpb: two runs of one seed differ by more
SLOWER, SLACK_S = 6.0, 6.0
STUBBORN = 3  # batches of short rows that only whole rows could clear, before only whole ones are asked
Stage = Literal["loaded", "building", "rehearsed", "answering"]  # of model servers: the first of all of them, the others of each
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Scores:
    """What a model is worth.

    Attributes:
        val_bpb: bits per byte on the first `eval_bytes` of validation, to `DIGITS` digits.
        test_bpb: on half as much of the hidden split, for the gate and the owner alone.
        answers: hash of what it answered on both. Equal ones show equal models, whatever their weights are.
    """

    val_bpb: float
    test_bpb: float
    answers: str


def score(submission: Submission, data: Path, profile: prepare.Profile, jail: sandbox.Jail, tell: Callable[[Stage], None]) -> Scores:
    """Measure the submitted model.

    Args:
        submission: the model.
        data: directory of the profile's data.
        profile: it names the amount of text and the limits.
        jail: the confinement of the model servers, without the descriptors and the directories that they need. Its `directory` is where
            they get theirs.
        tell: called at each stage of the model servers. Up to `loaded` none has run the agent's code, and scoring goes on when the call
            returns. At `rehearsed` a server has answered random tokens, and failures up to there may be explained. From then on nobody
            must read what it prints: it sees text that it could print for other agents to read. What it does from `building` to
            `answering` could be training, and must not take long. Later it can learn no more, or its answers change.

    Raises:
        ScoreError: the model can't be rebuilt, breaks a rule, or gives numbers that aren't finite.
    """
    silent = replace(jail, output=os.open(os.devnull, os.O_WRONLY))  # whatever fails in later servers failed in the first
    servers = [ModelServer(submission, profile, each) for each in (jail, silent, silent)]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no reading of this memory, even where Landlock is missing
    import numpy as np
    import torch

    keep_freed_memory()
    torch.set_num_threads(submission.threads)
    texts = [
        read_text(data, "val", profile.seq_len, profile.eval_bytes),
        read_text(data, "test", profile.seq_len, profile.eval_bytes // 2),
    ]
    for server in servers:
        server.wait()
    tell("loaded")
    clock = OwnClock([os.getpid(), *(server.pid for server in servers)] if patience.excuses_waiting(profile) else [])
    for server in servers:
        server.start_clock(clock)
    asker = Asker(profile, TOLERANCE[submission.device], np.random.default_rng(secrets.randbits(128)), tell)
    validation, hidden, checked = servers
    answers, durations = [], [math.inf]
    for server, text in zip((validation, hidden), texts):
        server.limit(SLOWER * durations[-1] + SLACK_S)
        answering = clock.now()
        tell("building")
        server.begin()
        server.rehearse()
        tell("rehearsed")
        answers.append(asker.answers(server, text))
        server.close()
        durations.append(clock.now() - answering)
    tell("building")
    checked.begin()
    checked.rehearse(checks.lengths(profile.seq_len))
    tell("rehearsed")
    corrections, durations = [], [math.inf]
    for text, given, count in zip(texts, answers, (profile.decoys, profile.decoys // 2)):
        checked.limit(SLOWER * durations[-1] + SLACK_S)
        answering = clock.now()
        corrections.append(asker.correction(checked, text, given, count))
        durations.append(clock.now() - answering)
    checked.close()
    val_bpb, test_bpb = (bits_per_byte(text, given, extra) for text, given, extra in zip(texts, answers, corrections))
    return Scores(round(val_bpb, DIGITS), test_bpb, _digest(answers))


def read_text(data: Path, split: str, seq_len: int, size: int) -> Text:
    """Read the first `size` bytes of a split, as whole rows.

    A token is left out between two rows, so that the last target of one is not the first token of another.

    Raises:
        ScoreError: the data is damaged.
    """
    import numpy as np

    meta = json.loads((data / prepare.META).read_text(encoding="utf-8"))
    for name in (f"{split}.bin", prepare.TOKEN_BYTES):
        if prepare.file_hash(data / name) != meta["files"][name]:
            raise ScoreError("error", f"{name} in the data directory is damaged: remove the directory and prepare it again.")
    tokens = np.fromfile(data / f"{split}.bin", dtype=np.uint16).astype(np.int64)
    widths = np.load(data / prepare.TOKEN_BYTES)
    length = int(np.searchsorted(np.cumsum(widths[tokens]), size)) // (seq_len + 1) * (seq_len + 1)
    rows = tokens[:length].reshape(-1, seq_len + 1)
    return Text(rows[:, :-1], rows[:, 1:], widths[rows[:, 1:]])


def bits_per_byte(text: Text, logp: "np.ndarray[Any, Any]", extra: float = 0.0) -> float:
    """Return bits per byte. Tokens that stand for no text, such as BOS, don't count.

    Args:
        text: what was asked.
        logp: log-probability of each target, in nats.
        extra: nats to add to their sum.
    """
    return float(-(logp[text.widths > 0].sum() + extra) / math.log(2) / text.widths.sum())


class Asker:
    """Asks a model server for rows, and compares what it answers.

    Args:
        profile: its limits.
        tolerance: nats by which two answers may differ.
        random: draws what is asked, in which order.
        tell: of `score`, for the stage `answering`.
    """

    def __init__(self, profile: prepare.Profile, tolerance: float, random: "np.random.Generator", tell: Callable[[Stage], None]) -> None:
        self._profile, self._tolerance, self._random, self._tell = profile, tolerance, random, tell
        self._answering: ModelServer | None = None  # the last that began to answer
        self._stubborn = 0  # batches of short rows that only whole rows could clear

    def answers(self, server: ModelServer, text: Text) -> "np.ndarray[Any, Any]":
        """Ask for what counts.

        Returns:
            The log-probabilities of all targets in nats (rows, positions).

        Raises:
            ScoreError: the model fails, or answers a row in two ways.
        """
        import numpy as np

        questions = checks.rows(text, self._profile.eval_rows, self._random)
        size = self._profile.eval_rows
        answers, repeated = np.zeros(text.contexts.shape), []
        for batch in (questions[start : start + size] for start in range(0, len(questions), size)):
            for question, answer in self._ask(server, text, batch):
                if question.checked:
                    repeated.append((question, answer))
                else:
                    answers[question.row] = answer
        for question, answer in repeated:
            if self._gap(question, answer, answers[question.row]) > self._tolerance:
                raise _refusal(question)
        return answers

    def correction(self, server: ModelServer, text: Text, answers: "np.ndarray[Any, Any]", count: int) -> float:
        """Ask for decoys and twins of a text whose answers were given.

        Args:
            server: it must never have been asked for this text.
            text: what was asked.
            answers: the log-probabilities that were given.
            count: decoys to draw.

        Returns:
            Nats to add to the sum of the answers: what they gained within the tolerance, as estimated from the decoys.

        Raises:
            ScoreError: the model fails, looks ahead or keeps state.
        """
        drawn = checks.shares(text, answers, self._profile.vocab_size)
        asked = checks.decoys(text, drawn, count, self._profile.vocab_size, self._random)
        asked += checks.twins(text, checks.TWINS, self._random)
        gained = []
        for batch in checks.batches(asked, self._profile.eval_rows):
            answered = self._ask(server, text, self._lengthen(server, batch))
            if any(self._gap(q, answer, answers[q.row]) > self._tolerance for q, answer in answered) and _is_short(batch, text):
                whole = [question.extended(text.contexts.shape[1], self._profile.vocab_size, self._random) for question in batch]
                answered = self._ask(server, text, whole)
                self._stubborn += 1
            for question, answer in answered:
                gap = self._gap(question, answer, answers[question.row])
                if gap > self._tolerance:
                    raise _refusal(question, gap)
                if question.decoy:
                    place = question.row, question.opened
                    gained.append(float(answer[question.opened] - answers[place]) / drawn[place])
        return math.fsum(gained) / len(gained)

    def _lengthen(self, server: ModelServer, batch: list[Question]) -> list[Question]:
        whole = server.takes_whole_rows_only or self._stubborn >= STUBBORN
        length = self._profile.seq_len if whole else max(len(question.tokens) for question in batch)
        return [question.extended(length, self._profile.vocab_size, self._random) for question in batch]

    def _ask(self, server: ModelServer, text: Text, batch: list[Question]) -> "list[tuple[Question, np.ndarray[Any, Any]]]":
        """Ask rows of one length, with rows of noise beside them up to a whole batch."""
        import numpy as np

        length, missing = len(batch[0].tokens), self._profile.eval_rows - len(batch)
        noise = self._random.integers(self._profile.vocab_size, size=(missing, length))
        rows = np.concatenate([np.stack([question.tokens for question in batch]), noise])
        wanted = np.concatenate([text.targets[[question.row for question in batch], :length], noise])
        opened = [question.opened for question in batch] + [0] * missing
        logp = server.answer_sealed(rows, wanted, opened) if self._profile.sealed else server.answer(rows, wanted)
        if server is not self._answering:
            self._answering = server
            self._tell("answering")
        return list(zip(batch, logp))

    def _gap(self, question: Question, answer: "np.ndarray[Any, Any]", original: "np.ndarray[Any, Any]") -> float:
        """Return by how many nats two answers differ, up to the last position that must agree."""
        return float(abs(answer[: question.checked] - original[: question.checked]).max())


def _is_short(batch: list[Question], text: Text) -> bool:
    return any(len(question.tokens) < text.contexts.shape[1] for question in batch)


def _refusal(question: Question, gap: float = 0.0) -> ScoreError:
    """Name the rule that was broken. Where and by how much is for the owner alone: it says something of the held-out text."""
    where = f"{gap:.3g} nats apart at or before position {question.checked - 1} of row {question.row}"
    if question.decoy:
        return ScoreError("invalid_model", "log-probabilities depend on tokens that come later: the model looks ahead.", where)
    return ScoreError(
        "invalid_model", "the same row got other log-probabilities the second time: the model keeps state, or mixes rows.", where
    )


def _digest(answers: "list[np.ndarray[Any, Any]]") -> str:
    """Return a hash of what was answered, to whole nats a row: what another machine changes in an equal model is far less."""
    import numpy as np

    return hashlib.sha256(np.concatenate([np.rint(rows.sum(1)) for rows in answers]).astype("<i8").tobytes()).hexdigest()[:16]
