"""Cheats of our own, run through a real lab with the real launcher, scorer and gate: `make attack` prints what became of each."""
