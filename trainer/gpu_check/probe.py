"""Questions that need torch and the device, each answered by a process of its own: `python -m ...gpu_check.probe QUESTION`.

The check itself never touches CUDA, so that nothing of it is on the card while something is measured. An answer is one line of JSON.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from autoresearch_mcp.trainer import prepare
from autoresearch_mcp.trainer.gpu_check import profiles

if TYPE_CHECKING:
    import numpy as np
    import torch

MARK = 0x5EC2E7_5EC2E7_5E  # a word that memory holds by no accident
DECOYS, TWINS = 256, 8  # as many as the scorer asked when this was written; the spread is of single gaps
CPU_ROWS = 4


def facts() -> dict[str, Any]:
    """Describe torch and the card, and time the import of torch."""
    began = time.perf_counter()
    import torch

    import_s = time.perf_counter() - began
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    answer: dict[str, Any] = {
        "torch": torch.__version__,
        "built_for": torch.version.cuda,
        "available": available,
        "warning": " ".join(str(warning.message) for warning in caught),
        "triton": importlib.util.find_spec("triton") is not None,
        "import_s": import_s,
        "name": "",
        "capability": None,
        "total_mb": 0,
        "free_mb": 0,
    }
    if available:
        free, total = torch.cuda.mem_get_info()
        answer |= {"name": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
        answer |= {"total_mb": total / 1e6, "free_mb": free / 1e6}
    return answer


def spread(device: str, profile: str, data: Path, submission: Path) -> dict[str, Any]:
    """Measure how far honest answers of one model lie apart: in another place of the batch, with another future, on the CPU.

    Args:
        device: where the model answers.
        profile: whose rows it answers.
        data: directory of the prepared data.
        submission: directory with the weights and the config of a stock model.
    """
    import numpy as np
    import torch

    limits = prepare.PROFILES[profile]
    config = json.loads((submission / "config.json").read_text(encoding="utf-8"))
    model = _stock_model(config, submission / "model.safetensors", device)
    tokens = np.fromfile(data / "val.bin", dtype=np.uint16).astype(np.int64)
    random = np.random.default_rng(0)
    count = -(-(DECOYS + TWINS) // limits.eval_rows) * limits.eval_rows  # full batches, as the scorer asks
    starts = random.integers(len(tokens) - limits.seq_len - 1, size=count)
    rows = np.stack([tokens[start : start + limits.seq_len + 1] for start in starts])
    contexts, targets = rows[:, :-1], rows[:, 1:]
    splits = random.integers(limits.seq_len - 1, size=count)
    splits[DECOYS:] = limits.seq_len - 1
    again = contexts.copy()
    for row, split in enumerate(splits):
        again[row, split + 1 :] = contexts[random.integers(count), split + 1 :]
    order = random.permutation(count)
    first = _log_probabilities(model, contexts, targets, limits.eval_rows, device)
    second = np.empty_like(first)
    second[order] = _log_probabilities(model, again[order], targets[order], limits.eval_rows, device)
    gaps = np.concatenate([abs(first[row, : split + 1] - second[row, : split + 1]) for row, split in enumerate(splits)])
    exact = _stock_model({**config, "dtype": "float32", "attention": "sdpa"}, submission / "model.safetensors", "cpu")
    there = _log_probabilities(exact, contexts[:CPU_ROWS], targets[:CPU_ROWS], CPU_ROWS, "cpu")
    apart = first[:CPU_ROWS] - there
    widths = np.load(data / prepare.TOKEN_BYTES)[targets[:CPU_ROWS]]
    return {
        "gaps": int(gaps.size),
        "largest": float(gaps.max()),
        "p999": float(np.quantile(gaps, 0.999)),
        "mean_at_splits": float(np.mean([second[row, split] - first[row, split] for row, split in enumerate(splits)])),
        "cpu_largest": float(abs(apart).max()),
        "cpu_bpb": float(-apart[widths > 0].sum() / math.log(2) / widths.sum()),
        "dtype": config.get("dtype", ""),
        "torch_threads": torch.get_num_threads(),
    }


def _stock_model(config: dict[str, Any], weights: Path, device: str) -> "torch.nn.Module":
    from safetensors.torch import load_file

    spec = importlib.util.spec_from_file_location("train", Path(prepare.__file__).with_name("train.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.build_model(config)
    model.load_state_dict(load_file(weights))
    return model.to(device).eval()


def _log_probabilities(
    model: "torch.nn.Module", contexts: "np.ndarray[Any, Any]", targets: "np.ndarray[Any, Any]", at_once: int, device: str
) -> "np.ndarray[Any, Any]":
    """Return the log-probability in nats of each target (rows, positions), a batch at a time as in scoring."""
    import numpy as np
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(contexts), at_once):
            batch = torch.from_numpy(contexts[start : start + at_once]).to(device)
            wanted = torch.from_numpy(targets[start : start + at_once]).to(device).unsqueeze(-1)
            parts.append(torch.log_softmax(model(batch).float(), -1).gather(-1, wanted).squeeze(-1).double().cpu().numpy())
    return np.concatenate(parts)


def marks(device: str, left_mb: int, size_mb: int) -> dict[str, Any]:
    """Have a process fill memory with a mark and die, then look for the mark in uninitialised memory.

    Args:
        device: whose memory.
        left_mb: as much is filled.
        size_mb: as much is looked at, or as much as there is.
    """
    import torch

    if (pid := os.fork()) == 0:
        _leave_mark(device, left_mb)
    left = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    held, looked, marks, other = list[torch.Tensor](), 0, 0, 0
    piece = min(size_mb, 1024)
    try:
        while len(held) * piece < size_mb:
            held.append(torch.empty(((piece << 20) // 8,), dtype=torch.int64, device=device))
            marks += int((held[-1] == MARK).sum())
            other += int((held[-1] != 0).sum())
            looked += piece
    except RuntimeError:  # out of memory: all of it was looked at
        pass
    return {"left": left, "looked_mb": looked, "marks": marks, "not_zero": other}


def _leave_mark(device: str, size_mb: int) -> NoReturn:
    """Fill memory of the device with a mark, and die without freeing it."""
    import torch

    status = 1
    try:
        marked = torch.full(((size_mb << 20) // 8,), MARK, dtype=torch.int64, device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        status = int(marked[-1] != MARK)
    finally:
        os._exit(status)  # no destructor runs


def main() -> None:
    """Run the command line."""
    profiles.register()
    parser = argparse.ArgumentParser(
        prog="python -m autoresearch_mcp.trainer.gpu_check.probe", description=(__doc__ or "").partition("\n")[0]
    )
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("facts", help="torch and the card")
    question = questions.add_parser("spread", help="how far honest answers lie apart")
    for name, kind in (("device", str), ("profile", str), ("data", Path), ("submission", Path)):
        question.add_argument(name, type=kind)
    question = questions.add_parser("marks", help="look for what a dead process left in memory")
    question.add_argument("device")
    for name in ("left_mb", "size_mb"):
        question.add_argument(name, type=int)
    arguments = vars(parser.parse_args())
    asked: dict[str, Callable[..., dict[str, Any]]] = {"facts": facts, "spread": spread, "marks": marks}
    answer = asked[arguments.pop("question")](**arguments)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
