"""What a model is asked to show that it predicts from the past alone, and keeps no state (fixed). Used by score.py.

A *decoy* is the beginning of a real row, up to a position that was drawn, and random tokens behind it. Up to that position the
log-probabilities must be those that the whole row got. So a look ahead at that position shows, whatever it looks for: the next
token isn't there. Decoys are drawn in two ways. `EVEN` of them fall anywhere alike. The others go by what was answered: they fall where
an answer is better than its token's frequency explains, by as much. Positions that don't count are never drawn.

No decoy may teach its server the next token of another one. So shorter beginnings are asked before longer ones of the same row, never
two of one row in a batch, and what stands behind them is noise, not text.

A *twin* is a row that is asked twice, in another place or of another server.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

EVEN = 2 / 3  # the share of decoys that don't go by what was answered
TWINS = 4  # of each split, asked of the server that answers what counts; as many are asked of the one that is checked
PARTS = 8  # decoys are cut to whole eighths of a row


@dataclass(frozen=True)
class Text:
    """A split as rows of tokens, the target of each, and the bytes that each target stands for."""

    contexts: "np.ndarray[Any, Any]"
    targets: "np.ndarray[Any, Any]"
    widths: "np.ndarray[Any, Any]"

    @property
    def testable(self) -> "np.ndarray[Any, Any]":
        """Whether a look ahead at a position would gain anything (rows, positions): its target counts, and stands in the row."""
        counts = self.widths > 0
        counts[:, -1] = False
        return counts


@dataclass(frozen=True)
class Question:
    """A row to ask.

    Attributes:
        row: its number; of a decoy, that of the row whose beginning it shares.
        tokens: what is asked. It may be shorter than a whole row.
        opened: the position that a server must show after it stated all: in a decoy the last one that must agree.
        checked: 0 for a row that counts, else the number of first positions that must agree with it.
        decoy: whether something else follows than in the row.
    """

    row: int
    tokens: "np.ndarray[Any, Any]"
    opened: int
    checked: int = 0
    decoy: bool = False

    def extended(self, length: int, vocab_size: int, random: "np.random.Generator") -> "Question":
        """Return the same with noise behind it, up to this length."""
        import numpy as np

        return replace(self, tokens=np.concatenate([self.tokens, random.integers(vocab_size, size=length - len(self.tokens))]))


def lengths(seq_len: int) -> list[int]:
    """Return the lengths of decoys that are shorter than a whole row."""
    return [seq_len * part // PARTS for part in range(1, PARTS)]


def rows(text: Text, multiple: int, random: "np.random.Generator") -> list[Question]:
    """Ask all rows, in random order, each opened anywhere. Ask some of them twice: `TWINS`, and what fills the last batch."""
    count, length = text.contexts.shape
    asked = [Question(row, text.contexts[row], int(random.integers(length - 1))) for row in range(count)]
    asked += twins(text, TWINS + -(count + TWINS) % multiple, random)
    random.shuffle(asked)
    return asked


def twins(text: Text, count: int, random: "np.random.Generator") -> list[Question]:
    """Ask rows a second time, drawn at random."""
    many, length = text.contexts.shape
    return [Question(int(row), text.contexts[row], int(random.integers(length - 1)), length) for row in random.integers(many, size=count)]


def shares(text: Text, answers: "np.ndarray[Any, Any]", vocab_size: int) -> "np.ndarray[Any, Any]":
    """Return how often a decoy is split at each position, given the answers (rows, positions)."""
    import numpy as np

    testable = text.testable
    even: np.ndarray[Any, Any] = testable / testable.sum()
    counts = np.bincount(text.targets.ravel(), minlength=vocab_size) + 1.0
    better = np.where(testable, np.maximum(0.0, answers - np.log(counts / counts.sum())[text.targets]), 0.0)
    return even if better.sum() == 0 else EVEN * even + (1 - EVEN) * better / better.sum()


def decoys(text: Text, drawn: "np.ndarray[Any, Any]", count: int, vocab_size: int, random: "np.random.Generator") -> list[Question]:
    """Draw decoys by these shares, the earliest splits first. Each is cut to the shortest length that holds it and a token of noise."""
    import numpy as np

    length = text.contexts.shape[1]
    cuts = [*lengths(length), length]
    asked = []
    for place in random.choice(drawn.size, count, p=drawn.ravel()):
        row, split = divmod(int(place), length)  # the last position that must agree
        cut = next(cut for cut in cuts if cut >= split + 2)
        noise = random.integers(vocab_size, size=cut - split - 1)
        noise[0] = (text.contexts[row, split + 1] + random.integers(1, vocab_size)) % vocab_size
        tokens = np.concatenate([text.contexts[row, : split + 1], noise])
        asked.append(Question(row, tokens, split, split + 1, decoy=True))
    return sorted(asked, key=lambda question: question.opened)


def batches(questions: list[Question], size: int) -> Iterator[list[Question]]:
    """Group questions, in their order, into batches of at most `size`, no row twice in a batch: the second waits for the next batch."""
    while questions:
        batch: dict[int, Question] = {}
        waiting = []
        for position, question in enumerate(questions):
            if len(batch) == size:
                waiting += questions[position:]
                break
            if question.row in batch:
                waiting.append(question)
            else:
                batch[question.row] = question
        questions = waiting
        yield list(batch.values())
