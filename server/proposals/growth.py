"""Measures what a lab's editable files hold beyond earlier ones, and caps it: a source must not carry text or weights.

What counts is new information: the bytes that a compressor adds for the new files when it has just read the old ones. Everything that a
training could read counts: code, strings, numbers, names, comments, layout, file names. Moved and removed code is free. Many files count
as one. No encoding gets below its own information, so what the caps leave room for is a bound on what a source can carry.

Measured on 605 commits of nanochat and autoresearch (`python -m tests.bench.growth`, docs/metric.md): half of them add under 100 bytes, 95%
under 1,100, and the largest 3,234. One port of a whole project adds 19,401. Rewrites of the whole stock script added up to 5,174, and
50 commits of nanochat in a row 13,161.
"""

import functools
import lzma
from collections.abc import Mapping

from autoresearch_mcp.server.errors import LabError

PROPOSAL = 6144  # bytes that one proposal may add to its base
TOTAL = 16384  # that the lab's source may hold beyond its first one
FREE = 512  # of those, what the gate charges nothing for
CHARGE = {
    "cpu": 12.5e-6,
    "tiny": 12.5e-6,
    "h100": 0.15e-6,
    "gpu": 0.41e-6,
    "mps": 0.41e-6,
}  # bits per byte, for each further byte: see docs/metric.md
RAW = 256 << 10  # that the editable files may hold together: the trainer refuses more
_KEPT = 4  # sources whose own size is known: many proposals go on one
_DICTIONARY = 64 << 10, 4 << 20  # bytes that the compressor looks back at least and at most; it takes twelve times as much memory
_FILTER = {
    "id": lzma.FILTER_LZMA2,
    "lc": 3,
    "lp": 0,
    "pb": 0,
    "mode": lzma.MODE_NORMAL,
    "nice_len": 273,
    "mf": lzma.MF_BT4,
    "depth": 0,
}


def growth(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> int:
    """Return how many bytes of new information files hold beyond others: 0 where nothing was added.

    Args:
        before: the earlier files, by path.
        after: the later ones.
    """
    old, new = _joined(before), _joined(after)
    if old == new:
        return 0
    alone, repeating = _alone(old)
    return max(0, _compressed(old + new) - alone - repeating * min(len(old), len(new)) // max(1, len(old)))


def check(first: Mapping[str, bytes], base: Mapping[str, bytes], after: Mapping[str, bytes]) -> int:
    """Refuse files that hold too much.

    Args:
        first: the lab's first source, by path.
        base: what the proposal changes.
        after: what it makes of that.

    Returns:
        The bytes of new information that `after` holds beyond `first`.

    Raises:
        LabError: `too_large`, `too_much_new`.
    """
    raw = sum(map(len, after.values()))
    if raw > RAW and raw > sum(map(len, base.values())):
        raise LabError(
            f"The editable files would hold {raw:,} bytes together; the cap is {RAW:,}. Nothing was kept; make them smaller.", "too_large"
        )
    added = growth(base, after)
    if added > PROPOSAL:
        raise LabError(
            f"The change adds {added:,} bytes of new information (compressed, comments included); the cap for one proposal is {PROPOSAL:,}. "
            "A source may not carry data such as texts, tables or weights. Nothing was kept; propose it in smaller steps, or let the training "
            "compute what it needs.",
            "too_much_new",
        )
    total = added if first == base else growth(first, after)
    if total > TOTAL and total > growth(first, base):
        raise LabError(
            f"The source would hold {total:,} bytes of new information beyond the lab's first one; the cap is {TOTAL:,}. Nothing was kept; "
            "remove what no longer helps, such as dead options and long comments. The lab's owner can start the count anew at today's champion: "
            "`git update-ref refs/autoresearch/first research`.",
            "too_much_new",
        )
    return total


def charge(added: int, champion: int, profile: str) -> float:
    """Return what the gate takes off a candidate's gain, in bits per byte, for what its source holds beyond the champion's.

    Args:
        added: what the candidate's source holds beyond the lab's first one.
        champion: the same of the champion.
        profile: what the lab trains.

    Returns:
        At least 0: a source that shrinks gains nothing by that alone.
    """
    return CHARGE.get(profile, 0.0) * max(0, max(FREE, added) - max(FREE, champion))


def _joined(files: Mapping[str, bytes]) -> bytes:
    return b"".join(b"%s\0%s\0" % (path.encode("utf-8", "surrogateescape"), data) for path, data in sorted(files.items()))


@functools.lru_cache(maxsize=_KEPT)
def _alone(data: bytes) -> tuple[int, int]:
    """Return how small files become, and what it costs to say them again: 3 bytes a KB, for saying that nothing changed is no information."""
    alone = _compressed(data)
    return alone, _compressed(data + data) - alone


def _compressed(data: bytes) -> int:
    least, most = _DICTIONARY
    looks_back = min(
        max(least, 1 << (len(data) - 1).bit_length()), most
    )  # over all of it: more finds nothing more, and many propose at once
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[_FILTER | {"dict_size": looks_back}]))
