"""What became of each attempt: nobody can choose which replicates of a commit count.

- Whatever was started counts, the first in order of their starts.
- A failure of the code counts as the worst value of either side.
- What was cancelled while it ran, or failed through no fault of the code, is owed: it must be trained again with its seed before
  the gate says yes. That is forgiven a few times only, else somebody could draw again until a seed turns out well.
- A failure while the model was scored bars the commit, unless the lab's own scorer or machine was at fault.
- What ran far slower or faster than the commit's other replicates is set aside, once it was trained again (see `set_aside`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from autoresearch_mcp.server.models import Score

_CANCELS = 1  # of a commit's own replicates by who launched them, before another counts as a failure
_ACCIDENTS = 2  # failures through no fault of the code, likewise
_FEWEST = 5  # replicates of a commit, before one of them can fall out
_ONE_IN = 8  # so many replicates may be set aside, and one of fewer: what falls out more often is the commit's own doing
_WIDTH = 6.0  # median absolute deviations, in units of a normal distribution's standard deviation
_LEAST = 0.1  # of the logarithm: smaller differences of speed are everyday ones
_MAD = 1.4826  # turns a median absolute deviation into a standard deviation


def was_started(score: Score) -> bool:
    """Return whether an attempt left the queue: what was cancelled before showed nothing, and counts for nothing."""
    return score.started or score.state != "cancelled"


def is_failure(score: Score) -> bool:
    """Return whether an attempt that was started failed through its own code, and so counts as a bad value."""
    return score.metric is None and was_started(score) and score.state != "cancelled" and score.fault in (None, "code")


def failures(scores: Iterable[Score]) -> list[Score]:
    """Return the attempts that count as bad values: failures of the code, and what is not forgiven any more.

    Args:
        scores: attempts of one commit, in order of their starts.
    """
    bad = list[Score]()
    cancels = accidents = 0
    for score in scores:
        if score.metric is not None or not was_started(score):
            continue
        if is_failure(score):
            bad.append(score)
        elif score.state != "cancelled":
            accidents += 1
            if accidents > _ACCIDENTS:
                bad.append(score)
        elif score.cancelled_by in ("", score.author):
            cancels += 1
            if cancels > _CANCELS:
                bad.append(score)
    return bad


def bars(score: Score) -> bool:
    """Return whether an attempt bars its commit: its model failed while it was scored, by its own fault."""
    return score.metric is None and score.ended_in == "scoring" and score.fault == "code"


def owed_seeds(scores: Iterable[Score]) -> list[int]:
    """Return the seeds that must be trained again: of replicates that ended without showing what they are worth.

    Args:
        scores: attempts in order of their starts. A later one with the same seed pays for an earlier one.
    """
    attempts = list(scores)
    bad = {id(score) for score in failures(attempts)}
    owed: dict[int, None] = {}
    for score in attempts:
        if score.metric is not None or id(score) in bad:
            owed.pop(score.seed, None)
        elif was_started(score):
            owed[score.seed] = None
    return list(owed)


def set_aside(scores: Sequence[Score]) -> list[Score]:
    """Return the finished replicates whose speed falls out of their commit's own: what they show is the machine's.

    The speed is the share of the processor that the launcher saw. A replicate falls out if its logarithm lies more than 6 standard
    deviations from the median, by the median absolute deviation, and more than 10 %. It takes 5 replicates to tell. At most one in
    eight falls out, the farthest first.

    Code can lower its own share by waiting, so as to be rid of a bad start. So it looks at no metric and at nothing that the code
    reports; few can fall out; and one that does still counts until its seed was trained again, whatever that shows.

    Args:
        scores: finished replicates of one commit under equal conditions.
    """
    speeds = {id(score): math.log(share) for score in scores if (share := score.cpu_share) and share > 0}
    if len(speeds) < _FEWEST:
        return []
    centre = median(speeds.values())
    spread = _MAD * median(abs(speed - centre) for speed in speeds.values())
    limit = max(_LEAST, _WIDTH * spread)
    out = [score for score in scores if id(score) in speeds and abs(speeds[id(score)] - centre) > limit]
    out.sort(key=lambda score: -abs(speeds[id(score)] - centre))
    return out[: max(1, len(speeds) // _ONE_IN)]


def without_repeated(scores: Sequence[Score], attempts: Iterable[Score]) -> tuple[list[Score], list[int]]:
    """Leave out what is set aside and was trained again since.

    Args:
        scores: finished replicates of one commit under equal conditions, in order of their starts, each model once.
        attempts: all of that commit. A repeat that gave the same model pays as well, and is in these alone.

    Returns:
        The others, and the seeds of those that are to be trained again, and count until then.
    """
    aside = {id(score) for score in set_aside(scores)}
    newest = {score.seed: id(score) for score in scores}
    times = Counter(score.seed for score in attempts if score.metric is not None)
    kept = [score for score in scores if id(score) not in aside or newest[score.seed] == id(score)]
    return kept, [score.seed for score in scores if id(score) in aside and times[score.seed] == 1]
