"""Moments as agents name them: `10m` for ten minutes ago, an ISO time, or Unix seconds."""

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
FORM = "10m, 2h, 1d (ago), an ISO time, or Unix seconds"


def unix(moment: str) -> float:
    """Return a moment in seconds since the epoch. A time without a zone is UTC.

    Raises:
        ValueError: it is none.
    """
    text = moment.strip().lower()
    if ago := _AGO.fullmatch(text):
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"must be {FORM}") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _checked(moment: str) -> str:
    unix(moment)
    return moment


# It stays text, so that the cursor of a page fits the same words later.
Moment = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked)]
