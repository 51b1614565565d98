"""Scores what code without the contract left, as the owner says: by predictions, or by a file of the owner's."""
