"""A step of the stock train.py against the first version of it, on the CPU profile: CPU time for the same tokens, interleaved in one process."""

import contextlib
import importlib.util
import io
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch

import trainer
from trainer import client, prepare

STEPS = 30
ROUNDS = 5
FILES = {"stock": Path(trainer.__file__).with_name("train.py"), "first": Path(__file__).with_name("first") / "train.py"}


class _Submitted(Exception):
    pass


class _Run:
    """As much of `client.Run` as a training without a launcher needs: a budget of steps, and the CPU time of those after the first."""

    def __init__(self, data: Path) -> None:
        limits = prepare.PROFILES["cpu"]
        self.config = {"device": "cpu", "seq_len": limits.seq_len, "vocab_size": limits.vocab_size, "seed": 1, "profile": "cpu"}
        self._data, self._step, self.losses = data, 0, list[float]()
        self._began = self.each_s = 0.0

    def note(self, **facts: str) -> None:
        pass

    def start(self) -> np.ndarray[Any, Any]:
        return np.fromfile(self._data / "train.bin", dtype=np.uint16)

    def progress(self) -> float:
        return self._step / STEPS

    def log(self, **values: float) -> None:
        self._step = int(values["step"])
        self.losses.append(values["loss"])
        if self._step == 1:
            self._began = time.process_time()
        self.each_s = (time.process_time() - self._began) / max(1, self._step - 1)

    def submit(self, weights: object, config: object) -> NoReturn:
        raise _Submitted


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", FILES[name])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _train(module: ModuleType, data: Path) -> _Run:
    run = _Run(data)
    connect, client.connect = client.connect, lambda: run  # type: ignore[assignment, return-value]
    with contextlib.suppress(_Submitted), contextlib.redirect_stdout(io.StringIO()):
        module.main()
    client.connect = connect
    return run


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    torch.set_num_threads(1)
    data = prepare.prepare("cpu")
    modules = {name: _module(name) for name in FILES}
    times: dict[str, list[float]] = {name: [] for name in FILES}
    for _ in range(ROUNDS):
        for name, module in modules.items():
            times[name].append(_train(module, data).each_s)
    tokens = modules["stock"].BATCH_TOKENS
    ratio = statistics.median(first / stock for first, stock in zip(times["first"], times["stock"]))
    ours, first = (tokens / statistics.median(times[name]) for name in ("stock", "first"))
    return [("tokens a CPU second, stock train.py", f"{ours:,.0f}", f"{first:,.0f} (first version)", f"{ratio:.2f}", "1.3")]
