"""How notes are cut into search terms, and how few of them are ranked without an index.

The same terms go into the store's BM25 index, so a query finds a note there and among the unflushed ones alike. Terms are
word characters only, which also makes a hostile query harmless. Gives up real stemming: only plurals are folded.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:[-.+]\w+)*")
_PART = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d")
_MOST_TERMS = 2_000


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


def rank(query: Sequence[str], documents: Sequence[Sequence[str]], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Score documents by BM25 (Robertson and Zaragoza, 2009, with the +1 inside idf).

    Args:
        query: terms.
        documents: their terms.
        k1: how soon more of the same term stops to count.
        b: how much long documents are discounted, from 0 to 1.

    Returns:
        A score for each document, 0 where no term of the query is in it.
    """
    mean = sum(map(len, documents)) / len(documents) if documents else 1.0
    scores = [0.0] * len(documents)
    for term in set(query):
        frequencies = [document.count(term) for document in documents]
        holders = sum(map(bool, frequencies))
        idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        for index, frequency in enumerate(frequencies):
            if frequency:
                scores[index] += idf * frequency * (k1 + 1) / (frequency + k1 * (1 - b + b * len(documents[index]) / mean))
    return scores


def _singular(word: str) -> str:
    """Folds plurals: rate and rates, loss and losses, batch and batches, strategy and strategies become one term each."""
    if len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("s") and word[-2] not in "su":
        word = word[:-1]
    return word.removesuffix("e")
