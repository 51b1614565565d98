"""Trainings as processes of this machine."""
