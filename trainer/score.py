"""Measures val_bpb of a submitted model without trusting it, and test_bpb of the hidden split beside it (fixed).

The agent's `build_model` runs in two sandboxed model servers that see rows of token ids and answer logits through
shared memory; the targets, the softmax and the sum are here. So the number is that of a normalised distribution, and
three things are checked of the model behind it:

- It predicts from the past: each of `DECOYS` extra rows shares a validation row's beginning and continues with another
  row's end, and up to the split the log-probabilities must be the same.
- It keeps no state and mixes no rows: `TWINS` extra rows repeat a row elsewhere in the stream.
- It can't tell an extra row from a real one, nor answer it from memory: every extra row goes to the server that
  didn't get its original (half of the twins to the same one), both servers get the same number of each kind, and they
  can't talk: no process runs in one while the other answers, and neither can write what the other reads.

What that is worth. A model can answer a real row with knowledge of the next token, but then, asked again with another
future, it must give that answer without it. Whatever it knows about decoys, it can't: so a look-ahead at a fraction f of
the positions, however chosen, passes with probability (1 - f)^DECOYS, and the rows that are asked are drawn anew each
time. What passes within the tolerance is taken back on average: the mean gap at the splits is added to the number.
A token's successor is never the first token of another row (a token is left out between rows), so that
nothing could be gained by peeking into other rows either.

Measured on the stock model after 20 s, for a cheat that touches the positions of highest loss and is certain there
(`python -m tests.bench.detection`; 2,000 draws of decoys; the noise between two runs of one seed is 0.0013 bits per byte):

    positions of 54,528         2       4       8      16      44     128     294
    caught in a run          0.4%    1.2%    2.1%    4.7%     11%     28%     52%
    gain, bits per byte    0.0002  0.0004  0.0008  0.0015   0.004   0.011   0.024

So what stays under 1% gains less than a third of the noise. A promotion takes at least three runs, each with its own draw.
"""

import contextlib
import ctypes
import json
import math
import mmap
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import prepare, sandbox

if TYPE_CHECKING:
    import numpy as np
    import torch

DECOYS = 128
TWINS = 8
TOLERANCE = {"cpu": 2e-4, "cuda": 5e-2}  # nats that another place in the batch, or another choice of kernels, may change
_READY, _GO, _DONE = b"R", b"G", b"D"
_PR_SET_DUMPABLE = 4


class ScoreError(Exception):
    """The model can't be given a number: `kind` is a failure class, the text says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Submission:
    """What to score: the agent's code, and the weights and config that it handed in."""

    code: Path
    entry: str
    weights: Path
    config: Mapping[str, Any]
    threads: int
    device: str  # a torch device type


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


def score(submission: Submission, data: Path, profile: prepare.Profile, jail: sandbox.Jail) -> Scores:
    """Measure the submitted model.

    Args:
        jail: the confinement of the model servers, without the descriptors and the directories that they need.

    Raises:
        ScoreError: the model can't be rebuilt, breaks a rule, or gives numbers that aren't finite.
    """
    servers = [_ModelServer(submission, profile, jail, jail.directory / f"server-{number}") for number in (1, 2)]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no reading of this memory, even where Landlock is missing
    import numpy as np
    import torch

    torch.set_num_threads(submission.threads)
    val = _read(data, "val", profile.seq_len, profile.eval_bytes)
    test = _read(data, "test", profile.seq_len, profile.eval_bytes // 2)
    contexts, targets = np.concatenate([val.contexts, test.contexts]), np.concatenate([val.targets, test.targets])
    for server in servers:
        server.pause()
    answers = np.zeros(contexts.shape)
    checks: list[tuple[_Question, np.ndarray[Any, Any]]] = []
    for server, questions in zip(servers, _questions(contexts, len(val.contexts), profile.eval_rows)):
        server.resume()
        for start in range(0, len(questions), profile.eval_rows):
            batch = questions[start : start + profile.eval_rows]
            logits = server.answer(np.stack([question.tokens for question in batch]))
            logp = _log_probabilities(logits, targets[[question.row for question in batch]])
            for question, answer in zip(batch, logp):
                if question.checked == 0:
                    answers[question.row] = answer
                else:
                    checks.append((question, answer))
        server.close()
    gaps = [_compare(question, answer, answers[question.row], TOLERANCE[submission.device]) for question, answer in checks]
    excess = [gap for (question, _), gap in zip(checks, gaps) if question.checked < profile.seq_len]
    correction = math.fsum(excess) / len(excess) if excess else 0.0
    return Scores(val.bpb(answers[: len(val.contexts)] + correction), test.bpb(answers[len(val.contexts) :]))


def _read(data: Path, split: str, seq_len: int, size: int) -> _Text:
    """The first `size` bytes of a split, as whole rows. Between two rows a token is left out: the last target is then no other row's first token."""
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
    """A row to ask. `checked` is 0 for a row that counts, else the number of first positions that must agree with it."""

    row: int
    tokens: "np.ndarray[Any, Any]"
    checked: int = 0


def _questions(contexts: "np.ndarray[Any, Any]", validation: int, multiple: int) -> list[list[_Question]]:
    """What to ask each of the two servers: half of the rows, decoys and twins of the others, in random order.

    Args:
        contexts: all rows, those of validation first.
        validation: how many those are; they alone have decoys, so that each look there counts.
        multiple: rows a batch; twins fill the last one.
    """
    import numpy as np

    random = np.random.default_rng(secrets.randbits(128))
    rows, length = contexts.shape
    owner = random.permutation(rows) % 2
    streams = [[_Question(row, contexts[row]) for row in range(rows) if owner[row] == side] for side in (0, 1)]
    for side, stream in enumerate(streams):
        mine, others = (np.flatnonzero(owner == which) for which in (side, 1 - side))
        suspects = others[others < validation]
        for row in random.choice(suspects, DECOYS // 2, replace=len(suspects) < DECOYS // 2):
            split = int(random.integers(0, length - 1))  # the last position that must agree
            ends = contexts[contexts[:, split + 1] != contexts[row, split + 1]]
            spliced = np.concatenate([contexts[row, : split + 1], ends[random.integers(len(ends)), split + 1 :]])
            stream.append(_Question(int(row), spliced, split + 1))
        twins = [*random.choice(mine, TWINS // 4), *random.choice(others, TWINS // 4)]
        twins += list(random.choice(others, -(len(stream) + len(twins)) % multiple))
        stream.extend(_Question(int(row), contexts[row], length) for row in twins)
        random.shuffle(stream)
    return streams


def _log_probabilities(logits: "torch.Tensor", targets: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Log-probability in nats of each target, normalised here. `logits` must be ours alone: a shared one could change between two looks."""
    import numpy as np
    import torch

    # log_softmax takes the maximum off first. `logit - logsumexp` would not: around huge logits float32 rounds the sum's logarithm away,
    # and every token would look certain. A row at a time stays in the processor's cache.
    wanted = torch.from_numpy(targets).unsqueeze(-1)
    picked = [torch.log_softmax(row, -1).gather(-1, wanted[number]).squeeze(-1) for number, row in enumerate(logits)]
    logp = torch.stack(picked).double().numpy()
    if not np.isfinite(logp).all():
        raise ScoreError("nan", "the submitted model's logits are NaN or infinite on the evaluation text.")
    return np.asarray(logp)


def _compare(question: _Question, answer: "np.ndarray[Any, Any]", original: "np.ndarray[Any, Any]", tolerance: float) -> float:
    """How much more the second answer gave the target at the last position that must agree, in nats."""
    gaps = answer[: question.checked] - original[: question.checked]
    if abs(gaps).max() <= tolerance:
        return float(gaps[-1])
    size = f"{abs(gaps).max():.3g} nats apart"
    if question.checked == len(answer):
        raise ScoreError("invalid_model", f"the same row got other log-probabilities the second time ({size}): state, or rows mixed.")
    raise ScoreError(
        "invalid_model", f"log-probabilities depend on tokens that come later ({size} at or before position {question.checked - 1})."
    )


class _ModelServer:
    """A sandboxed process with the agent's model. Made before this process holds any text.

    Its memory is a file that this process maps only after all servers were forked: a mapping would be inherited by
    the next server, and the two could talk.
    """

    def __init__(self, submission: Submission, profile: prepare.Profile, jail: sandbox.Jail, home: Path) -> None:
        self._profile = profile
        home.mkdir()
        jail = replace(jail, write=(home,), directory=home, environment={**jail.environment, "HOME": str(home), "TMPDIR": str(home)})
        self._deadline = time.monotonic() + profile.score_s
        self._views: tuple[torch.Tensor, torch.Tensor] | None = None
        self._memory = _anonymous_file(4 * profile.eval_rows * profile.seq_len * (1 + profile.vocab_size))
        self._socket, theirs = socket.socketpair()
        serve = _serving(submission, profile, theirs, self._memory)
        self._pid = sandbox.spawn(serve, replace(jail, keep=(theirs.fileno(), self._memory)))
        theirs.close()

    def pause(self) -> None:
        """Once the model is there, let nothing run in it: it must not watch what the machine does while another answers."""
        self._expect(_READY, "build_model or load_state_dict failed with what was submitted.")
        self._views = _map(self._memory, self._profile)
        os.killpg(self._pid, signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it died; its first answer will be missed
            os.killpg(self._pid, signal.SIGCONT)

    def answer(self, rows: "np.ndarray[Any, Any]") -> "torch.Tensor":
        """Logits (rows, positions, vocabulary) in float32, a copy of ours."""
        import torch

        assert self._views is not None
        tokens, logits = self._views
        tokens.copy_(torch.from_numpy(rows))
        self._socket.sendall(_GO)
        self._expect(_DONE, f"the model failed on a batch of token ids of shape {rows.shape}.")
        return logits.clone()

    def _expect(self, signal: bytes, otherwise: str) -> None:
        self._socket.settimeout(max(0.01, self._deadline - time.monotonic()))
        try:
            received = self._socket.recv(1)
        except TimeoutError:
            raise ScoreError("invalid_model", f"scoring the model took longer than {self._profile.score_s:.0f} s.") from None
        except OSError:
            received = b""
        if received != signal:
            raise ScoreError("invalid_model", otherwise)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._socket.close()
        os.close(self._memory)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("logits")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _map(memory: int, profile: prepare.Profile) -> "tuple[torch.Tensor, torch.Tensor]":
    """The shared file as token ids (rows, positions) and logits (rows, positions, vocabulary)."""
    import torch

    rows, length, vocabulary = profile.eval_rows, profile.seq_len, profile.vocab_size
    mapped = mmap.mmap(memory, 0)
    tokens = torch.frombuffer(mapped, dtype=torch.int32, count=rows * length).view(rows, length)
    logits = torch.frombuffer(mapped, dtype=torch.float32, count=rows * length * vocabulary, offset=4 * rows * length)
    return tokens, logits.view(rows, length, vocabulary)


def _serving(submission: Submission, profile: prepare.Profile, channel: socket.socket, memory: int) -> Callable[[], None]:
    """What a model server runs, inside its sandbox: untrusted from the import of the agent's file on."""

    def serve() -> None:
        import importlib.util

        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(submission.threads)
        sys.path.insert(0, str(submission.code))
        spec = importlib.util.spec_from_file_location("train", submission.code / submission.entry)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["train"] = module
        spec.loader.exec_module(module)
        model = module.build_model(dict(submission.config))
        model.load_state_dict(load_file(submission.weights))
        model.to(submission.device).eval()
        tokens, logits = _map(memory, profile)
        try:
            channel.sendall(_READY)
            with torch.inference_mode():
                while channel.recv(1) == _GO:
                    answer = model(tokens.long().to(submission.device))
                    if answer.shape != logits.shape:
                        raise ValueError(f"the model answered logits of shape {tuple(answer.shape)}, expected {tuple(logits.shape)}")
                    logits.copy_(answer)
                    channel.sendall(_DONE)
        except ConnectionError:
            return  # the scorer is gone; the log shall end with the reason for that, not with this

    return serve
