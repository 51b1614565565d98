"""What outlives a long garbage collection isn't looked through again, and nothing of that is left when the server ends; threads share their heaps."""

import ast
import ctypes
import gc
import inspect
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.beside import interpreter
from autoresearch_mcp.server.beside.interpreter import collect, short_collections


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    callbacks, thresholds, threads = list(gc.callbacks), gc.get_threshold(), threading.active_count()
    yield
    assert gc.callbacks == callbacks and gc.get_threshold() == thresholds and gc.get_freeze_count() == 0
    assert threading.active_count() == threads


def test_what_outlives_a_long_collection_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LONG_S", 0.0)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        collect()
        assert gc.get_freeze_count() >= before + len(kept)


def test_after_a_short_one_all_is_looked_through_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LONG_S", 1e9)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        collect()
        assert gc.get_freeze_count() <= before and kept


def test_all_is_looked_through_once_there_was_enough_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LOOK_S", 0.001)
    collected, garbage = threading.Event(), list[object]()
    garbage.append(garbage)
    weakref.finalize(owner := type("Owner", (), {"of": garbage})(), collected.set)
    garbage.append(owner)
    gc.collect()  # it is old now
    with short_collections():
        gc.unfreeze()
        del garbage, owner
        for _ in range(interpreter.YOUNGER):
            assert not collected.is_set()
            gc.collect(1)
        assert collected.wait(20)


def test_code_is_parsed_while_other_threads_parse_some() -> None:
    code, is_done = "\n".join(f"f(a, {n})[b, c] = {{d: [e]}}" for n in range(2_000)), threading.Event()

    def parse_deeper_in_the_stack(calls: int) -> None:
        if calls:
            return parse_deeper_in_the_stack(calls - 1)
        while not is_done.is_set():
            inspect.signature(sorted)  # as libraries do when they are imported; it parses a line

    with short_collections():
        beside = threading.Thread(target=parse_deeper_in_the_stack, args=(40,))
        beside.start()
        try:
            for _ in range(6):
                assert len(ast.parse(code).body) == 2_000
        finally:
            is_done.set()
            beside.join()


def test_the_young_are_collected_less_often_meanwhile() -> None:
    kept = list[list[int]]()

    def collections() -> int:
        before = gc.get_stats()[0]["collections"]
        kept[:] = [[n] for n in range(9_000)]
        return int(gc.get_stats()[0]["collections"]) - before

    gc.collect()
    often = collections()
    with short_collections():
        gc.collect()
        assert collections() < often


def test_a_collection_of_the_young_keeps_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "LONG_S", 0.0)
    with short_collections():
        before, kept = gc.get_freeze_count(), [[n] for n in range(1_000)]
        gc.collect(1)
        assert gc.get_freeze_count() <= before and kept


HEAPS = """
import ctypes, sys, threading
from autoresearch_mcp.server.beside.interpreter import share_heaps

if sys.argv[1] == "shared":
    share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
all_there = threading.Barrier(8)


def allocate():
    all_there.wait()
    assert libc.malloc(ctypes.c_size_t(50_000))
    all_there.wait()


threads = [threading.Thread(target=allocate) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
told = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(told))
libc.fclose(ctypes.c_void_p(told))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library isn't glibc")
@pytest.mark.parametrize(("how", "heaps"), [("shared", range(1, 3)), ("as it is", range(3, 17))])
def test_threads_share_two_heaps(tmp_path: Path, how: str, heaps: range) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", HEAPS, how, str(told)], check=True, env=environment)
    assert told.read_text(encoding="utf-8").count("<heap nr=") in heaps
