"""The evidence among a commit's attempts, by the rule of `ledger.counting`, and why the rest of them doesn't count."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.counting import Counting, Exclusion, Models
from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.settings import PromotionSection

BY_SETTING: tuple[Exclusion, ...] = ("reported", "unsandboxed")  # excluded by lab.toml: more replicates change nothing
_EXPLAINED: dict[Exclusion, str] = {
    "reported": "have a metric that their own code printed and nobody verified, and this lab doesn't promote by such metrics "
    "([promotion] reported in lab.toml, which is its owner's to change).",
    "unsandboxed": "were trained without a sandbox, and this lab doesn't count those ([promotion] unsandboxed in lab.toml, which is its "
    "owner's to change). On Linux 5.13 or newer with Landlock trainings are confined.",
    "untested": "have no score on the hidden split, which didn't exist when they were trained.",
}


def counted(scores: Sequence[Score], rules: PromotionSection, conditions: str | None = None) -> list[Score]:
    """Return the evidence among attempts, under the given conditions or any: each model once under each conditions."""
    counting = Counting.of(rules)
    models = Models(counting)
    return [
        score
        for score in scores
        if score.metric is not None and counting.exclusion(score) is None and conditions in (None, score.conditions) and models.add(score)
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
    counting = Counting.of(rules)
    excluded = Counter(why for score in finished if (why := counting.exclusion(score)))
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
