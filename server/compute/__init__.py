"""Where trainings run: one small interface in `base.py`, one file a backend."""
