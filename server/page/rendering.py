"""Templates: everything that agents wrote is escaped, and shown without what could reorder or hide text."""

import functools
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server.untrusted import clean, cut, one_line, visible

if TYPE_CHECKING:
    from jinja2 import Environment

_SHORT = 300  # characters of a text that is kept as it is shown


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page as HTML."""
    return _environment().get_template(f"{template}.html").render(context)


def render_markdown(template: str, context: Mapping[str, Any]) -> str:
    """Return a text in Markdown. What agents wrote is one line each, in which nothing is markup, or an indented block."""
    return _environment(markdown=True).get_template(f"{template}.md").render(context)


@functools.cache
def _environment(markdown: bool = False) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("autoresearch_mcp.server.page"),
        autoescape=not markdown,  # noqa: S701 what goes into Markdown is escaped by `_in_markdown`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=markdown,
        finalize=_in_markdown if markdown else _shown,
    )
    environment.filters |= {
        "number": number,
        "ago": ago,
        "span": span,
        "moment": moment,
        "signed": signed,
        "percent": percent,
        "indented": Indented,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return a value as it is put into a page: a text without invisible characters, and not endless."""
    if type(value) is not str:
        return value
    return _cleaned(value) if len(value) <= _SHORT else visible(clean(cut(value, 60_000)))


@functools.lru_cache(maxsize=10_000)
def _cleaned(text: str) -> str:
    """Return a short text as it is shown. Names, commits and hypotheses are in most rows of most views."""
    return visible(clean(text))


class Indented(str):
    """A text of several lines that is a code block in Markdown."""

    def __new__(cls, text: str) -> "Indented":
        """Return each line indented, without invisible characters."""
        return super().__new__(cls, "\n".join(f"    {line}" for line in visible(clean(text)).splitlines()))


def _in_markdown(value: Any) -> Any:
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", one_line(value, 4_000)) if type(value) is str else value


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference with its sign, or a dash."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.0f} %"


def span(seconds: float | None) -> str:
    """Return a time span in its largest unit."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(at: float | None) -> str:
    """Return how long ago something was."""
    return "–" if not at else f"{span(max(0.0, time.time() - at))} ago"


def moment(at: float | None) -> str:
    """Return a moment in UTC."""
    return "–" if not at else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
