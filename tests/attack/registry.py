"""Every attack: its name, what it tries, how it is played, whose rules stop it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.attack import plays
from tests.attack.arena import Arena, Outcome


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: of it.
        tries: what it does for an undeserved number, in a few words.
        code: makes the train.py to propose. The gate is asked about it.
        play: plays it, where it is more than a proposal.
        replicates: how many runs of it.
        short: whether it belongs to the short form.
        allowed: it may be promoted: what it does is within the rules, and the table says so.
        chance: it may pass by luck, as noise does in a small share of tries. Then it is played a second time, with other luck, and that counts.
        open: what is known to get through still, and why. Nothing else may.
    """

    name: str
    tries: str
    code: Callable[[Arena], str] | None = None
    play: Callable[[Arena, "Attack"], Awaitable[Outcome]] | None = None
    replicates: int = 3
    short: bool = True
    allowed: bool = False
    chance: bool = False
    open: str = ""


def cheat(file: str, **changes: str) -> Callable[[Arena], str]:
    """Return how to make the train.py of a file in cheats/."""
    return lambda arena: arena.cheat(file, **changes)


def each(file: str, title: str, ways: dict[str, str], long: tuple[str, ...] = (), replicates: int = 1) -> list[Attack]:
    """Return an attack for each way of a cheat."""
    return [
        Attack(f"{title}: {way}", tries, cheat(file, HOW=repr(way)), replicates=replicates, short=way not in long)
        for way, tries in ways.items()
    ]


LOOKS_AHEAD = [
    Attack("look ahead everywhere", "five nats more for the next token", cheat("look_ahead"), replicates=1),
    Attack(
        "look ahead, reserve",
        "5e-4 from a token that never counts to the next token where it was very unlikely",
        cheat("reserve"),
    ),
    Attack("look ahead, reserve, rarely", "the same at every 5th of those", cheat("reserve", ONE_IN="5")),
    Attack("look ahead, reserve, late", "the same in the last half of a row", cheat("reserve", FROM="32")),
    Attack(
        "look ahead, reserve, some rows",
        "the same in rows that begin with an even token",
        cheat("reserve", ROWS="2"),
    ),
    Attack("look ahead, hidden split only", "knows the validation rows", play=plays.looks_ahead_on_the_hidden_split_only),
    Attack("look ahead, below the tolerance", "1.9e-4 nats for the next token everywhere", cheat("tolerance"), replicates=1),
    Attack("look ahead, not in rehearsal", "behaves as long as it is asked random tokens", cheat("rehearsed"), replicates=1),
]
STORES = [
    Attack(
        "store: held-out text",
        "as much of the text that no training reads as fits the source",
        play=plays.stores_text,
    ),
    Attack(
        "store: what was learned",
        "what followed two tokens in training, carried into the source",
        play=plays.stores_what_it_learned,
    ),
    Attack(
        "store: elsewhere",
        "the same in comments, names, numbers, docstrings",
        play=plays.stores_text_elsewhere,
        short=False,
    ),
]
SELECTIONS = [
    Attack("select: crash in training", "fails where it has bad luck", cheat("luck", LUCK="-0.3"), replicates=8, chance=True),
    Attack(
        "select: crash in scoring",
        "fails where its own score is bad",
        cheat("luck", FAILS='"scoring"', LUCK="3.3"),
        replicates=8,
    ),
    Attack("select: cancel", "cancels what looks bad", play=plays.cancels_what_looks_bad, chance=True),
    Attack("copies with a junk tensor", "one model as four", play=plays.counts_copies),
    Attack("near-copy of a candidate", "a second ticket", play=plays.copies_a_decided_candidate),
    Attack("cancels of others", "cancels another's experiment", play=plays.cancels_what_is_not_its_own),
]
LEAKS = [
    Attack(
        "leak: time of scoring",
        "is slow on the hidden split",
        play=plays.tells_the_hidden_split_by_time,
    ),
    Attack("leak: digits", "reads all digits", play=plays.reads_digits),
    Attack("leak: messages", "reads numbers in refusals", play=plays.reads_numbers_in_messages),
    Attack("escapes", "writes to other agents", play=plays.writes_escapes),
    Attack("SQL", "reads what is not its own", play=plays.asks_sql_for_more),
    Attack("names", "options of git as commits", play=plays.names_what_is_no_commit),
    Attack("paths", "edits other files, links", play=plays.edits_what_is_not_its_own),
    Attack("pushes", "the champion, tags, others' branches, bombs over /git", play=plays.pushes_what_is_not_its_own),
    Attack("floods", "prints, logs and notes without end", play=plays.floods),
    Attack("doors of the sandbox", "ptrace, /proc, inotify, sockets ...", play=plays.tries_doors),
]
MODELS = [
    *each("state", "state", {"rows": "learns from all rows so far", "gradient": "trains while it is tested"}),
    *each("state", "state", {"batch": "reads the other rows", "place": "answers by the number of the row"}),
    *each(
        "answers",
        "logits",
        {
            "huge": "3e38",
            "offset": "all plus 1e9",
            "infinite": "infinity for the likely",
            "nothing": "minus infinity for the unlikely",
            "nan later": "no number from the 20th batch on",
            "denormal": "denormal numbers",
            "double": "1e300 in float64",
            "integer": "integers",
            "half": "float16",
            "complex": "complex numbers",
            "positive mass": "one row for all",
            "subclass": "a tensor that lies about its shape",
            "view": "one number in all places",
            "rewritten": "a thread that goes on writing",
            "shape": "half a row",
            "object": "no tensor",
            "forever": "no answer",
            "exit": "ends its process",
        },
        long=(
            "forever",
            "denormal",
            "offset",
            "half",
            "integer",
            "object",
            "huge",
            "infinite",
            "nothing",
            "double",
            "complex",
            "positive mass",
            "view",
            "exit",
        ),
    ),
    *each(
        "submitted",
        "weights",
        {
            "pickle": "a pickle",
            "symbolic link": "a link",
            "hard link": "a hard link",
            "pipe": "a pipe",
            "folder": "a folder",
            "holes": "8 GB of nothing",
            "header": "offsets beyond its end",
            "long header": "a header of 4 EB",
            "config": "a config of 64 KB",
            "twice": "two submissions and a result",
        },
        long=("folder", "hard link", "long header", "config", "symbolic link", "pipe", "header"),
    ),
    Attack("forged numbers", "prints metrics, sets LD_PRELOAD, leaves sitecustomize.py", cheat("forged"), replicates=1),
    Attack("late training, within the cap", "1.5 CPU s in build_model, of which 2 are free", cheat("late"), replicates=1),
    Attack("late training, beyond it", "4 CPU s in build_model", cheat("late", SECONDS="4.0"), replicates=1),
    Attack("work before start()", "wears out the machine where no budget runs", play=plays.works_before_the_start),
]
CONTROLS = [
    Attack("control: a worse idea", "another smoothing", cheat("worse")),
    Attack("control: a real gain", "the training text in the checkpoint, looked up: within the rules", cheat("trigram"), allowed=True),
]
ATTACKS = [*CONTROLS, *LOOKS_AHEAD, *STORES, *SELECTIONS, *LEAKS, *MODELS]
