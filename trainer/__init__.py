"""Runs next to the compute: data, the training file that agents edit, and the fixed code that trains and scores it."""
