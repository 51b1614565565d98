"""Records of open experiments in memory."""

from collections.abc import Sequence

from autoresearch_mcp.server.models import Experiment

_MOST = 1_000  # that are kept where only some are asked for


class Records:
    """Records of open experiments by their text, so that a long queue is parsed once. Thread-safe: what it keeps is replaced whole."""

    def __init__(self) -> None:
        self._all: dict[str, Experiment] = {}  # when all were asked for last
        self._some: dict[str, Experiment] = {}  # others that were asked for since

    def parse(self, texts: Sequence[str], are_all: bool) -> list[Experiment]:
        """Return the experiments, which nobody may change; `are_all` says that no others are open."""
        known, some = self._all, self._some
        found = {text: known.get(text) or some.get(text) or Experiment.model_validate_json(text) for text in texts}
        if are_all:
            self._all, self._some = found, {}
        else:
            more = {text: e for text, e in found.items() if text not in known}
            self._some = some | more if len(some) < _MOST else more
        return [found[text] for text in texts]
