"""Measures val_bpb of a submitted model without trusting it, and test_bpb of the hidden split beside it (fixed).

The agent's `build_model` runs in sandboxed model servers (model_server.py). They see rows of token ids and answer logits through
shared memory. The targets, the softmax and the sum are here. So the number is that of a normalised distribution, and two things
are checked of the model behind it:

- It predicts from the past: each of `DECOYS` extra rows shares a validation row's beginning and continues with another
  row's end, and up to the split the log-probabilities must be the same. Splits are drawn where an answer is better than a
  token's frequency explains, by as much: a look ahead shows there, whatever it is for. `ANYWHERE` of them are drawn evenly.
- It keeps no state and mixes no rows: `TWINS` extra rows repeat a row elsewhere, half of them in the same server.

First one server answers everything that counts. When it is dead, and what it could write is gone, the decoys are drawn and
asked of a second one, where the agent's code begins only then. So a server that answers what counts knows nothing of what
will be checked, and one that is checked knows nothing of what was answered.

The weights may hold the training text, so what a server does up to its first answer could be training. It may take no longer than
`Profile.build_s`. From then on its answers must stay what they are.

How far these checks go. A model can answer a real row with knowledge of the next token, but then, asked again with another
future, it must give that answer without it. So look-aheads at positions whose shares of the draws sum to q pass with
probability (1 - q)^DECOYS, and q grows with what they gain. What passes within the tolerance is taken back on average: the
mean gap at the splits, each weighted by how rarely it is drawn, is added to the number. A token's successor is never the
first token of another row (a token is left out between rows), so that nothing could be gained by peeking into other rows either.

What is not covered: a dead process leaves traces on a machine, such as which pages are in memory, when a file was last read, how
far a counter went. Through n bits of that the second server can learn which tokens the first one looked up. What a look at a token
gains, in bits, is no less than what it takes to say which one it was. So n bits take at most n bits off the sum (the cpu profile's is
some 400,000). The sandbox closes what lasts and is exact, and refuses questions about the rest.

Some profiles have too many logits to copy (`Profile.sealed`; those of the h100 profile would be 250 GB). There a server first states
the log-probability of each row's next tokens. Then it is asked for the logits of the row's last position, whose target it hasn't seen,
and of one other position, which in a decoy is the split. What it stated is read before that question, and must be the softmax of the
logits that it shows. Then nothing is normalised by construction, but the bound is the same one: a decoy's logits at the split are
normalised here, and the original must have stated for its own next token what they give it. So a probability that is too high,
whether by looking ahead or by summing to more than 1, passes as often as there.

Measured on the stock model after 20 s, for a cheat that is certain at the n of 54,528 positions that gain most for the risk
(`python -m tests.bench.detection`; the noise between two runs of one seed is 0.0013 bits per byte):

    n                           2       4       8      16      44     128     294
    gain, bits per byte    0.0002  0.0003  0.0006  0.0011   0.003   0.009   0.020
    caught in a run          1.4%    2.8%      6%     12%     32%     70%     95%
    three runs pass           96%     92%     83%     68%     31%      3%      0%

So a gain beyond twice the noise is more often caught than not, in the three runs that a promotion takes at least.
"""

import ctypes
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autoresearch_mcp.trainer import prepare, sandbox
from autoresearch_mcp.trainer.model_server import ModelServer, ScoreError
from autoresearch_mcp.trainer.submission import Submission

if TYPE_CHECKING:
    import numpy as np

DECOYS = 256
ANYWHERE = 0.25  # the share of decoys that don't go by what was answered
TWINS = 8
TOLERANCE = {"cpu": 2e-4, "cuda": 5e-2}  # nats that another place in the batch, or another choice of kernels, may change
Stage = Literal["building", "rehearsed", "answering"]  # of a model server
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Scores:
    """Bits per byte on the first `eval_bytes` of validation, and on half as much of the hidden split, for the gate and the owner alone."""

    val_bpb: float
    test_bpb: float


@dataclass(frozen=True)
class _Text:
    """A split as rows of tokens, the target of each, and the bytes that each target stands for."""

    contexts: "np.ndarray[Any, Any]"
    targets: "np.ndarray[Any, Any]"
    widths: "np.ndarray[Any, Any]"

    def bpb(self, logp: "np.ndarray[Any, Any]") -> float:
        """Bits per byte, from the log-probability in nats of each target. Tokens that stand for no text, such as BOS, don't count."""
        return float(-logp[self.widths > 0].sum() / math.log(2) / self.widths.sum())


def score(submission: Submission, data: Path, profile: prepare.Profile, jail: sandbox.Jail, tell: Callable[[Stage], None]) -> Scores:
    """Measure the submitted model.

    Args:
        submission: the model.
        data: directory of the profile's data.
        profile: it names the amount of text and the limits.
        jail: the confinement of the model servers, without the descriptors and the directories that they need. Its `directory` is where
            they get theirs.
        tell: called at each stage of each model server. At `rehearsed` it has answered random tokens, and failures up to there may be
            explained. From then on nobody must read what it prints: it sees text that it could print for other agents to read. What it
            does from `building` to `answering` could be training, and must not take long. Later it can learn no more, or its answers
            change.

    Raises:
        ScoreError: the model can't be rebuilt, breaks a rule, or gives numbers that aren't finite.
    """
    first = ModelServer(submission, profile, jail)
    second = ModelServer(submission, profile, replace(jail, output=os.open(os.devnull, os.O_WRONLY)))  # whatever fails here failed there
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no reading of this memory, even where Landlock is missing
    import numpy as np
    import torch

    torch.set_num_threads(submission.threads)
    val = _read(data, "val", profile.seq_len, profile.eval_bytes)
    test = _read(data, "test", profile.seq_len, profile.eval_bytes // 2)
    contexts, targets = np.concatenate([val.contexts, test.contexts]), np.concatenate([val.targets, test.targets])
    for server in (first, second):
        server.wait()

    def ask(server: ModelServer, questions: list[_Question]) -> Iterator[tuple[_Question, np.ndarray[Any, Any]]]:
        tell("building")
        server.begin()
        server.rehearse()
        tell("rehearsed")
        for start in range(0, len(questions), profile.eval_rows):
            batch = questions[start : start + profile.eval_rows]
            rows, wanted = np.stack([question.tokens for question in batch]), targets[[question.row for question in batch]]
            logp = server.answer_sealed(rows, wanted, [q.opened for q in batch]) if profile.sealed else server.answer(rows, wanted)
            if start == 0:
                tell("answering")
            yield from zip(batch, logp)
        server.close()

    answered = list(ask(first, _questions(contexts, profile.eval_rows)))
    answers = np.zeros(contexts.shape)
    for question, answer in answered:
        if question.checked == 0:
            answers[question.row] = answer
    shares = _shares(val, answers[: len(val.contexts)], profile.vocab_size)
    answered += ask(second, _checks(contexts, shares, profile.eval_rows))  # drawn only now
    checks = [(q, _compare(q, answer, answers[q.row], TOLERANCE[submission.device])) for q, answer in answered if q.checked]
    decoys = [(question, gap) for question, gap in checks if question.checked < profile.seq_len]
    correction = math.fsum(gap / shares[q.row, q.checked - 1] for q, gap in decoys) / shares.size / len(decoys)
    return Scores(val.bpb(answers[: len(val.contexts)] + correction), test.bpb(answers[len(val.contexts) :]))


def _read(data: Path, split: str, seq_len: int, size: int) -> _Text:
    """Read the first `size` bytes of a split, as whole rows.

    A token is left out between two rows, so that the last target of one is not the first token of another.
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
    return _Text(rows[:, :-1], rows[:, 1:], widths[rows[:, 1:]])


@dataclass(frozen=True)
class _Question:
    """A row to ask.

    Attributes:
        row: its number; of a decoy, that of the row whose beginning it shares.
        opened: the position that a server must show after it stated all: in a decoy the last one that must agree.
        checked: 0 for a row that counts, else the number of first positions that must agree with it.
    """

    row: int
    tokens: "np.ndarray[Any, Any]"
    opened: int
    checked: int = 0


def _questions(contexts: "np.ndarray[Any, Any]", multiple: int) -> list[_Question]:
    """Ask all rows, in random order, each opened anywhere. Ask some of them twice: `TWINS // 2`, and what fills the last batch."""
    import numpy as np

    random = np.random.default_rng(secrets.randbits(128))
    rows, length = contexts.shape
    asked = [_Question(row, contexts[row], int(random.integers(length - 1))) for row in range(rows)]
    asked += _twins(contexts, TWINS // 2 + -(rows + TWINS // 2) % multiple, random)
    random.shuffle(asked)
    return asked


def _shares(text: _Text, answers: "np.ndarray[Any, Any]", vocab_size: int) -> "np.ndarray[Any, Any]":
    """Return how often a decoy is split at each position but the last (rows, positions - 1), given the answers (rows, positions)."""
    import numpy as np

    counts = np.bincount(text.targets.ravel(), minlength=vocab_size) + 1.0
    better = np.where(text.widths > 0, np.maximum(0.0, answers - np.log(counts / counts.sum())[text.targets]), 0.0)[:, :-1]
    even = np.full(better.shape, 1 / better.size)
    return even if better.sum() == 0 else ANYWHERE * even + (1 - ANYWHERE) * better / better.sum()


def _checks(contexts: "np.ndarray[Any, Any]", shares: "np.ndarray[Any, Any]", multiple: int) -> list[_Question]:
    """Draw decoys by `shares`, of the validation rows alone, so that each look there counts. Add twins of all rows."""
    import numpy as np

    random = np.random.default_rng(secrets.randbits(128))
    asked = _twins(contexts, TWINS // 2 + -(DECOYS + TWINS // 2) % multiple, random)
    for row, split in zip(
        *np.unravel_index(random.choice(shares.size, DECOYS, p=shares.ravel()), shares.shape)
    ):  # the last that must agree
        ends = contexts[contexts[:, split + 1] != contexts[row, split + 1]]
        spliced = np.concatenate([contexts[row, : split + 1], ends[random.integers(len(ends)), split + 1 :]])
        asked.append(_Question(int(row), spliced, int(split), int(split) + 1))
    random.shuffle(asked)
    return asked


def _twins(contexts: "np.ndarray[Any, Any]", count: int, random: "np.random.Generator") -> list[_Question]:
    rows, length = contexts.shape
    return [_Question(int(row), contexts[row], int(random.integers(length - 1)), length) for row in random.integers(rows, size=count)]


def _compare(question: _Question, answer: "np.ndarray[Any, Any]", original: "np.ndarray[Any, Any]", tolerance: float) -> float:
    """Return how much more the second answer gave the target at the last position that must agree, in nats.

    Raises:
        ScoreError: the two answers differ by more than `tolerance`.
    """
    gaps = answer[: question.checked] - original[: question.checked]
    if abs(gaps).max() <= tolerance:
        return float(gaps[-1])
    size = f"{abs(gaps).max():.3g} nats apart"
    if question.checked == len(answer):
        raise ScoreError(
            "invalid_model", f"the same row got other log-probabilities the second time ({size}): the model keeps state, or mixes rows."
        )
    raise ScoreError(
        "invalid_model", f"log-probabilities depend on tokens that come later ({size} at or before position {question.checked - 1})."
    )
