"""Names the metrics that the lab's own scorer measures of predictions, and measures them with scikit-learn (fixed).

Naming them takes the standard library alone: the server does it too. scikit-learn is imported in the scorer's process only.
"""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Form = Literal["labels", "probabilities", "numbers"]
DIGITS = 4  # after the point, of what is shown of validation; of errors in units of the data: significant ones
SUM_TOLERANCE = 1e-3  # by which a row of probabilities may miss 1


@dataclass(frozen=True)
class Measure:
    """A metric of predictions.

    Attributes:
        goal: which way is better.
        form: what predictions it takes.
        scaled: whether it has the unit of the data, so that only significant digits say how exact it is.
    """

    goal: Literal["min", "max"]
    form: Form
    scaled: bool = False


MEASURES = {
    "accuracy": Measure("max", "labels"),
    "balanced accuracy": Measure("max", "labels"),
    "f1": Measure("max", "labels"),
    "auc": Measure("max", "probabilities"),
    "log loss": Measure("min", "probabilities"),
    "brier": Measure("min", "probabilities"),
    "rmse": Measure("min", "numbers", scaled=True),
    "mae": Measure("min", "numbers", scaled=True),
    "r2": Measure("max", "numbers"),
    "spearman": Measure("max", "numbers"),
}
_OTHER_NAMES = {"acc": "accuracy", "roc auc": "auc", "auroc": "auc", "logloss": "log loss", "brier score": "brier"}


class MeasureError(ValueError):
    """Predictions that can't be measured; the text says what was expected, and nothing of the answers but their number and classes."""


def known(name: str) -> str | None:
    """Return the name in `MEASURES` of a metric, however it is spelled; None where there is none."""
    plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in MEASURES else None


def shown(name: str, value: float) -> float:
    """Return a metric to the digits that agents see."""
    return float(f"{value:.5g}") if MEASURES[name].scaled else round(value, DIGITS)


def count_classes(answers: "np.ndarray[Any, Any]") -> int:
    """Return how many classes 0, 1, 2 ... answers name; 0 where they are something else."""
    if answers.dtype.kind not in "iuf" or answers.ndim != 1 or not len(answers):
        return 0
    whole = bool((answers == answers.round()).all()) and answers.min() >= 0
    return int(answers.max()) + 1 if whole else 0


def check(name: str, predictions: "np.ndarray[Any, Any]", answers: "np.ndarray[Any, Any]", classes: int) -> "np.ndarray[Any, Any]":
    """Bring predictions into the form that a metric takes.

    Args:
        name: of the metric, in `MEASURES`.
        predictions: (rows,) or (rows, columns).
        answers: (rows,).
        classes: how many there are; 0 where the answers are no class numbers.

    Returns:
        Labels or numbers (rows,), or probabilities (rows, classes).

    Raises:
        MeasureError: they don't fit.
    """
    import numpy as np

    form = MEASURES[name].form
    wide = predictions.ndim == 2
    if form == "labels" and wide and classes and predictions.shape[1] == classes:
        return np.asarray(predictions.argmax(1))
    if form == "probabilities" and classes < 2:
        raise MeasureError(f"{name} needs answers that are class numbers 0, 1, 2 ...: the lab's owner has to correct the answers.")
    if form == "probabilities":
        if not wide and classes == 2:
            predictions = np.stack([1 - predictions, predictions], 1)
        if predictions.ndim != 2 or predictions.shape[1] != classes:
            got = f"{predictions.shape[1]} columns" if wide else "1 column"
            one = ", or 1 column with that of class 1" if classes == 2 else ""
            raise MeasureError(f"{name} takes {classes} columns, the probability of each class 0 to {classes - 1}{one}; got {got}.")
        if predictions.min() < 0 or predictions.max() > 1 or abs(predictions.sum(1) - 1).max() > SUM_TOLERANCE:
            raise MeasureError(f"{name} takes probabilities: each from 0 to 1, and those of a row must sum to 1.")
        return np.asarray(predictions / predictions.sum(1, keepdims=True))
    if wide:
        wanted = f", or {classes} with the probability of each class" if form == "labels" and classes else ""
        raise MeasureError(f"{name} takes 1 column{wanted}; got {predictions.shape[1]}.")
    if (predictions.dtype.kind == "U") != (answers.dtype.kind == "U"):
        expected, got = ("text", "numbers") if answers.dtype.kind == "U" else ("numbers", "text")
        raise MeasureError(f"{name} takes {expected}, as the answers are; got {got}.")
    if form == "labels" and classes and (predictions != predictions.round()).any():
        if classes > 2 or predictions.min() < 0 or predictions.max() > 1:
            raise MeasureError(f"{name} takes class numbers 0 to {classes - 1}; got fractions.")
        return np.asarray(predictions > 0.5).astype(float)  # the probability of class 1
    return predictions


def measure(name: str, predictions: "np.ndarray[Any, Any]", answers: "np.ndarray[Any, Any]", classes: int) -> float:
    """Measure predictions.

    Args:
        name: of the metric, in `MEASURES`.
        predictions: as `check` returns them.
        answers: (rows,).
        classes: how many there are; 0 where the answers are no class numbers.

    Raises:
        MeasureError: the metric is not a finite number.
        ImportError: scikit-learn is missing.
    """
    from scipy.stats import spearmanr
    from sklearn import metrics

    labels = list(range(classes))
    average = "binary" if classes == 2 else "macro"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what isn't defined there is no number, and that is said below
        if name == "accuracy":
            value = metrics.accuracy_score(answers, predictions)
        elif name == "balanced accuracy":
            value = metrics.balanced_accuracy_score(answers, predictions)
        elif name == "f1":
            value = metrics.f1_score(answers, predictions, average=average, zero_division=0.0)
        elif name == "auc":
            several = {"multi_class": "ovr", "labels": labels} if classes > 2 else {}
            value = metrics.roc_auc_score(answers, predictions if several else predictions[:, 1], **several)
        elif name == "log loss":
            value = metrics.log_loss(answers, predictions, labels=labels)
        elif name == "brier":
            value = metrics.brier_score_loss(answers, predictions if classes > 2 else predictions[:, 1], labels=labels)
        elif name == "rmse":
            value = metrics.root_mean_squared_error(answers, predictions)
        elif name == "mae":
            value = metrics.mean_absolute_error(answers, predictions)
        elif name == "r2":
            value = metrics.r2_score(answers, predictions)
        else:
            value = spearmanr(answers, predictions).statistic
    if not math.isfinite(value):
        raise MeasureError(f"{name} has no value for these predictions: are all of them equal?")
    return float(value)
