"""Guesses the metric that code prints, from its text."""

import ast
import itertools
import re
from collections.abc import Mapping

from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.trainer.records import METRIC

_MEASURES = (
    r"loss|bpb|ppl|perplexity|error|rmse|mse|mae|mape|acc|accuracy|f1|auc|auroc|r2|bleu|wer|cer|iou|map|dice|reward|return|score|"
    r"log[_ -]?loss|nll|mean[_ ](?:squared|absolute)[_ ]error|mean[_ ]reward|balanced[_ ]accuracy"
)
_METRICS = (  # what is printed, the likeliest first: of held-out data, then without a word of which
    re.compile(rf"""["' (](?P<name>(?:val|valid|validation|test|eval|dev)[_/ ]?(?:{_MEASURES}))["']?\s*[:=\s|,]""", re.IGNORECASE),
    re.compile(rf"""["']\s*(?P<name>{_MEASURES})["']?\s*[:=|,{{%]""", re.IGNORECASE),
)
_ORIGINAL = re.compile(rf"(?<![\w{{.]){METRIC}[\"']?\s*[:=]\s*[{{%\"'\d]")
_CONTRACT = re.compile(rb"\brun\.submit\(|\bautoresearch_|\btrainer(?:\.client\b|\s+import\b[^\n]*\bclient\b)")


def submits(*codes: bytes) -> bool:
    """Return whether a training script keeps the contract, as far as the text of its files shows."""
    return any(b"submit(" in code for code in codes) and any(_CONTRACT.search(code) for code in codes)


def guess(runs: Mapping[str, bytes], path: str, asks: bool = False) -> tuple[str, list[str]]:
    """Return the metric that code seems to print, and words on that; empty where it keeps the contract, or nothing shows.

    Args:
        runs: The texts of the files that run.
        path: That which is started.
        asks: Whether the owner can be asked: then a name that doesn't say of which data is no guess.
    """
    if submits(*runs.values()):
        return "", []
    printed = {at: _printed(code) for at, code in runs.items()}
    if any(_ORIGINAL.search(line) for line in printed[path]):
        return METRIC, []
    looks = [(kind, at) for kind, places in zip(_METRICS, (runs, [] if asks else [path]), strict=True) for at in places]
    found = ((match, at) for kind, at in looks for line in printed[at] for match in kind.finditer(line))
    named = ((match["name"], f"which {at} seems to print") for match, at in found if _is_text(match.string[: match.start("name")]))
    shown = ((name, f"which Keras prints as {at} trains") for at, code in runs.items() if (name := _shown_by_keras(code)))
    name, why = next(itertools.chain(named, shown), ("", ""))
    return name, [f"the metric is {name}, {why}; name another with --metric"] if name else []


def _printed(code: bytes) -> list[str]:
    """Return the lines of code that seem to print."""
    lines = [line for line in code.decode("utf-8", "replace").splitlines() if re.search(r"print|log|info|write", line)]
    return [line for line in lines if "self.log" not in line or "test" in line]  # Lightning prints what it logs of a test


def _is_text(before: str) -> bool:
    """Return whether what follows in a line of code is in quotes: a name that is printed, not a variable's."""
    return before.count('"') % 2 == 1 or before.count("'") % 2 == 1


def _shown_by_keras(code: bytes) -> str:
    """Return the metric of held-out data that Keras prints by itself where code has it train so; empty for none."""
    if b"keras" not in code:
        return ""
    try:
        nodes = list(ast.walk(source.parsed(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    fits = [{each.arg: each.value for each in call.keywords} for call in calls if _called(call) == "fit"]
    shown = [given for given in fits if given.keys() & {"validation_data", "validation_split"} and not _is_zero(given.get("verbose"))]
    metrics = [each.value for call in calls if _called(call) == "compile" for each in call.keywords if each.arg == "metrics"]
    names = [node.value for each in metrics for node in ast.walk(each) if isinstance(node, ast.Constant)]
    accuracy = next((name for name in names if name in ("acc", "accuracy")), "loss")
    return f"val_{accuracy}" if shown else ""


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _is_zero(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value == 0
