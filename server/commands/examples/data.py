"""Makes the data of the examples from what scikit-learn ships: a public folder for trainings, and a hidden one with the answers."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (0.5, 0.75)  # of the rows: up to the first is training, up to the second validation; the rest is the hidden split
_PARTS = ("validation", "test")


def write_tabular(folder: Path) -> None:
    """Write the measurements of tumours, in a random order, into `public` and `hidden` of a folder."""
    from sklearn.datasets import load_breast_cancer

    loaded = load_breast_cancer()
    inputs, labels = loaded.data, loaded.target
    names = [str(name).replace(" ", "_") for name in loaded.feature_names]
    train, *held_out = _split(len(labels))
    ids = np.char.mod("%d", np.random.default_rng().permutation(len(labels)))
    _write(folder / "public" / "train.csv", ["id", *names, "malignant"], ([ids[n], *inputs[n], 1 - labels[n]] for n in train))
    every = [n for rows in held_out for n in rows]
    _write(folder / "public" / "inputs.csv", ["id", *names], ([ids[n], *inputs[n]] for n in every))
    for part, rows in zip(_PARTS, held_out):
        _write(folder / "hidden" / part / "answers.csv", ["id", "malignant"], ([ids[n], 1 - labels[n]] for n in rows))


def write_images(folder: Path) -> None:
    """Write handwritten digits, in a random order, into `public` and `hidden` of a folder."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images, labels = loaded.images.astype(np.uint8), loaded.target
    train, *held_out = _split(len(labels))
    (folder / "public").mkdir(parents=True)
    np.savez_compressed(folder / "public" / "train.npz", images=images[train], labels=labels[train])
    np.savez_compressed(folder / "public" / "inputs.npz", **{part: images[rows] for part, rows in zip(_PARTS, held_out)})
    for part, rows in zip(_PARTS, held_out):
        (folder / "hidden" / part).mkdir(parents=True)
        np.save(folder / "hidden" / part / "answers.npy", labels[rows])


def _split(count: int) -> Sequence[Any]:
    """Draw which rows are for training, validation and the hidden split; in each lab others."""
    return np.split(np.random.default_rng().permutation(count), [int(share * count) for share in SHARES])


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
