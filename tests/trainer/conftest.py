"""Real runs through the real launcher: tiny data made once, and one warm parent for the session."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import prepare, protocol

PACKAGE = Path(prepare.__file__).parent
STOCK = (PACKAGE / "train.py").read_text(encoding="utf-8")

# A bigram model by counting: it trains in milliseconds, and numpy can say what its val_bpb must be.
BIGRAM = """
import numpy as np
import torch
from autoresearch_mcp.trainer import client

class Bigram(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx):
        return self.table(idx)

def build_model(config):
    return Bigram(config["vocab_size"])

def train(run):
    tokens = run.start()
    size = run.config["vocab_size"]
    pairs = tokens[:-1].astype(np.int64) * size + tokens[1:]
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size) + 0.1
    model = Bigram(size)
    model.table.weight.data = torch.from_numpy(np.log(counts)).float()
    run.log(step=1, loss=3.0, tokens=len(tokens))
    return model

if __name__ == "__main__":
    run = client.connect()
    model = train(run)
    # before submit
    run.submit(model.state_dict(), {"vocab_size": run.config["vocab_size"]})
"""


# A trainer leads its session, so the kernel refuses it some calls anyway; what the sandbox refuses shows in a child.
IN_CHILD = """
def in_child(call, *arguments):
    import os
    child = os.fork()
    if child == 0:
        try:
            call(*arguments)
        except PermissionError:
            os._exit(13)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13:
        raise PermissionError("refused to a child")
"""


@dataclass
class Launched:
    """A run that was given to the warm parent."""

    run: Path
    pid: int

    def wait(self, timeout_s: float = 60) -> dict[str, Any]:
        """The result, once the supervisor is gone."""
        wait_for_exit(self.pid, timeout_s)
        result = protocol.read_json(self.run / protocol.RESULT)
        assert result is not None, "the supervisor left no result"
        return result

    @property
    def hidden(self) -> float | None:
        """The score on the hidden split, from the file that only the lab's user can read."""
        path = self.run / protocol.HIDDEN
        assert not path.exists() or path.stat().st_mode & 0o077 == 0
        assert "test_bpb" not in (self.run / protocol.RESULT).read_text(encoding="utf-8")
        return protocol.read_hidden(self.run)

    @property
    def log(self) -> str:
        return (self.run / protocol.LOG).read_text(encoding="utf-8")

    def until(self, phase: str, timeout_s: float = 30) -> None:
        until(lambda: (protocol.read_json(self.run / protocol.PROGRESS) or {}).get("phase") == phase, timeout_s)


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        select.select([], [], [], 0.01)


def wait_for_exit(pid: int, timeout_s: float = 60) -> None:
    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, timeout_s)


def processes_in(run: Path) -> list[int]:
    """Processes that work in a run's scratch directory, which only its trainer and model servers do."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(run):
                pids.append(int(entry.name))
        except OSError:
            continue
    return pids


class Warm:
    """A warm parent, and a way to make run directories for it."""

    profile = "tiny"

    def __init__(
        self,
        data: Path,
        root: Path,
        environment: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "autoresearch_mcp.trainer.launch"),
    ) -> None:
        self._data, self._root, self._made = data, root, 0
        self.process = subprocess.Popen(
            [sys.executable, *program, "--warm"],
            cwd=PACKAGE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **(environment or {})},
        )

    def directory(self, code: str, budget_s: float = 5.0, seed: int = 0, files: dict[str, str] | None = None) -> Path:
        self._made += 1
        run = self._root / f"run-{self._made}"
        (run / protocol.CODE).mkdir(parents=True)
        for name, text in {"train.py": code, **(files or {})}.items():
            (run / protocol.CODE / name).parent.mkdir(exist_ok=True)
            (run / protocol.CODE / name).write_text(text, encoding="utf-8")
        spec = protocol.Spec(run.name, seed, self.profile, budget_s, 1, str(self._data))
        protocol.write_json(run / protocol.SPEC, spec)
        return run

    def ask(self, run: Path) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{run}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def launch(self, code: str, budget_s: float = 5.0, seed: int = 0, files: dict[str, str] | None = None) -> Launched:
        run = self.directory(code, budget_s, seed, files)
        return Launched(run, self.ask(run)["pid"])

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare.prepare("tiny", tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def warm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    parent = Warm(data, tmp_path_factory.mktemp("runs"), {"SECRET_TOKEN": "hunter2"})
    yield parent
    parent.close()


SEALED = """
from dataclasses import replace
from autoresearch_mcp.trainer import launch, prepare

prepare.PROFILES["tiny"] = replace(prepare.PROFILES["tiny"], sealed=True)
launch.main()
"""


@pytest.fixture(scope="session")
def sealed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A warm parent whose scorer leaves logits where the model runs, as on a GPU."""
    parent = Warm(data, tmp_path_factory.mktemp("sealed"), program=("-c", SEALED))
    yield parent
    parent.close()
