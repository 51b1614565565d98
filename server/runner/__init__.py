"""The second process of a lab: it drives experiments and writes the log."""
