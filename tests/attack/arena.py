"""A real lab to attack: its own server, asked as agents ask it, its own runner, the real launcher, scorer and gate.

A person has to approve promotions here, and nobody does. So the champion stays, and what the gate lets through is known by its verdict.
"""

import base64
import contextlib
import json
import lzma
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcp import Client

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.trainer import prepare

BASE = Path(__file__).with_name("base.py")
CHEATS = Path(__file__).with_name("cheats")
CHAMPION_RUNS = 4
LET_THROUGH = "awaiting_approval"
END = '\n\nif __name__ == "__main__":\n'
BUDGET_S = 2.0
UNDESERVED = 0.01  # bits per byte; an attack of one run must gain less, as the gate isn't asked about one run


@dataclass
class Outcome:
    """What became of an attack.

    Attributes:
        promoted: whether the gate let it through.
        leaked: whether it reached what it must not reach.
        gain: by how much its runs were better than the champion's, in bits per byte; None where no run has a number.
        noticed: what refused it, or what was noticed of it.
    """

    promoted: bool = False
    leaked: bool = False
    gain: float | None = None
    noticed: str = ""

    @property
    def got_through(self) -> bool:
        """Return whether the attack did what it was for."""
        return self.promoted or self.leaked


@dataclass
class Candidate:
    """A proposed cheat and its runs."""

    commit: str = ""
    refusal: str = ""
    experiments: list[str] = field(default_factory=list)


class Refused(Exception):
    """A tool answered with an error; the text is what it said."""


class Arena:
    """A lab under attack, and the calls of an agent in it."""

    def __init__(self, root: Path, client: Client) -> None:
        self.root = root
        self.paths = LabPaths(root)
        self.client = client
        self.champion = ""
        self.salt = 0  # of cheats that draw their luck: another one draws anew
        self.patient = False  # whether to train what the gate leaves open until it decides

    @property
    def base(self) -> str:
        """Return the champion's code."""
        return BASE.read_text(encoding="utf-8")

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and return its structured answer, or its text under `text`.

        Raises:
            Refused: the tool answered with an error.
        """
        result = await self.client.call_tool(tool, arguments)
        text = "\n".join(getattr(block, "text", "") for block in result.content)
        if result.is_error:
            raise Refused(text)
        return dict(result.structured_content or {}, text=text)

    def cheat(self, name: str, **changes: str) -> str:
        """Return the champion's code with a cheat's put before its end.

        Args:
            name: of the file in cheats/.
            changes: texts for the `NAME = ...` lines of the cheat.
        """
        code = (CHEATS / f"{name}.py").read_text(encoding="utf-8")
        code = code.partition('"""\n')[2].replace("SALT = 0", f"SALT = {self.salt}")
        for constant, value in changes.items():
            line = next(line for line in code.splitlines() if line.startswith(f"{constant} = "))
            code = code.replace(line, f"{constant} = {value}")
        before, end, after = self.base.rpartition(END)
        return f"{before}\n\n{code.strip()}\n{end}{after}"

    async def propose(self, code: str, what: str, author: str = "mallory") -> Candidate:
        """Propose a whole train.py."""
        try:
            answer = await self.call("propose_patch", hypothesis=f"An attack: {what}.", files={"train.py": code}, author=author)
        except Refused as refusal:
            return Candidate(refusal=str(refusal))
        return Candidate(answer["commit"])

    async def launch(self, candidate: Candidate, replicates: int, author: str = "mallory") -> None:
        """Launch replicates of a candidate that was not refused."""
        if candidate.commit:
            answer = await self.call("launch_training", commit=candidate.commit, replicates=replicates, author=author)
            candidate.experiments += answer["experiments"]

    async def wait(self, experiments: list[str]) -> list[dict[str, Any]]:
        """Return the lines of experiments, when all have ended."""
        lines: list[dict[str, Any]] = []
        for start in range(0, len(experiments), 16):
            answer: dict[str, Any] = {"done": False}
            while not answer["done"]:
                answer = await self.call("wait_for_experiments", ids=experiments[start : start + 16], timeout_s=45)
            lines += answer["experiments"]
        return lines

    async def line(self, experiment: str) -> dict[str, Any]:
        """Return all that an agent is told of an experiment."""
        return await self.call("get_experiment", id=experiment, include=["curve", "log", "versions"])

    async def judge(self, candidate: Candidate) -> Outcome:
        """Ask for a candidate's promotion when its runs have ended, and say what came of it."""
        if candidate.refusal:
            return Outcome(noticed=f"proposal refused: {_short(candidate.refusal)}")
        lines = await self.wait(candidate.experiments)
        values = [line["val_bpb"] for line in lines if line.get("val_bpb") is not None]
        gain = self.level() - sum(values) / len(values) if values else None
        verdict = await self._verdict(candidate.commit)
        if verdict["code"] == "champion" or (self.patient and verdict["code"] == "continue" and len(lines) > 1):
            launched = await self.call("launch_training", commit=candidate.commit, until="decided", author="mallory")
            await self.wait([launched["until_decided"]])
            verdict = await self._verdict(candidate.commit)
        failures = [line for line in lines if line["state"] not in ("finished", "cancelled")]
        noticed = f"{verdict['code']}: {verdict['reason']}"
        if failures:
            failure = (await self.line(failures[0]["id"])).get("failure") or {}
            why = "" if len(lines) == 1 else f"{verdict['code']}; "
            noticed = f"{why}{len(failures)} of {len(lines)} {failure.get('kind', failures[0]['state'])}: {failure.get('message', '')}"
        alone = len(lines) == 1 and gain is not None and gain > UNDESERVED
        if len(lines) == 1 and not failures and not alone:
            noticed = "scored like any other model"
        return Outcome(verdict["code"] == LET_THROUGH, alone, gain, _short(noticed))

    async def _verdict(self, commit: str) -> dict[str, Any]:
        try:
            return dict((await self.call("promote_commit", commit=commit, author="mallory"))["verdict"])
        except Refused as refusal:
            return {"code": "refused", "reason": str(refusal)}

    def level(self) -> float:
        """Return the champion's mean."""
        with contextlib.closing(Ledger(self.paths.ledger)) as ledger:
            values = [score.val_bpb for score in ledger.scores(Repo(self.root).resolve(self.champion)) if score.val_bpb is not None]
        return sum(values) / len(values)

    def hidden(self, commit: str) -> float | None:
        """Return a commit's mean on the hidden split, which only the owner knows."""
        with contextlib.closing(Ledger(self.paths.ledger)) as ledger:
            values = [score.test_bpb for score in ledger.scores(Repo(self.root).resolve(commit)) if score.test_bpb is not None]
        return sum(values) / len(values) if values else None

    def data(self, split: str) -> "np.ndarray[Any, Any]":
        """Return the tokens of a split of this lab's data, as if somebody had betrayed them."""
        spec = next(iter((self.paths.state / "runs").glob("*/*/spec.json")))
        return np.fromfile(Path(json.loads(spec.read_text("utf-8"))["data"]) / f"{split}.bin", np.uint16)

    def untrained(self) -> "np.ndarray[Any, Any]":
        """Return the public text that no training of this lab reads: what agents know of the held-out text, as trainings see all the rest."""
        first = prepare.PROFILES["tiny"].vocab_size - 1
        everything = np.concatenate([np.fromfile(prepare.prepare("tiny") / f"{split}.bin", np.uint16) for split in prepare.SPLITS])
        trained = {document.tobytes() for document in _documents(self.data("train"), first)}
        rest = [document for document in _documents(everything, first) if document.tobytes() not in trained]
        return np.concatenate([rest[number] for number in np.random.default_rng(0).permutation(len(rest))])

    def known_rows(self) -> str:
        """Return the beginnings of the validation rows, as a set of hashes in Python."""
        tokens = self.data("val").astype(int)
        length = prepare.PROFILES["tiny"].seq_len + 1
        return repr({hash(tuple(row[:8])) for row in tokens[: len(tokens) // length * length].reshape(-1, length).tolist()})

    @staticmethod
    def packed(tokens: "np.ndarray[Any, Any]") -> bytes:
        """Return tokens as small as Python's standard library makes them, as text."""
        return base64.b85encode(lzma.compress(tokens.astype(np.uint16).tobytes(), preset=9))

    def log(self, experiment: str) -> str:
        """Return all that an experiment printed, as its owner sees it."""
        return "".join(path.read_text("utf-8", "replace") for path in sorted((self.paths.state / "runs" / experiment).glob("*/run.log")))


def _documents(tokens: "np.ndarray[Any, Any]", first: int) -> "list[np.ndarray[Any, Any]]":
    return np.split(tokens, np.flatnonzero(tokens == first)[1:])


def _short(text: str) -> str:
    return " ".join(text.split())[:110]


def _make_lab(scratch: Path, changes: dict[str, str], name: str) -> Path:
    origin, root = scratch / f"{name}-origin", scratch / name
    origin.mkdir()
    (origin / "train.py").write_text(BASE.read_text(encoding="utf-8"), encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "A model"]):
        subprocess.run(["git", "-C", origin, *command], check=True)
    create_lab(root, origin, "tiny", BUDGET_S)
    text = (root / "lab.toml").read_text(encoding="utf-8")
    for old, new in {'approval = "none"': 'approval = "human"', **changes}.items():
        assert old in text, f"lab.toml has no {old!r}"
        text = text.replace(old, new)
    (root / "lab.toml").write_text(text, encoding="utf-8")
    return root


@contextlib.asynccontextmanager
async def arena(scratch: Path, changes: dict[str, str] | None = None, name: str = "lab") -> AsyncIterator[Arena]:
    """Make a lab with the champion `base.py`, measured, and end its runner afterwards.

    Args:
        scratch: where the lab is made.
        changes: texts of lab.toml, and by what to replace them.
        name: of the lab.
    """
    root = _make_lab(scratch, changes or {}, name)
    try:
        with contextlib.closing(Lab(root)) as lab:
            async with Client(build_server(lab)) as client:
                it = Arena(root, client)
                it.champion = lab.champion()  # answers cut ids short
                yield it
    finally:
        stop_runner(LabPaths(root).state)


async def measured(it: Arena) -> None:
    """Train the champion as often as the gate wants it."""
    champion = Candidate(it.champion)
    await it.launch(champion, CHAMPION_RUNS, "owner")
    lines = await it.wait(champion.experiments)
    assert all(line["state"] == "finished" for line in lines), [line for line in lines if line["state"] != "finished"][:1]
