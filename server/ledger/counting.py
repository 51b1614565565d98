"""Which replicates count: the one rule for the gate, the status, the leaderboard and the noise.

A replicate counts if it finished with a metric that this lab accepts (see `Counting.exclusion`). Each model counts once (see `Models`).

A verified model is known by the hashes of its weights and of its answers, which the scorer computed, and, where the metric is val_bpb,
by its scores on both splits. Two that share one of these are one. A metric of the owner's own can be coarse, such as an error rate over
64 cases: equal scores don't show equal models there, and ties are data. A reported metric has no model behind it that the lab could look
at, so each such run counts by itself. The price: a script that ignores its seed repeats one training, and nothing here can tell. The
owner accepts that with [promotion] reported = "allow", and the gate's verdict names a side whose numbers are all equal.
"""

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from autoresearch_mcp.server.settings import PromotionSection

Exclusion = Literal["reported", "unsandboxed", "untested"]


class Replicate(Protocol):
    """A training that finished with a metric, as far as it matters here."""

    @property
    def experiment(self) -> str:
        """Its id."""

    @property
    def conditions(self) -> str:
        """Under which it was measured."""

    @property
    def val_bpb(self) -> float | None:
        """The verified metric; None where it is reported only."""

    @property
    def test_bpb(self) -> float | None:
        """The metric on the hidden split."""

    @property
    def confined(self) -> bool:
        """Whether it was trained in a sandbox."""

    @property
    def weights(self) -> str | None:
        """Hash of what it submitted."""

    @property
    def answers(self) -> str | None:
        """Hash of what its model answered."""


@dataclass(frozen=True, order=True)
class Counting:
    """What of lab.toml decides which replicates count.

    Attributes:
        reported: whether metrics count that only the training code printed.
        unsandboxed: whether replicates count that were trained without a sandbox.
        fine: whether the metric has too many digits for two models to share both scores.
    """

    reported: bool
    unsandboxed: bool
    fine: bool

    @classmethod
    def of(cls, rules: PromotionSection) -> "Counting":
        """Return what the lab's rules say."""
        return cls(rules.reported == "allow", rules.unsandboxed == "allow", not rules.metric.name)

    @property
    def bit(self) -> int:
        """A number of its own, to be added to those of others."""
        return 1 << (self.reported * 4 + self.unsandboxed * 2 + self.fine)

    def exclusion(self, replicate: Replicate) -> Exclusion | None:
        """Return why a finished replicate is no evidence in this lab, or None if it is."""
        if replicate.val_bpb is None:
            if not self.reported:
                return "reported"
        elif replicate.test_bpb is None:
            return "untested"
        return "unsandboxed" if not (replicate.confined or self.unsandboxed) else None


EVERY = tuple(Counting(*flags) for flags in itertools.product((False, True), repeat=3))


class Models:
    """Tells which of several finished replicates trained a model that another one trained already."""

    def __init__(self, counting: Counting) -> None:
        """Know none yet. `counting` says by what metric they are compared."""
        self._fine = counting.fine
        self._known: set[Hashable] = set()

    def add(self, replicate: Replicate) -> bool:
        """Take in a replicate. Return whether its model is new under its conditions."""
        names: set[Hashable] = {(replicate.conditions, replicate.weights or replicate.experiment)}
        if replicate.answers:
            names.add((replicate.conditions, "answers", replicate.answers))
        if self._fine and replicate.val_bpb is not None and replicate.test_bpb is not None:
            names.add((replicate.conditions, replicate.val_bpb, replicate.test_bpb))
        is_new = self._known.isdisjoint(names)
        self._known |= names
        return is_new


class Fact(NamedTuple):
    """A replicate that finished with a metric, as the ledger's rows have it."""

    experiment: str
    conditions: str
    val_bpb: float | None
    reported_bpb: float | None
    test_bpb: float | None
    confined: bool
    weights: str | None
    answers: str | None
    steps: int | None

    @property
    def metric(self) -> float:
        """The metric by which it is compared, as `Score.metric`."""
        value = self.reported_bpb if self.val_bpb is None else self.val_bpb
        assert value is not None
        return value
