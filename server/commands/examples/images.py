"""Reads handwritten digits of 8 by 8 pixels with a small network. The lab measures accuracy; higher is better.

It reads train.npz and inputs.npz in $AUTORESEARCH_DATA, and leaves predictions.npz: a label for each image, of validation and of test.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

WIDTH = 16  # of the hidden layer
STEPS = 150
BATCH = 64
LEARNING_RATE = 0.1
MOMENTUM = 0.0

DATA = Path(os.environ["AUTORESEARCH_DATA"])
torch.manual_seed(int(os.environ["AUTORESEARCH_SEED"]))

train = np.load(DATA / "train.npz")
images, labels = torch.from_numpy(train["images"]).float() / 16, torch.from_numpy(train["labels"]).long()

model = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
for _ in range(STEPS):
    batch = torch.randint(len(images), (BATCH,))
    loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"training loss: {loss.item():.4f}")

unseen = np.load(DATA / "inputs.npz")
with torch.no_grad():
    np.savez("predictions.npz", **{part: model(torch.from_numpy(unseen[part]).float() / 16).argmax(1).numpy() for part in unseen.files})
