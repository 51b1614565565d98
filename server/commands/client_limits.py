"""Reads how long a client asks to wait, out of the words with which it ends at its account's limit.

Those of Claude Code ("You've hit your session limit · resets 3pm (Europe/Berlin)"), Codex ("try again in 2 days 17 hours 14 minutes"),
Gemini CLI ("Your quota will reset after 39s", "Access resets at 10:57 PM GMT-3"), and plain answers of a service (429, overloaded).
"""

import re
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

LONGEST_S = 8 * 86_400.0  # a weekly limit, and a day
USUAL_S = 300.0  # where no time is named
_MARGIN_S = 30.0
_LIMIT = re.compile(
    r"(?<!learning.)rate.?limit|usage limit|(session|weekly|hit your|5-hour) limit|quota|overloaded|RESOURCE_EXHAUSTED|\b429\b|\b529\b",
    re.I,
)
_EPOCH = re.compile(r"limit reached\|(\d{10})\b")
_IN = re.compile(r"(?:in|after)\s+((?:\d+(?:\.\d+)?\s*(?:days?|hours?|minutes?|mins?|seconds?|secs?|[dhms])\b[\s,]*(?:and\s+)?)+)", re.I)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])", re.I)
_AT = re.compile(r"(?:resets?|try again)(?: at)? (\d{1,2})(?::(\d{2}))?\s*([ap])\.?m\.?(?:\s*\(([\w/+-]+)\)|\s*GMT([+-]\d{1,2}))?", re.I)
_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def wait_s(text: str, now: datetime) -> float | None:
    """Return how many seconds a client wants to wait; None where its words are about no limit.

    Args:
        text: the end of what it printed.
        now: the time, with its zone: in which a client means an hour that it names without one.
    """
    if not _LIMIT.search(text):
        return None
    if match := _EPOCH.search(text):
        wanted = int(match[1]) - now.timestamp() + _MARGIN_S
    elif match := _AT.search(text):
        wanted = _until(now, int(match[1]), int(match[2] or 0), match[3].lower() == "p", _zone(match[4], match[5], now)) + _MARGIN_S
    elif match := _IN.search(text):
        wanted = sum(float(number) * _UNITS[unit.lower()] for number, unit in _PART.findall(match[1])) + 1
    else:
        wanted = USUAL_S
    return min(max(wanted, 1.0), LONGEST_S)


def _until(now: datetime, hour: int, minute: int, afternoon: bool, zone: tzinfo | None) -> float:
    local = now.astimezone(zone)
    at = local.replace(hour=hour % 12 + 12 * afternoon, minute=min(minute, 59), second=0, microsecond=0)
    return ((at if at > local else at + timedelta(days=1)) - local).total_seconds()


def _zone(name: str | None, offset: str | None, now: datetime) -> tzinfo | None:
    if offset:
        return timezone(timedelta(hours=max(-14, min(14, int(offset)))))
    try:
        return ZoneInfo(name) if name else now.tzinfo
    except (KeyError, ValueError, OSError):
        return now.tzinfo
