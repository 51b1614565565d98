"""Measures val_bpb of a submitted model without trusting it, and test_bpb of the hidden split beside it (fixed).

The agent's `build_model` runs in sandboxed model servers that see rows of token ids and answer logits through shared
memory; the targets, the softmax and the sum are here. So the number is that of a normalised distribution, and two things
are checked of the model behind it:

- It predicts from the past: each of `DECOYS` extra rows shares a validation row's beginning and continues with another
  row's end, and up to the split the log-probabilities must be the same. Splits are drawn where an answer is better than a
  token's frequency explains, by as much: a look ahead shows there, whatever it is for. `ANYWHERE` of them are drawn evenly.
- It keeps no state and mixes no rows: `TWINS` extra rows repeat a row elsewhere, half of them in the same server.

First one server answers everything that counts. When it is dead, and what it could write is gone, the decoys are drawn and
asked of a second one, where the agent's code begins only then. So a server that answers what counts knows nothing of what
will be checked, and one that is checked knows nothing of what was answered.

The weights may hold the training text, so what a server does up to its first answer could be training, and may take no longer than
`Profile.build_s`. From then on its answers must stay what they are.

What that is worth. A model can answer a real row with knowledge of the next token, but then, asked again with another
future, it must give that answer without it. So look-aheads at positions whose shares of the draws sum to q pass with
probability (1 - q)^DECOYS, and q grows with what they gain. What passes within the tolerance is taken back on average: the
mean gap at the splits, each weighted by how rarely it is drawn, is added to the number. A token's successor is never the
first token of another row (a token is left out between rows), so that nothing could be gained by peeking into other rows either.

What is left is what a dead process leaves on a machine: which pages are in memory, when a file was last read, how far a
counter went. Through n bits of that the second server can learn which tokens the first one looked up, and what a look at
a token gains, in bits, is no less than what it takes to say which one it was: so n bits take at most n bits off the sum
(the cpu profile's is some 400,000). syscalls.py closes what lasts and is exact, and refuses questions about the rest.

Where all logits are too many to be copied (`Profile.sealed`; those of the h100 profile would be 250 GB), a server says the
log-probability of each row's next tokens first, and is asked then for the logits of the row's last position, whose target it
hasn't seen, and of one other, which in a decoy is the split. What it said is read before that is asked, and must be the softmax
of what it shows. Then nothing is normalised by construction, but the bound is the same one: a decoy's logits at the split are
normalised here, and the original must have said for its own next token what they give it. So a probability that is too high, whether by looking
ahead or by summing to more than 1, passes as often as there.

Measured on the stock model after 20 s, for a cheat that is certain at the n of 54,528 positions that gain most for the risk
(`python -m tests.bench.detection`; the noise between two runs of one seed is 0.0013 bits per byte):

    n                           2       4       8      16      44     128     294
    gain, bits per byte    0.0002  0.0003  0.0006  0.0011   0.003   0.009   0.020
    caught in a run          1.4%    2.8%      6%     12%     32%     70%     95%
    three runs pass           96%     92%     83%     68%     31%      3%      0%

So a gain beyond twice the noise is more often caught than not, in the three runs that a promotion takes at least.
"""

import contextlib
import ctypes
import fcntl
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from autoresearch_mcp.trainer import legacy, prepare, sandbox
from autoresearch_mcp.trainer.sandbox import scratch

if TYPE_CHECKING:
    import numpy as np
    import torch

DECOYS = 256
ANYWHERE = 0.25  # the share of decoys that don't go by what was answered
TWINS = 8
TOLERANCE = {"cpu": 2e-4, "cuda": 5e-2}  # nats that another place in the batch, or another choice of kernels, may change
SAID_TOLERANCE = 1e-3  # nats between a server's softmax and ours, of the same logits in float32
Stage = Literal["building", "rehearsed", "answering"]  # of a model server
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


def score(submission: Submission, data: Path, profile: prepare.Profile, jail: sandbox.Jail, tell: Callable[[Stage], None]) -> Scores:
    """Measure the submitted model.

    Args:
        jail: the confinement of the model servers, without the descriptors and the directories that they need. Its `directory` is where
            they get theirs.
        tell: called at each stage of each model server. From `rehearsed` on, when it has answered random tokens, whose failures may be
            explained, nobody must read what it prints: it sees text that it could print for other agents to read. What it does from
            `building` to `answering` could be training, and must not take long; later it can learn no more, or its answers change.

    Raises:
        ScoreError: the model can't be rebuilt, breaks a rule, or gives numbers that aren't finite.
    """
    first = _ModelServer(submission, profile, jail)
    second = _ModelServer(submission, profile, replace(jail, output=os.open(os.devnull, os.O_WRONLY)))  # whatever fails here failed there
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

    def ask(server: _ModelServer, questions: list[_Question]) -> Iterator[tuple[_Question, np.ndarray[Any, Any]]]:
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

    told = list(ask(first, _questions(contexts, profile.eval_rows)))
    answers = np.zeros(contexts.shape)
    for question, answer in told:
        if question.checked == 0:
            answers[question.row] = answer
    shares = _shares(val, answers[: len(val.contexts)], profile.vocab_size)
    told += ask(second, _checks(contexts, shares, profile.eval_rows))  # drawn only now
    checks = [(q, _compare(q, answer, answers[q.row], TOLERANCE[submission.device])) for q, answer in told if q.checked]
    decoys = [(question, gap) for question, gap in checks if question.checked < profile.seq_len]
    correction = math.fsum(gap / shares[q.row, q.checked - 1] for q, gap in decoys) / shares.size / len(decoys)
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
    """A row to ask. `checked` is 0 for a row that counts, else the number of first positions that must agree with it.
    `opened` is the position that a server must show after it said what it knows of all: in a decoy the last that must agree."""

    row: int
    tokens: "np.ndarray[Any, Any]"
    opened: int
    checked: int = 0


def _questions(contexts: "np.ndarray[Any, Any]", multiple: int) -> list[_Question]:
    """All rows, in random order, each opened anywhere; and some of them twice: `TWINS // 2`, and what fills the last batch of `multiple`."""
    import numpy as np

    random = np.random.default_rng(secrets.randbits(128))
    rows, length = contexts.shape
    asked = [_Question(row, contexts[row], int(random.integers(length - 1))) for row in range(rows)]
    asked += _twins(contexts, TWINS // 2 + -(rows + TWINS // 2) % multiple, random)
    random.shuffle(asked)
    return asked


def _shares(text: _Text, answers: "np.ndarray[Any, Any]", vocab_size: int) -> "np.ndarray[Any, Any]":
    """How often a decoy is split at each position but the last (rows, positions - 1), given what was answered (rows, positions)."""
    import numpy as np

    counts = np.bincount(text.targets.ravel(), minlength=vocab_size) + 1.0
    better = np.where(text.widths > 0, np.maximum(0.0, answers - np.log(counts / counts.sum())[text.targets]), 0.0)[:, :-1]
    even = np.full(better.shape, 1 / better.size)
    return even if better.sum() == 0 else ANYWHERE * even + (1 - ANYWHERE) * better / better.sum()


def _checks(contexts: "np.ndarray[Any, Any]", shares: "np.ndarray[Any, Any]", multiple: int) -> list[_Question]:
    """Decoys of the first rows, those of validation, by `shares`: no others have some, so each look there counts. And twins of all."""
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


class _Shared(NamedTuple):
    """The memory that a model server and this process share."""

    tokens: "torch.Tensor"  # (rows, positions)
    opened: "torch.Tensor"  # (rows, 2): the positions whose logits are to be shown
    logp: "torch.Tensor"  # (rows, positions - 1): of each next token
    logits: "torch.Tensor"  # (rows, positions, vocabulary), or (rows, 2, vocabulary) of the opened ones

    @staticmethod
    def shapes(profile: prepare.Profile) -> list[tuple[int, ...]]:
        rows, length = profile.eval_rows, profile.seq_len
        return [(rows, length), (rows, 2), (rows, length - 1), (rows, 2 if profile.sealed else length, profile.vocab_size)]

    @classmethod
    def map(cls, memory: int, profile: prepare.Profile) -> "_Shared":
        import torch

        mapped, offset, views = mmap.mmap(memory, 0), 0, []
        for shape, dtype in zip(cls.shapes(profile), (torch.int32, torch.int32, torch.float32, torch.float32)):
            views.append(torch.frombuffer(mapped, dtype=dtype, count=math.prod(shape), offset=offset).view(shape))
            offset += 4 * math.prod(shape)
        return cls(*views)


class _ModelServer:
    """A sandboxed process for the agent's model. Made before this process holds any text; the agent's code runs in it from `begin` on.

    Its memory is a file that this process maps only after all servers were forked: a mapping would be inherited by
    the next server, and the two could talk. So could they by its home, which is of a name that is drawn, and goes with it.
    """

    def __init__(self, submission: Submission, profile: prepare.Profile, jail: sandbox.Jail) -> None:
        self._profile = profile
        self._home = home = jail.directory / secrets.token_hex(16)
        home.mkdir()
        jail = replace(jail, write=(home,), directory=home, environment={**jail.environment, "HOME": str(home), "TMPDIR": str(home)})
        self._deadline = time.monotonic() + profile.score_s
        self._shared: _Shared | None = None
        self._memory = _anonymous_file(4 * sum(map(math.prod, _Shared.shapes(profile))))
        self._socket, theirs = socket.socketpair()
        serve = _serving(submission, profile, theirs, self._memory)
        self._pid = sandbox.spawn(serve, replace(jail, keep=(theirs.fileno(), self._memory)))
        theirs.close()

    def wait(self) -> None:
        """Until it has all but the agent's code."""
        self._expect(_READY, "the weights that were submitted can't be read.")
        self._shared = _Shared.map(self._memory, self._profile)

    def begin(self) -> None:
        """Let it make the model."""
        self._tell(_GO)
        self._expect(_READY, "build_model or load_state_dict failed with what was submitted.")

    def rehearse(self) -> None:
        """Have it answer random tokens."""
        import numpy as np

        shape = self._profile.eval_rows, self._profile.seq_len
        self._ask(np.random.default_rng().integers(self._profile.vocab_size, size=shape), "random token ids")
        if self._profile.sealed:
            self._show(np.zeros((shape[0], 2), np.int32))

    def answer(self, rows: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Log-probabilities in nats (rows, positions) of the targets."""
        shared = self._ask(rows)
        return _log_probabilities(shared.logits.clone(), targets)

    def answer_sealed(self, rows: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]", opened: list[int]) -> "np.ndarray[Any, Any]":
        """The same, as the server says it, but from its logits at the last position and at one other in each row."""
        import numpy as np

        shared = self._ask(rows)
        said = shared.logp.clone().double().numpy()
        if not np.isfinite(said).all():
            raise ScoreError("nan", "the submitted model's logits are NaN or infinite on the evaluation text.")
        each, shown = np.arange(len(rows)), np.stack([np.array(opened), np.full(len(rows), rows.shape[1] - 1)], 1)
        logits = self._show(shown).clone()
        next_tokens = rows[each, np.array(opened) + 1]
        excess = abs(said[each, opened] - _log_probabilities(logits[:, :1], next_tokens[:, None])[:, 0]).max()
        if excess > SAID_TOLERANCE:
            raise ScoreError("invalid_model", f"a log-probability is not the softmax of its logits ({excess:.3g} nats apart).")
        logp = np.concatenate([said, np.zeros((len(rows), 1))], 1)
        np.put_along_axis(logp, shown, _log_probabilities(logits, np.take_along_axis(targets, shown, 1)), 1)
        return logp

    def _ask(self, rows: "np.ndarray[Any, Any]", kind: str = "the evaluation text (what it printed there is not kept)") -> _Shared:
        import torch

        assert self._shared is not None
        self._shared.tokens.copy_(torch.from_numpy(rows))
        self._tell(_GO)
        self._expect(_DONE, f"the model failed on a batch of shape {rows.shape} of {kind}.")
        return self._shared

    def _show(self, positions: "np.ndarray[Any, Any]") -> "torch.Tensor":
        """The logits (rows, 2, vocabulary) of its last answer at these positions (rows, 2)."""
        import torch

        assert self._shared is not None
        self._shared.opened.copy_(torch.from_numpy(positions))
        self._tell(_GO)
        self._expect(_DONE, "the model's process failed after it answered.")
        return self._shared.logits

    def _tell(self, signal: bytes) -> None:
        with contextlib.suppress(OSError):  # it died; its answer will be missed
            self._socket.sendall(signal)

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
        scratch.remove(self._home)
        if self._home.exists():
            raise ScoreError("error", "what a model server left can't be removed.")


def _anonymous_file(size: int) -> int:
    if sys.platform == "linux":
        descriptor = os.memfd_create("logits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.fchmod(descriptor, 0o600)  # gVisor lets every user open what the descriptors of others lead to, if its mode does
    os.ftruncate(descriptor, size)
    if sys.platform == "linux":  # shorter, it would end us when we read it; longer, it would be memory that nobody counts
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _serving(submission: Submission, profile: prepare.Profile, channel: socket.socket, memory: int) -> Callable[[], None]:
    """What a model server runs, inside its sandbox: untrusted from the import of the agent's file on."""

    def serve() -> None:
        import importlib.util

        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(submission.threads)
        weights = load_file(submission.weights, device=submission.device)  # on a GPU this makes its context too, side by side
        channel.sendall(_READY)
        if channel.recv(1) != _GO:
            return
        sys.path.insert(0, str(submission.code))
        legacy.alias_contract(submission.code)
        spec = importlib.util.spec_from_file_location("train", submission.code / submission.entry)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["train"] = module
        spec.loader.exec_module(module)
        model = module.build_model(dict(submission.config))
        model.load_state_dict(weights)
        model.to(submission.device).eval()
        shared = _Shared.map(memory, profile)
        expected = (profile.eval_rows, profile.seq_len, profile.vocab_size)
        try:
            channel.sendall(_READY)
            with torch.inference_mode():
                while channel.recv(1) == _GO:
                    tokens = shared.tokens.long().to(submission.device)
                    answer = model(tokens)
                    if answer.shape != expected:
                        raise ValueError(f"the model answered logits of shape {tuple(answer.shape)}, expected {expected}")
                    if not profile.sealed:
                        shared.logits.copy_(answer)
                        channel.sendall(_DONE)
                        continue
                    logp = torch.log_softmax(answer.float(), -1)[:, :-1].gather(-1, tokens[:, 1:, None])
                    shared.logp.copy_(logp.squeeze(-1))
                    channel.sendall(_DONE)
                    if channel.recv(1) != _GO:
                        return
                    opened = shared.opened.long().to(submission.device)
                    shared.logits.copy_(answer.gather(1, opened.unsqueeze(-1).expand(-1, -1, profile.vocab_size)))
                    channel.sendall(_DONE)
        except ConnectionError:
            return  # the scorer is gone; the log shall end with the reason for that, not with this

    return serve
