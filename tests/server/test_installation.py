"""What is installed: seen a moment after it came, and while other threads import something."""

import gc
import os
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.installation import is_installed


def test_what_came_within_a_tick_of_the_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = tmp_path.stat()
    assert not is_installed("came_just_now")
    (tmp_path / "came_just_now.py").touch()
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as where a file system counts in seconds
    assert is_installed("came_just_now")


def test_others_may_import_while_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path_importer_cache", {**sys.path_importer_cache})

    def import_something(phase: str, info: object) -> None:
        sys.path_importer_cache[f"/nowhere/{len(sys.path_importer_cache)}"] = None  # a collection lets other threads go on

    before = gc.get_threshold()
    gc.callbacks.append(import_something)
    gc.set_threshold(1)
    try:
        assert not is_installed("is_nowhere")
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(import_something)
    assert any(path.startswith("/nowhere/") for path in sys.path_importer_cache)
