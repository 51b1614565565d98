"""Deeplake tables in the lab's own folder."""
