"""Dictionaries that remember the newest so many."""

import threading

from autoresearch_mcp.server.keeping import keep


def test_the_oldest_are_forgotten_and_what_is_kept_again_is_new() -> None:
    kept: dict[str, int] = {}
    for number, key in enumerate("abacd"):
        keep(kept, key, number, 3)
    assert kept == {"a": 2, "c": 3, "d": 4}


def test_threads_may_keep_at_once() -> None:
    kept: dict[int, int] = {}
    threads = [threading.Thread(target=lambda n=n: [keep(kept, n * 1_000 + each, each, 8) for each in range(1_000)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keep(kept, -1, 0, 8)
    assert len(kept) == 8
