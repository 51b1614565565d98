"""How notes are cut into search terms, and how thousands of them are ranked in memory.

The same terms go into the store's BM25 index, so a query finds a note there and among the unflushed ones alike. Terms are
word characters only, which also makes a hostile query harmless. Gives up real stemming: only plurals are folded.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_WORD = re.compile(r"\w+(?:[-.+]\w+)*")
_PART = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d")
_MOST_TERMS = 2_000
_K1 = 1.2  # how soon more of the same term stops to count
_B = 0.75  # how much long documents are discounted, from 0 to 1


def terms(text: str) -> list[str]:
    """Cut a text into lower-case terms without accents, plurals folded: "Warm-up losses of 3e-4" gives warm, up, warmup, loss, of, 3e_4.

    A compound gives its parts and the whole, so warm-up, warm_up and warmup meet; a number such as 3e-4 or 0.02 stays whole.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text[:100_000]).casefold() if not unicodedata.combining(c))
    cut: list[str] = []
    for word in _WORD.findall(plain):
        parts = _PART.findall(word)
        if len(parts) == 1:
            cut.append(_singular(parts[0]))
        elif _NUMBER.match(word):
            cut.append("_".join(parts))
        elif parts:
            cut += [*map(_singular, parts), _singular("".join(parts))]
    return cut[:_MOST_TERMS]


def rank(query: Sequence[str], documents: Sequence[Sequence[str]]) -> list[float]:
    """Score documents by BM25 (Robertson and Zaragoza, 2009, with the +1 inside idf).

    Args:
        query: terms.
        documents: their terms.

    Returns:
        A score for each document, 0 where no term of the query is in it.
    """
    mean = sum(map(len, documents)) / len(documents) if documents else 1.0
    scores = [0.0] * len(documents)
    for term in set(query):
        frequencies = [document.count(term) for document in documents]
        idf = _idf(len(documents), sum(map(bool, frequencies)))
        for index, frequency in enumerate(frequencies):
            if frequency:
                scores[index] += idf * _weight(frequency, len(documents[index]) / mean)
    return scores


class TermIndex:
    """The terms of a table's rows, in memory, for many searches. Rows are known by their position in the store. Not thread-safe.

    Args:
        read: gives the terms of the rows from a first one up to, and without, a last one: a text each, with spaces between.
    """

    def __init__(self, read: Callable[[int, int], Sequence[str]]) -> None:
        self._read = read
        self._lengths: list[int] = []
        self._holders: dict[str, dict[int, int]] = {}  # by term: how often each row holds it, where it does

    def extend(self, rows: int) -> None:
        """Read the rows that are new, up to `rows`."""
        known = len(self._lengths)
        for position, text in enumerate(self._read(known, rows) if rows > known else (), known):
            cut = text.split()
            self._lengths.append(len(cut))
            for term, times in Counter(cut).items():
                self._holders.setdefault(term, {})[position] = times

    def rank(self, query: Sequence[str]) -> dict[int, float]:
        """Return the scores of the rows that hold a term of the query, as `rank` gives them."""
        mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0
        scores: dict[int, float] = {}
        for term in set(query):
            holders = self._holders.get(term, {})
            idf = _idf(len(self._lengths), len(holders))
            for position, times in holders.items():
                scores[position] = scores.get(position, 0.0) + idf * _weight(times, self._lengths[position] / mean)
        return scores


def _idf(documents: int, holders: int) -> float:
    """Return what a term tells that so many of the documents hold."""
    return math.log(1 + (documents - holders + 0.5) / (holders + 0.5))


def _weight(frequency: int, length: float) -> float:
    """Return what it counts that a document holds a term so often, by its length as a multiple of the mean one."""
    return frequency * (_K1 + 1) / (frequency + _K1 * (1 - _B + _B * length))


def _singular(word: str) -> str:
    """Folds plurals: rate and rates, loss and losses, batch and batches, strategy and strategies become one term each."""
    if len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("s") and word[-2] not in "su":
        word = word[:-1]
    return word.removesuffix("e")
