"""Measures predictions by answers that no training can read (fixed). Runs in a process that is thrown away."""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import measures, sandbox, tables
from autoresearch_mcp.trainer.own_scorer.common import FOR_OWNER, ScoringError, end, hash_of, receive

VALIDATION, TEST = tables.PARTS
ANSWERS = "answers"  # name of a file in each part of the hidden folder, without its ending
READ_S = 60.0  # for reading predictions


def by_predictions(
    file: Path, hidden: Path, expected_hash: str, metric: str, watched: Sequence[str], jail: sandbox.Jail, max_mb: int
) -> dict[str, Any]:
    """Measure what a run predicted.

    Args:
        file: with the predictions, of validation and then of test.
        hidden: folder with the answers.
        expected_hash: of that folder, when the run began.
        metric: its name.
        watched: names of further metrics; those that `measures` knows are measured as well.
        jail: for the process that reads the file, without what it may read.
        max_mb: that a run may submit.

    Returns:
        `metrics` on validation, `test`, and `answers`, a hash of the values.

    Raises:
        ScoringError: there is no number.
    """
    import numpy as np

    submitted = _read_apart(file, replace(jail, read=(file,)), max_mb)
    try:
        answers = {part: tables.read(_answers(hidden / part)) for part in tables.PARTS}
    except (tables.TableError, ImportError) as error:
        raise ScoringError(f"the lab's answers can't be read. {FOR_OWNER}", "scorer", str(error)) from None
    if hash_of(hidden) != expected_hash:
        raise ScoringError("the hidden folder changed while this trained. Launch it again.", "machine")
    fit(file, submitted, answers)
    every = np.concatenate([answers[part].values for part in tables.PARTS])
    rows, classes = len(answers[VALIDATION].values), measures.count_classes(every)
    asked = {name: known for name in (metric, *watched) if (known := measures.known(name))}
    metrics: dict[str, float] = {}
    test = 0.0
    try:
        for name, known in asked.items():
            values = measures.check(known, submitted.values, every, classes)
            metrics[name] = measures.shown(known, measures.measure(known, values[:rows], every[:rows], classes))
            if name == metric:
                test = measures.measure(known, values[rows:], every[rows:], classes)
    except measures.MeasureError as error:
        raise ScoringError(f"{file.name}: {error}") from None
    except ImportError as error:
        message = f"the scorer needs {error.name}: the lab's owner can install it with pip install 'autoresearch-mcp[sklearn]'."
        raise ScoringError(message, "machine") from None
    return {"metrics": metrics, "test": test, "answers": hashlib.sha256(submitted.values.tobytes()).hexdigest()[:16]}


def fit(file: Path, submitted: tables.Table, answers: dict[str, tables.Table]) -> None:
    """Check the rows of predictions: how many, in which order, and that each holds something.

    Raises:
        ScoringError: it says what was expected.
    """
    import numpy as np

    counts = {part: len(table.values) for part, table in answers.items()}
    got = len(submitted.values)
    if got != sum(counts.values()):
        raise ScoringError(
            f"{file.name} has {got:,} rows, expected {sum(counts.values()):,}: {counts[VALIDATION]:,} for the validation inputs, then "
            f"{counts[TEST]:,} for the test inputs, each in the order of its inputs."
        )
    if all(table.ids is not None for table in answers.values()) and file.suffix.lower() in (".csv", ".parquet"):
        expected = [each for table in answers.values() for each in table.ids or ()]
        if submitted.ids is None:
            raise ScoringError(f"{file.name} has no column {tables.ID}, which says which input each row is for.")
        wrong = next((row for row, (ours, theirs) in enumerate(zip(expected, submitted.ids)) if ours != theirs), None)
        if wrong is not None:
            raise ScoringError(
                f"{file.name}, row {wrong + 1}: expected the {tables.ID} {expected[wrong][:40]}, got {submitted.ids[wrong][:40]}. Keep the order "
                "of the inputs, validation first."
            )
    if submitted.values.dtype.kind == "f":
        finite = np.isfinite(submitted.values).reshape(got, -1).all(1)
        if not finite.all():
            raise ScoringError(f"{file.name}, row {int((~finite).argmax()) + 1}: expected finite numbers, got NaN or infinity.")


def _answers(folder: Path) -> Path:
    present = [path for ending in tables.ENDINGS if (path := folder / f"{ANSWERS}{ending}").is_file()]
    if len(present) != 1:
        raise tables.TableError(f"{folder} must hold one file {ANSWERS} that ends in {', '.join(tables.ENDINGS)}; it has {len(present)}.")
    return present[0]


def _read_apart(file: Path, jail: sandbox.Jail, max_mb: int) -> tables.Table:
    """Have a sandboxed process read a table, and take over plain values. Call it before this process holds an answer.

    Raises:
        ScoringError: it is no table.
    """
    import numpy as np

    ours, theirs = os.pipe()

    def run() -> None:
        try:
            table = tables.read(file, 8 * max_mb)
        except (tables.TableError, ImportError, MemoryError) as error:
            text = (
                f"{error.name} is missing in the lab's environment" if isinstance(error, ImportError) else str(error) or "it is too large"
            )
            _send(theirs, {"error": text})
            return
        numbers = table.values.dtype.kind != "U"
        values = table.values.astype("<f8").tobytes() if numbers else json.dumps(table.values.ravel().tolist()).encode()
        ids = json.dumps(table.ids).encode()
        _send(theirs, {"shape": table.values.shape, "numbers": numbers, "values": len(values)}, values, ids)

    null = os.open(os.devnull, os.O_WRONLY)
    pid = sandbox.spawn(run, replace(jail, keep=(theirs,), output=null))
    os.close(theirs)
    os.close(null)
    data, in_time = receive(ours, READ_S, 16 * max_mb << 20)
    end(pid, in_time)
    try:
        (length,) = struct.unpack_from("<I", data)
        head, rest = json.loads(data[4 : 4 + length]), data[4 + length :]
        if "error" in head:
            raise ScoringError(str(head["error"])[:400])
        values, ids = rest[: head["values"]], json.loads(rest[head["values"] :])
        flat = np.frombuffer(values, "<f8") if head["numbers"] else np.array([str(text) for text in json.loads(values)])
        return tables.Table(flat.reshape([int(n) for n in head["shape"]]), None if ids is None else [str(each) for each in ids])
    except (struct.error, ValueError, KeyError, TypeError):
        took = "" if in_time else f" in {READ_S:.0f} s"
        raise ScoringError(f"{file.name} could not be read{took}.") from None


def _send(pipe: int, head: dict[str, Any], *parts: bytes) -> None:
    text = json.dumps(head).encode()
    with os.fdopen(pipe, "wb", closefd=False) as file:
        for part in (struct.pack("<I", len(text)), text, *parts):
            file.write(part)
