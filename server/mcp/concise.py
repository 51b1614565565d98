"""Answers as short as they can be without losing meaning: every agent pays for each character, and misreads long numbers.

Commits have 12 digits, times are ISO, numbers have the digits that noise leaves, and what is empty is left out.
"""

import math
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

SHORT = 12  # digits of a commit
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMITS = {"commit", "commits", "base", "champion", "previous", "retrain", "verdict_of", "verdict_against"}
_TIMES = {"active_at", "created_at", "started_at", "finished_at", "ended_at"}
_DIGITS = 6  # of a number; a metric of 1.61563 with a noise of 0.005 says nothing in its sixth
_DIGITS_OF = dict.fromkeys(("val_bpb", "reported_bpb", "mean", "candidate_mean", "champion_mean", "mean_val_bpb"), 5)
_DIGITS_OF |= dict.fromkeys(("sd", "se", "gain", "gain_low", "gain_high", "p", "p_better", "noise", "noise_sd", "needed_gain"), 3)
_DIGITS_OF |= {"cpu_share": 2, "pressure": 2, "progress": 2, "likeness": 2, "gain_sd": 2}


def concise(answer: dict[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """Return an answer of JSON in short.

    Args:
        answer: by the names of its fields.
        kept: fields that stay even where they are empty, because programs read them.
    """
    shorter = {name: shortened(value, name) for name, value in answer.items()}
    return {name: value for name, value in shorter.items() if name in kept or not is_empty(value)}


def shortened(value: Any, name: str) -> Any:
    """Return the value of a field in short.

    Args:
        value: of JSON.
        name: of the field, or of the list that holds it.
    """
    if isinstance(value, dict):
        shorter = {each: shortened(item, each) for each, item in value.items()}
        return {each: item for each, item in shorter.items() if not is_empty(item)}
    if isinstance(value, list):
        return [shortened(item, name) for item in value]
    if isinstance(value, str):
        return value[:SHORT] if name in _COMMITS and _HASH.fullmatch(value) else value
    if isinstance(value, float):
        return _time(value) if name in _TIMES else digits(value, _DIGITS_OF.get(name, _DIGITS))
    return value


def digits(value: float, most: int) -> float | int:
    """Return a number with at most so many significant digits; whole numbers keep all of theirs."""
    if not math.isfinite(value) or value == 0:
        return value
    rounded = round(value, max(0, most - 1 - math.floor(math.log10(abs(value)))))
    return int(rounded) if rounded.is_integer() and abs(rounded) >= 10 ** (most - 1) else rounded


def is_empty(value: Any) -> bool:
    """Return whether a value says nothing."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def _time(seconds: float) -> str | float:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return seconds
