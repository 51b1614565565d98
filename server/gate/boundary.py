"""How small a p-value promotes: so small that looking after every replicate still spends no more than the level.

The gain times the information I = 1 / (1/n + 1/m) is a Brownian motion in I, whichever side grows. The chance that it ever crosses
z * sqrt(I) follows from one information to the next (Armitage, McPherson and Rowe, JRSS A 132, 1969), with a look after every
replicate of either side. Which side grows first matters little: of three orders, the one that crosses most often counts. The noise is
estimated once for all looks, so the chance is averaged over its error.

The default's table is a constant, checked by a test. Another level takes about a second, once in a process.
"""

import functools
import itertools
import math
from typing import Any

N_MIN = 3  # replicates of a candidate, before it can be promoted
M_MIN = 8  # fresh replicates of the champion, before anything can be promoted
M_CAP = 16  # of the champion's fresh replicates, the newest that count
NU_MIN = 3  # degrees of freedom of the noise, before anything is said of a candidate
LEVEL = 0.005  # the default: chance that a candidate that is no better is ever promoted
N_CAP = 16  # the default: replicates of a candidate that count

_NUS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 100, 1000)
_DEFAULT = {  # of the default level and cap, by degrees of freedom of the noise: `nominal_ps` computes it
    3: 0.001738,
    4: 0.001573,
    5: 0.001461,
    6: 0.001381,
    7: 0.001321,
    8: 0.001275,
    10: 0.001208,
    12: 0.001163,
    15: 0.001117,
    20: 0.00107,
    30: 0.001023,
    50: 0.0009857,
    100: 0.0009573,
    1000: 0.000932,
}
_STEP = 0.02  # of the grid on which the Brownian motion is followed


def nominal_p(level: float, cap: int, nu: float) -> float:
    """Return the one-sided p-value of one look that promotes.

    Args:
        level: the chance to allow, over all looks at one candidate.
        cap: replicates of a candidate that count.
        nu: degrees of freedom of the noise, at least `NU_MIN`.
    """
    table = _DEFAULT if (level, cap) == (LEVEL, N_CAP) else nominal_ps(level, cap)
    place, at = 1 / nu, list(table.items())
    for (low, p_low), (high, p_high) in itertools.pairwise(at):
        if place >= 1 / high:
            share = min(1.0, (place - 1 / high) / (1 / low - 1 / high))
            return math.exp(share * math.log(p_low) + (1 - share) * math.log(p_high))
    return at[-1][1]


@functools.lru_cache(maxsize=8)
def nominal_ps(level: float, cap: int) -> dict[int, float]:
    """Compute the p-value that promotes, by degrees of freedom of the noise. It takes about a second."""
    import numpy as np
    from scipy import special

    heights = np.linspace(0.0, 10.0, 41)
    ways = _ways(cap)
    ratios = np.log([max(_crossing(z, way) for way in ways) for z in heights]) - special.log_ndtr(-heights)

    def log_spent(z: Any) -> Any:
        return np.interp(z, heights, ratios) + special.log_ndtr(-z)  # beyond the last height the ratio hardly changes

    table = {}
    for nu in _NUS:
        logs = np.linspace(math.log(1e-6), math.log(1 + 12 / math.sqrt(nu)), 4001)  # of the estimated over the true sd
        spread = np.exp(logs)
        density = nu * logs - nu * spread**2 / 2
        weight = np.exp(density - density.max())
        weight /= weight.sum()
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if (weight * np.exp(log_spent(middle * spread))).sum() > level else (low, middle)
        table[nu] = float(special.stdtr(nu, -high))
    return table


def _ways(cap: int) -> list[list[float]]:
    """Return the informations at each look on three ways from the fewest replicates to all: either side first, and in turn."""
    ns, ms = list(range(N_MIN, cap + 1)), list(range(M_MIN, M_CAP + 1))
    most = max(len(ns), len(ms))
    in_turn = [(ns[min(k + half, len(ns) - 1)], ms[min(k, len(ms) - 1)]) for k in range(most) for half in (0, 1)]
    candidate_first = [(n, M_MIN) for n in ns] + [(cap, m) for m in ms]
    champion_first = [(N_MIN, m) for m in ms] + [(n, M_CAP) for n in ns]
    return [sorted({1 / (1 / n + 1 / m) for n, m in way}) for way in (candidate_first, champion_first, in_turn)]


def _crossing(z: float, informations: list[float]) -> float:
    """Return the chance that a difference without a gain ever lies z or more standard errors above nothing."""
    import numpy as np

    def normal(x: Any, variance: float) -> Any:
        return np.exp(-x * x / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    top = math.sqrt(informations[-1])
    grid = np.arange(-6 * top, (z + 1) * top + _STEP, _STEP)
    density, crossed, last = normal(grid, informations[0]), 0.0, informations[0]
    for information in informations:
        if information > last:
            variance = information - last
            reach = int(7 * math.sqrt(variance) / _STEP) + 1
            kernel = normal(np.arange(-reach, reach + 1) * _STEP, variance) * _STEP
            density = np.convolve(density, kernel)[reach : reach + len(grid)]
            last = information
        bound = z * math.sqrt(information)
        over = int(np.searchsorted(grid, bound))
        edge = (grid[over] - bound) / _STEP  # the part of a cell beyond the bound
        crossed += _STEP * float(density[over:].sum() + density[over] * (edge - 0.5))
        density[over:] = 0.0
    return crossed
