"""Scores what code without the contract left, by answers that no training can read: the owner's own, verified (fixed).

- `predictions`: a sandboxed process that holds no answers reads the file, in a format that runs no code, and passes on plain numbers or
  texts. A process that runs nothing of an agent's compares them with the answers.
- `command`: the owner's Python file runs twice, each time in a sandbox without a network. The first run reads what was submitted and the
  validation answers, the second one the same and the test answers. The last line that it prints is a JSON object of metrics.

The hidden folder holds `validation` and `test`. For predictions each has a file `answers.csv`, `.npy`, `.npz` or `.parquet`.

This process forks trainings, which would inherit what it has read. So it reads nothing of the hidden folder itself: its children do.

What agents learn: validation to few digits, and of the test set only what the gate says. What the owner's file prints is for the owner.
"""

import json
import os
import selectors
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from autoresearch_mcp.trainer import protocol, sandbox, tables
from autoresearch_mcp.trainer.failures import Ended, Failure
from autoresearch_mcp.trainer.own_scorer.command import by_command
from autoresearch_mcp.trainer.own_scorer.common import FOR_OWNER, ScoringError, hash_of
from autoresearch_mcp.trainer.own_scorer.predictions import by_predictions
from autoresearch_mcp.trainer.prepare import PreparationError
from autoresearch_mcp.trainer.protocol import Scoring, Spec
from autoresearch_mcp.trainer.sandbox import processes

SUBMITTED = "submitted"  # folder of the run directory with what is scored
CODE_BYTES, FILES = 16 << 20, 10_000  # of the owner's own folder; of what is submitted
GRID_S = 2.0  # a command ends on a multiple of it, so that its time tells next to nothing


def folders(scoring: Scoring, packages: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Return what no training may read.

    Args:
        scoring: what the lab's owner says.
        packages: folders of another interpreter's packages, in which `hide` is looked for as in the launcher's own.
    """
    own = list[Path]()
    for each in scoring.hide:
        path = Path(each).expanduser()  # of the machine that trains
        if path.is_absolute():
            own.append(path.resolve())
        else:
            own += [*sandbox.copies_of(each), *(path.resolve() for folder in packages for path in folder.glob(f"{each}*"))]
    file = [Path(scoring.file).resolve().parent] if scoring.file else []
    return (Path(scoring.hidden).resolve(), *own, *file)


class OwnScorer:
    """Scores one run.

    Args:
        spec: of the run.
        run: its directory.
        selector: of the loop that waits.
    """

    def __init__(self, spec: Spec, run: Path, selector: selectors.BaseSelector) -> None:
        assert spec.scoring is not None
        self._spec, self._scoring, self._selector = spec, spec.scoring, selector
        self._run, self._submitted = run, run / SUBMITTED
        self._hidden = Path(self._scoring.hidden).resolve()
        self._hashes: dict[str, str] = {}
        self._received = bytearray()
        self._outcome: dict[str, Any] | None = None

    def read_hashes(self) -> dict[str, str]:
        """Have a child read the hidden folder, so that no training inherits what was read. Call it before anything is scored.

        Returns:
            Hashes of the hidden folder and of the owner's code, which belong to the conditions.

        Raises:
            PreparationError: it can't be read.
        """
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            answer: dict[str, str] = {}
            try:
                answer = {"data": hash_of(self._hidden)}
                if self._scoring.file:
                    answer["scorer"] = hash_of(Path(self._scoring.file).resolve().parent, CODE_BYTES)
            except OSError as error:
                answer = {"error": f"{error.strerror}: {error.filename}"}
            except ValueError as error:
                answer = {"error": str(error)}
            finally:
                os.write(theirs, json.dumps(answer).encode()[:4000])
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        hashes: dict[str, str] = json.loads(text or b"{}")
        if "error" in hashes or not hashes:
            raise PreparationError(f"[scorer] can't be used: {hashes.get('error', 'its files could not be read')}. Correct it in lab.toml.")
        self._hashes = hashes
        return hashes

    def take(self, folder: Path) -> str:
        """Move what a run submits out of its folder. Call it when no process of the run lives.

        Args:
            folder: where the run started.

        Returns:
            Its hash.

        Raises:
            Ended: there is nothing, or not what was asked for.
        """
        limit = self._scoring.max_mb << 20
        try:
            source = self._find(folder)
            size = 0
            for count, path in enumerate(_plain_files(source), 1):
                size += path.lstat().st_size
                name = str(path.relative_to(folder))
                if size > limit or count > FILES:
                    raise ScoringError(
                        f"{name} makes more than the {self._scoring.max_mb} MB ([scorer] max_mb in lab.toml) or {FILES:,} files that a run may "
                        "submit."
                    )
                if tables.runs_code(path):
                    raise ScoringError(f"{name} is of a format that runs code when it is loaded, such as pickle: leave plain data.")
            self._submitted.mkdir()
            source.rename(self._submitted / source.name)
        except ScoringError as error:
            raise Ended("crashed", Failure("invalid_model", str(error))) from None
        for path in (self._submitted, *self._submitted.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return hash_of(self._submitted)

    def keep(self) -> None:
        """Leave what was taken in the run directory, for the machine that scores it."""
        self._submitted.rename(self._run / protocol.SUBMISSION)

    def take_up(self) -> str:
        """Take up what another machine left in the run directory.

        Returns:
            Its hash.

        Raises:
            Ended: it is missing.
        """
        try:
            (self._run / protocol.SUBMISSION).rename(self._submitted)
        except FileNotFoundError:
            raise Ended("crashed", Failure("error", "what was submitted is missing.", fault="machine")) from None
        return hash_of(self._submitted)

    def _find(self, folder: Path) -> Path:
        """Return the one file or folder that a run submits.

        Raises:
            ScoringError: it is not there, or no plain file.
        """
        wanted = self._scoring.submission or ("predictions" if self._scoring.kind == "predictions" else "submission")
        plain = self._scoring.kind == "command" or Path(wanted).suffix in tables.ENDINGS
        names = [wanted] if plain else [f"{wanted}{ending}" for ending in tables.ENDINGS]
        present = [name for name in names if os.path.lexists(folder / name)]
        if len(present) != 1:
            others = [path.name for path in folder.glob(f"{wanted}.*")] if not plain and not present else []
            got = f"; got {', '.join(present or others)[:200]}" if present or others else ""
            raise ScoringError(f"the run left no {' or '.join(names)} in its folder{got}." if not present else f"leave one of {present}.")
        source = folder / present[0]
        for path in (source, *source.parents):
            if path == folder:
                break
            if path.is_symlink():
                raise ScoringError(f"{present[0]} must be plain files, and is a link.")
        if self._scoring.kind == "predictions" and not stat.S_ISREG(source.lstat().st_mode):
            raise ScoringError(f"{present[0]} must be a plain file.")
        return source

    def score(
        self, usual: sandbox.Jail, of_script: Callable[[sandbox.Jail, Path, int], sandbox.Jail], wait: Callable[[float], None]
    ) -> dict[str, Any]:
        """Score what was taken, and keep the test set's score in a file of its own.

        Args:
            usual: the jail of a run with the contract. Its directory is empty.
            of_script: makes that of a script of it, with the run directory and megabytes of memory.
            wait: lets the run's loop turn for some seconds. It may end the run.

        Returns:
            `metrics` on validation, and `answers`, a hash that tells equal submissions.

        Raises:
            Ended: there is no number; the owner alone gets to know more, by `protocol.write_finding`.
        """
        jail = replace(usual, hidden=(self._run,), locks=False)
        command = replace(of_script(jail, self._run, self._scoring.memory_mb), read=(), hidden=(self._run,), directory=jail.directory)
        began = time.monotonic()
        ours, theirs = os.pipe()
        parent = os.getpid()
        if os.fork() == 0:
            os.close(ours)
            self._score_and_exit(jail, command, theirs, parent)
        os.close(theirs)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._listen(ours))
        while self._outcome is None and time.monotonic() < began + self._scoring.longest_s:
            wait(0.1)
        self._selector.unregister(ours)
        os.close(ours)
        outcome = self._outcome or {"error": "scoring took too long, or died.", "fault": "scorer"}
        if self._scoring.kind == "command":
            time.sleep(-(time.monotonic() - began) % GRID_S)
        if "error" in outcome:
            if outcome.get("finding"):
                protocol.write_finding(self._run, outcome["finding"])
            kind = "invalid_model" if outcome["fault"] == "code" else "error"
            raise Ended("crashed", Failure(kind, outcome["error"], fault=outcome["fault"]))
        protocol.write_hidden(self._run, outcome.pop("test"))
        return outcome

    def _listen(self, pipe: int) -> None:
        data = os.read(pipe, 65536)
        self._received += data
        if not data:
            self._outcome = json.loads(self._received) if self._received else {"error": "the scorer died.", "fault": "scorer"}

    def remove(self) -> None:
        """Remove what was submitted: no later run may find it."""
        shutil.rmtree(self._submitted, ignore_errors=True)

    def _score_and_exit(self, jail: sandbox.Jail, command: sandbox.Jail, pipe: int, parent: int) -> NoReturn:
        """In the process that scores: send what came out, and end."""
        outcome: dict[str, Any] = {}
        try:
            processes.die_with(parent)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            outcome = self._measure(jail, command)
        except ScoringError as error:
            outcome = {"error": str(error), "fault": error.fault, "finding": error.finding}
        except BaseException as error:
            outcome = {"error": f"the scorer failed. {FOR_OWNER}", "fault": "scorer", "finding": f"the scorer failed: {error!r}"[:2000]}
        finally:
            data = json.dumps(outcome).encode()
            while data:
                data = data[os.write(pipe, data) :]
            os._exit(0)

    def _measure(self, jail: sandbox.Jail, command: sandbox.Jail) -> dict[str, Any]:
        spec, scoring = self._spec, self._scoring
        (submitted,) = self._submitted.iterdir()
        if scoring.kind == "predictions":
            return by_predictions(submitted, self._hidden, self._hashes["data"], spec.metric, spec.watched, jail, scoring.max_mb)
        code = Path(scoring.file).resolve()
        measured = by_command(code, submitted, self._hidden, spec.metric, command, scoring.timeout_s)
        if hash_of(code.parent, CODE_BYTES) != self._hashes["scorer"] or hash_of(self._hidden) != self._hashes["data"]:
            raise ScoringError("the scorer or the hidden folder changed while this trained. Launch it again.", "machine")
        return {**measured, "answers": hash_of(self._submitted)}


def _plain_files(source: Path) -> Iterator[Path]:
    """Yield the files of what was submitted.

    Raises:
        ScoringError: one is a link, a pipe or the like.
    """
    pending = [source]
    while pending:
        path = pending.pop()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.chmod(0o700)
            pending += path.iterdir()
        elif stat.S_ISREG(mode):
            path.chmod(0o600)
            yield path
        else:
            raise ScoringError(f"{path.name} must be a plain file, and is a link, a pipe or the like.")
