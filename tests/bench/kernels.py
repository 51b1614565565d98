"""The stock train.py against the first version of it, on the CPU profile: CPU time and loss for the same tokens, interleaved in one process.

Single runs part within a few steps, because Adam's first steps are signs of gradients near zero; over seeds their losses must agree.
"""

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

from autoresearch_mcp import trainer
from autoresearch_mcp.trainer import client, prepare

STEPS = 240
LAST = 40  # steps whose loss is compared
ROUNDS = 4  # a seed each
FILES = {"stock": Path(trainer.__file__).with_name("train.py"), "first": Path(__file__).with_name("first") / "train.py"}


class _Submitted(Exception):
    pass


class _Run:
    """As much of `client.Run` as a training without a launcher needs: a budget of steps, and the CPU time of those after the first."""

    def __init__(self, data: Path, seed: int) -> None:
        limits = prepare.PROFILES["cpu"]
        self.config = {"device": "cpu", "seq_len": limits.seq_len, "vocab_size": limits.vocab_size, "seed": seed, "profile": "cpu"}
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


def _train(module: ModuleType, data: Path, seed: int) -> _Run:
    run = _Run(data, seed)
    connect, client.connect = client.connect, lambda: run  # type: ignore[assignment, return-value]
    with contextlib.suppress(_Submitted), contextlib.redirect_stdout(io.StringIO()):
        module.main()
    client.connect = connect
    return run


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    torch.set_num_threads(1)
    data = prepare.prepare("cpu")
    modules = {name: _module(name) for name in FILES}
    runs: dict[str, list[_Run]] = {name: [] for name in FILES}
    for seed in range(1, ROUNDS + 1):
        for name, module in modules.items():
            runs[name].append(_train(module, data, seed))
    tokens = modules["stock"].BATCH_TOKENS
    ratio = statistics.median(first.each_s / stock.each_s for first, stock in zip(runs["first"], runs["stock"]))
    speed, loss = {}, {}
    for name in FILES:
        speed[name] = tokens / statistics.median(run.each_s for run in runs[name])
        loss[name] = [statistics.mean(run.losses[-LAST:]) for run in runs[name]]
    apart = [stock - first for stock, first in zip(loss["stock"], loss["first"])]
    error = statistics.stdev(apart) / ROUNDS**0.5
    return [
        ("tokens a CPU second, stock train.py", f"{speed['stock']:,.0f}", f"{speed['first']:,.0f} (first version)", f"{ratio:.2f}", "1.3"),
        (
            f"loss after the same {STEPS * tokens:,} tokens, nats",
            f"{statistics.mean(loss['stock']):.3f}",
            f"{statistics.mean(loss['first']):.3f} (first version)",
            f"{statistics.mean(apart):+.3f} ± {error:.3f}",
            "0 within 2 errors",
        ),
    ]
