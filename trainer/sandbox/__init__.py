"""Confines a training and counts what it uses: the jail, its system calls, its processes and its scratch directory."""

from autoresearch_mcp.trainer.sandbox.jail import DESCRIPTORS, PRIVATE, Jail, abi, copies_of, level, seal, separate_users, spawn

__all__ = ["DESCRIPTORS", "PRIVATE", "Jail", "abi", "copies_of", "level", "seal", "separate_users", "spawn"]
