"""What outlives a long garbage collection isn't looked through again, and nothing of that is left when the server ends."""

import gc
from collections.abc import Iterator

import pytest

from autoresearch_mcp.server.mcp import collecting
from autoresearch_mcp.server.mcp.collecting import short_collections


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    callbacks = list(gc.callbacks)
    yield
    assert gc.callbacks == callbacks and gc.get_freeze_count() == 0


def test_what_outlives_a_long_collection_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "LONG_S", 0.0)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        gc.collect()
        assert gc.get_freeze_count() >= before + len(kept)


def test_after_a_short_one_all_is_looked_through_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "LONG_S", 1e9)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        gc.collect()
        assert gc.get_freeze_count() <= before and kept


def test_a_collection_of_the_young_keeps_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "LONG_S", 0.0)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        gc.collect(1)
        assert gc.get_freeze_count() <= before and kept
