"""Sandboxed processes in which the agent's model answers rows of tokens (fixed).

A model server is made before the scorer holds any text. The agent's code runs in it from `begin` on, and it dies with the
last answer. What the scorer asks, and what it makes of the answers, is in score.py.
"""

import contextlib
import ctypes
import fcntl
import math
import mmap
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from autoresearch_mcp.trainer import legacy, prepare, sandbox
from autoresearch_mcp.trainer.patience import OwnClock
from autoresearch_mcp.trainer.sandbox import scratch
from autoresearch_mcp.trainer.submission import Submission

if TYPE_CHECKING:
    import numpy as np
    import torch

STATED_TOLERANCE = 1e-3  # nats between a server's softmax and ours, of the same logits in float32
_READY, _GO, _DONE, _WHOLE = b"R", b"G", b"D", b"W"
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MOST = -1, -3, 32 << 20  # of glibc's malloc.h, and the most that it takes


class ScoreError(Exception):
    """The model gets no number.

    Attributes:
        kind: a failure class. The text says why.
        finding: what the owner alone may read of it, as it tells of held-out text.
    """

    def __init__(self, kind: str, message: str, finding: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.finding = finding


class _TooSlow(ScoreError):
    """A model server took longer than it may."""

    def __init__(self, profile: prepare.Profile) -> None:
        limit = f"{profile.score_s:.0f} s"
        super().__init__("invalid_model", f"scoring the model took longer than {limit}, or one part of it far longer than another.")


class _Shared(NamedTuple):
    """The memory that a model server and this process share. Rows that are shorter than `seq_len` take the beginning of each part."""

    length: "torch.Tensor"  # (1,): positions of each row that is asked now
    tokens: "torch.Tensor"  # (rows, positions)
    opened: "torch.Tensor"  # (rows, 2): the positions whose logits are to be shown
    logp: "torch.Tensor"  # (rows, positions - 1): of each next token
    logits: "torch.Tensor"  # (rows, positions, vocabulary), or (rows, 2, vocabulary) of the opened ones

    @staticmethod
    def shapes(profile: prepare.Profile) -> list[tuple[int, ...]]:
        rows, length = profile.eval_rows, profile.seq_len
        return [(1,), (rows, length), (rows, 2), (rows, length - 1), (rows, 2 if profile.sealed else length, profile.vocab_size)]

    @classmethod
    def map(cls, memory: int, profile: prepare.Profile) -> "_Shared":
        import torch

        mapped, offset, views = mmap.mmap(memory, 0), 0, []
        for shape, dtype in zip(cls.shapes(profile), (torch.int32, torch.int32, torch.int32, torch.float32, torch.float32)):
            views.append(torch.frombuffer(mapped, dtype=dtype, count=math.prod(shape), offset=offset).view(shape))
            offset += 4 * math.prod(shape)
        return cls(*views)

    def logits_of(self, length: int) -> "torch.Tensor":
        """Return the part of the logits that rows of this length fill (rows, length, vocabulary)."""
        rows, _, vocabulary = self.logits.shape
        return self.logits.view(-1)[: rows * length * vocabulary].view(rows, length, vocabulary)


class ModelServer:
    """A sandboxed process for the agent's model. Make it before this process holds any text.

    Two servers must not be able to talk. So their shared memory is a file that this process maps only after all servers were forked:
    the next server would inherit a mapping. And a server's home has a random name, and is removed with it.

    Attributes:
        pid: its process.
        takes_whole_rows_only: whether its model failed on shorter rows at the rehearsal.
    """

    def __init__(self, submission: Submission, profile: prepare.Profile, jail: sandbox.Jail) -> None:
        self._profile = profile
        self.takes_whole_rows_only = False
        self._home = home = jail.directory / secrets.token_hex(16)
        home.mkdir()
        jail = replace(jail, write=(home,), directory=home, environment={**jail.environment, "HOME": str(home), "TMPDIR": str(home)})
        self._shared: _Shared | None = None
        self._copy: torch.Tensor | None = None
        self._memory = _anonymous_file(4 * sum(map(math.prod, _Shared.shapes(profile))))
        self._socket, theirs = socket.socketpair()
        serve = _serving(submission, profile, theirs, self._memory)
        self.pid = sandbox.spawn(serve, replace(jail, keep=(theirs.fileno(), self._memory)))
        theirs.close()
        self.start_clock(OwnClock([self.pid]))

    def wait(self) -> None:
        """Wait until it has all but the agent's code.

        Raises:
            ScoreError: it doesn't get there. If it takes too long, that is no fault of the code.
        """
        try:
            self._expect(_READY, "the weights that were submitted can't be read.")
        except _TooSlow as error:
            raise ScoreError("error", str(error)) from None
        self._shared = _Shared.map(self._memory, self._profile)

    def begin(self) -> None:
        """Let it build the model. From here on the agent's code runs in it."""
        self._tell(_GO)
        self._expect(_READY, "build_model or load_state_dict failed with what was submitted.")

    def start_clock(self, clock: OwnClock) -> None:
        """Give it as long as all of scoring may take, from now on and by this clock."""
        self._clock = clock
        self._deadline = clock.now() + self._profile.score_s

    def limit(self, seconds: float) -> None:
        """Give it no more than these seconds from now on."""
        self._deadline = min(self._deadline, self._clock.now() + seconds)

    def rehearse(self, shorter: Sequence[int] = ()) -> None:
        """Let it answer random tokens.

        Args:
            shorter: lengths of rows to try beside whole ones, shorter than those. A model may fail on them.
        """
        import numpy as np

        for length in (self._profile.seq_len, *shorter):
            tokens = np.random.default_rng().integers(self._profile.vocab_size, size=(self._profile.eval_rows, length))
            if not self._ask(tokens, "random token ids", optional=length < self._profile.seq_len):
                self.takes_whole_rows_only = True
                return
            if self._profile.sealed:
                self._show(np.zeros((len(tokens), 2), np.int32))

    def answer(self, rows: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return the log-probabilities in nats (rows, positions) of the targets. All rows have one length, up to `seq_len`."""
        self._ask(rows)
        return log_probabilities(self._own(self._mapped.logits_of(rows.shape[1])), targets)

    def answer_sealed(self, rows: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]", opened: list[int]) -> "np.ndarray[Any, Any]":
        """Return the same, as the server states it. At the last position and one other of each row, its logits count.

        Raises:
            ScoreError: a statement is not the softmax of the logits.
        """
        import numpy as np

        self._ask(rows)
        stated = self._mapped.logp[:, : rows.shape[1] - 1].clone().double().numpy()
        if not np.isfinite(stated).all():
            raise ScoreError("nan", "the submitted model's logits are NaN or infinite on the evaluation text.")
        each, shown = np.arange(len(rows)), np.stack([np.array(opened), np.full(len(rows), rows.shape[1] - 1)], 1)
        logits = self._own(self._show(shown))
        next_tokens = rows[each, np.array(opened) + 1]
        excess = abs(stated[each, opened] - log_probabilities(logits[:, :1], next_tokens[:, None])[:, 0]).max()
        if excess > STATED_TOLERANCE:
            raise ScoreError("invalid_model", f"a log-probability is not the softmax of its logits ({excess:.3g} nats apart).")
        logp = np.concatenate([stated, np.zeros((len(rows), 1))], 1)
        np.put_along_axis(logp, shown, log_probabilities(logits, np.take_along_axis(targets, shown, 1)), 1)
        return logp

    def _own(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Copy logits into memory of our own, which the next call overwrites."""
        import torch

        if self._copy is None:
            self._copy = torch.empty(self._mapped.logits.numel())
        return self._copy[: logits.numel()].view(logits.shape).copy_(logits)

    @property
    def _mapped(self) -> _Shared:
        assert self._shared is not None
        return self._shared

    def _ask(
        self, rows: "np.ndarray[Any, Any]", kind: str = "the evaluation text (its output there is not kept)", optional: bool = False
    ) -> bool:
        """Have it answer rows.

        Args:
            rows: tokens (rows, positions).
            kind: says what they are.
            optional: whether the model may fail on them.

        Returns:
            Whether it answered.

        Raises:
            ScoreError: it must answer, and failed.
        """
        import torch

        length = rows.shape[1]
        self._mapped.length.fill_(length)
        self._mapped.tokens[:, :length].copy_(torch.from_numpy(rows))
        self._tell(_GO)
        return (
            self._expect(_DONE, f"the model failed on a batch of shape {rows.shape} of {kind}.", *([_WHOLE] if optional else [])) == _DONE
        )

    def _show(self, positions: "np.ndarray[Any, Any]") -> "torch.Tensor":
        """Return the logits (rows, 2, vocabulary) of its last answer at these positions (rows, 2)."""
        import torch

        self._mapped.opened.copy_(torch.from_numpy(positions))
        self._tell(_GO)
        self._expect(_DONE, "the model's process failed after it answered.")
        return self._mapped.logits

    def _tell(self, signal: bytes) -> None:
        with contextlib.suppress(OSError):  # it died, and `_expect` will notice
            self._socket.sendall(signal)

    def _expect(self, signal: bytes, otherwise: str, *others: bytes) -> bytes:
        """Wait for a signal, or one of the others.

        Raises:
            ScoreError: it didn't come.
        """
        received = None
        while received is None:
            left = self._clock.left(self._deadline)
            if left <= 0:
                raise _TooSlow(self._profile)
            self._socket.settimeout(max(0.01, left))
            try:
                received = self._socket.recv(1)
            except TimeoutError:
                continue  # it may have waited for a core meanwhile
            except OSError:
                received = b""
        if received not in (signal, *others):
            raise ScoreError("invalid_model", otherwise)
        return received

    def close(self) -> None:
        """End it, and remove its home.

        Raises:
            ScoreError: something that it left can't be removed.
        """
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._socket.close()
        os.close(self._memory)
        scratch.remove(self._home)
        if self._home.exists():
            raise ScoreError("invalid_model", "something that a model server left can't be removed.")


def keep_freed_memory() -> None:
    """Let this process use memory again that it freed. Asked anew for each batch, the kernel took half of a small model's CPU time."""
    with contextlib.suppress(AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 30)


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
    """Return what a model server runs inside its sandbox. From the import of the agent's file on it can't be trusted."""
    alone = submission.threads == 1 and submission.device == "cpu" and sandbox.level() != "unsandboxed"

    def serve() -> None:
        import importlib.util

        import torch
        from safetensors.torch import load_file

        keep_freed_memory()
        torch.set_num_threads(submission.threads)
        weights = load_file(submission.weights, device=submission.device)  # on a GPU this makes its context too, side by side
        channel.sendall(_READY)
        if channel.recv(1) != _GO:
            return
        if alone:
            sandbox.stay_alone()
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
        try:
            channel.sendall(_READY)
            with torch.inference_mode():
                while channel.recv(1) == _GO:
                    length = int(shared.length)
                    tokens = shared.tokens[:, :length].long().to(submission.device)
                    try:
                        answer = model(tokens)
                        if answer.shape != (expected := (profile.eval_rows, length, profile.vocab_size)):
                            raise ValueError(f"the model answered logits of shape {tuple(answer.shape)}, expected {expected}")
                    except Exception:
                        if length == profile.seq_len:
                            raise
                        channel.sendall(_WHOLE)
                        continue
                    if not profile.sealed:
                        shared.logits_of(length).copy_(answer)
                        channel.sendall(_DONE)
                        continue
                    logp = torch.log_softmax(answer.float(), -1)[:, :-1].gather(-1, tokens[:, 1:, None])
                    shared.logp[:, : length - 1].copy_(logp.squeeze(-1))
                    channel.sendall(_DONE)
                    if channel.recv(1) != _GO:
                        return
                    opened = shared.opened.long().to(submission.device)
                    shared.logits.copy_(answer.gather(1, opened.unsqueeze(-1).expand(-1, -1, profile.vocab_size)))
                    channel.sendall(_DONE)
        except ConnectionError:
            return  # the scorer is gone; the log must end with the reason for that, not with this

    return serve


def log_probabilities(logits: "torch.Tensor", targets: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return the log-probability in nats of each target, normalised here.

    Args:
        logits: in memory of our own. In shared memory they could change between two looks.
        targets: token ids.

    Raises:
        ScoreError: a logit is NaN or infinite.
    """
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
