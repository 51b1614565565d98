"""Predicts which tumours are malignant from 30 measurements, by gradient boosting. The lab measures log loss; lower is better.

It reads train.csv and inputs.csv in $AUTORESEARCH_DATA, and leaves predictions.csv: the probability of class 1 for each row of inputs.csv.
"""

import csv
import os
from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

TREES = 40  # boosting rounds
LEARNING_RATE = 0.02  # shrinks each tree
DEPTH = 3  # of a tree
SUBSAMPLE = 0.6  # share of the rows that each tree sees

DATA = Path(os.environ["AUTORESEARCH_DATA"])
SEED = int(os.environ["AUTORESEARCH_SEED"])


def read(name):
    """Return the ids and the numbers of a table's rows."""
    with (DATA / name).open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [row[0] for row in rows], np.array([[float(cell) for cell in row[1:]] for row in rows])


_, table = read("train.csv")
inputs, labels = table[:, :-1], table[:, -1].astype(int)
model = GradientBoostingClassifier(n_estimators=TREES, learning_rate=LEARNING_RATE, max_depth=DEPTH, subsample=SUBSAMPLE, random_state=SEED)
model.fit(inputs, labels)

ids, unseen = read("inputs.csv")
with Path("predictions.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "probability"])
    writer.writerows(zip(ids, model.predict_proba(unseen)[:, 1]))
