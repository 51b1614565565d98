"""Which replicates count: the one rule for the gate, the status, the leaderboard and the noise.

A replicate counts if it finished with a metric that this lab accepts (see `exclusion`). Each model counts once (see `Models`).

A verified model is known by the hashes of its weights and of its answers, which the scorer computed, and, where the metric is val_bpb,
by its scores on both splits. Two that share one of these are one. A metric of the owner's own can be coarse, such as an error rate over
64 cases: equal scores don't show equal models there, and ties are data. A reported metric has no model behind it that the lab could look
at, so each such run counts by itself. The price: a script that ignores its seed repeats one training, and nothing here can tell. The
owner accepts that with [promotion] reported = "allow", and the gate's verdict names a side whose numbers are all equal.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.settings import PromotionSection

Exclusion = Literal["reported", "unsandboxed", "untested"]
BY_SETTING: tuple[Exclusion, ...] = ("reported", "unsandboxed")  # excluded by lab.toml: more replicates change nothing
_EXPLAINED: dict[Exclusion, str] = {
    "reported": "have a metric that their own code printed and nobody verified, and this lab doesn't promote by such metrics "
    "([promotion] reported in lab.toml, which is its owner's to change).",
    "unsandboxed": "were trained without a sandbox, and this lab doesn't count those ([promotion] unsandboxed in lab.toml, which is its "
    "owner's to change). On Linux 5.13 or newer with Landlock trainings are confined.",
    "untested": "have no score on the hidden split, which didn't exist when they were trained.",
}


def exclusion(score: Score, rules: PromotionSection) -> Exclusion | None:
    """Return why a finished replicate is no evidence in this lab, or None if it is."""
    if score.val_bpb is None:
        if rules.reported == "refuse":
            return "reported"
    elif score.test_bpb is None:
        return "untested"
    return "unsandboxed" if not score.confined and rules.unsandboxed == "refuse" else None


class Models:
    """Tells which of several finished replicates trained a model that another one trained already."""

    def __init__(self, rules: PromotionSection) -> None:
        """Know none yet. `rules` say by what metric they are compared."""
        self._fine = not rules.metric.name  # val_bpb has too many digits for two models to share both scores
        self._known: set[Hashable] = set()

    def add(self, score: Score) -> bool:
        """Take in a replicate. Return whether its model is new under its conditions."""
        names: set[Hashable] = {(score.conditions, score.weights or score.experiment)}
        if score.answers:
            names.add((score.conditions, "answers", score.answers))
        if self._fine and score.val_bpb is not None and score.test_bpb is not None:
            names.add((score.conditions, score.val_bpb, score.test_bpb))
        is_new = self._known.isdisjoint(names)
        self._known |= names
        return is_new


def counted(scores: Sequence[Score], rules: PromotionSection, conditions: str | None = None) -> list[Score]:
    """Return the evidence among attempts, under the given conditions or any: each model once under each conditions."""
    models = Models(rules)
    return [
        score
        for score in scores
        if score.metric is not None and exclusion(score, rules) is None and conditions in (None, score.conditions) and models.add(score)
    ]


def in_order_of_launch(scores: Iterable[Score]) -> list[Score]:
    """Return attempts in the order in which they were first started; those of older labs by their last start."""
    return sorted(scores, key=lambda score: (score.launch, score.started_at or score.finished_at, score.finished_at))


@dataclass(frozen=True)
class Uncounted:
    """Finished replicates that don't count: how many, and why."""

    excluded: Counter[Exclusion]
    twins: int  # of a model that counts once already
    elsewhere: int  # under other conditions than those to compare under

    def sentences(self, name: str) -> list[str]:
        """Return a sentence for each kind; `name` says whose replicates they are."""
        lines = [f"{n} of the {name}'s {_EXPLAINED[why]}" for why, n in self.excluded.items()]
        if self.twins:
            lines.append(
                f"{self.twins} of the {name}'s are equal bit for bit to another and count once with it: its code must use the seed it is given."
            )
        if self.elsewhere:
            lines.append(
                f"{self.elsewhere} of the {name}'s were measured under other conditions (device, budget, data or fixed files) "
                "and can't be compared."
            )
        return lines


def uncounted(scores: Sequence[Score], rules: PromotionSection, conditions: str) -> Uncounted:
    """Return what of these attempts finished and doesn't count in a comparison under these conditions."""
    finished = [score for score in scores if score.metric is not None]
    excluded = Counter(why for score in finished if (why := exclusion(score, rules)))
    anywhere, here = counted(finished, rules), counted(finished, rules, conditions)
    return Uncounted(excluded, len(finished) - excluded.total() - len(anywhere), len(anywhere) - len(here))


def metrics(scores: Iterable[Score]) -> list[float]:
    """Return the metrics of those that have one."""
    return [score.metric for score in scores if score.metric is not None]


def for_display(rules: PromotionSection) -> PromotionSection:
    """Return the rules by which a lab's numbers are shown.

    They are the gate's, but reported metrics are shown (and marked) where the gate refuses them: such a lab has no other numbers.
    """
    return rules.model_copy(update={"reported": "allow"})
