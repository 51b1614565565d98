"""Trainings in Modal sandboxes."""
