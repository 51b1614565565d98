"""Draws what the page shows: views as HTML, charts and curves as numbers."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from autoresearch_mcp.server.lab.campaigns import Overview
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.page.charts import curve_data, progress_data
from autoresearch_mcp.server.page.rendering import render
from autoresearch_mcp.server.page.views import VIEWS, Asked, common
from autoresearch_mcp.server.roles import Identity

_KEPT = 64  # charts
MARK = "mark"  # the field of a question for a view: a text that stands where the visitor's own mark will


class Drawing:
    """Draws in this process. Every method blocks for a moment. Thread-safe.

    Args:
        lab: what is shown.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._charts: tuple[Overview | None, dict[Any, bytes]] = None, {}  # of a campaign

    def view(self, view: str, visitor: Identity, query: Mapping[str, str], name: str, mark: str) -> bytes:
        """Return a view as HTML.

        Args:
            view: its name.
            visitor: who looks.
            query: the part of the address after `?`.
            name: the part of the path that names an experiment or a commit.
            mark: what its forms hold in place of the visitor's own mark.
        """
        asked = Asked(self._lab, visitor, query, name)
        with self._lab.snapshot():
            shown = {**common(asked), **VIEWS[view](asked), "view": view, MARK: mark}
        return render(view, shown).encode()

    def chart(self, filters: dict[str, str], start: int, end: int) -> bytes:
        """Return the numbers of the campaign's chart as JSON, for those filters and experiments. All pages share them until the campaign goes on."""
        overview = self._lab.overview()
        of, charts = self._charts
        if overview is not of:
            self._charts = overview, (charts := {})
        key = (*filters.values(), start, end)
        if (known := charts.get(key)) is None:
            known = to_json(progress_data(overview, filters, start, end))
            if len(charts) < _KEPT:
                charts[key] = known
        return known

    def curve(self, name: str) -> bytes:
        """Return an experiment's loss, and the champion's, as JSON."""
        answer = self._lab.get_experiment(name)
        (champion,) = self._lab.curves()
        return to_json(curve_data(answer.curve, champion))
