"""Confines a training and counts what it uses: the jail, its system calls, its processes and its scratch directory."""

from autoresearch_mcp.trainer.sandbox.jail import DESCRIPTORS, PRIVATE, Jail, abi, copies_of, level, seal, separate_users, spawn
from autoresearch_mcp.trainer.sandbox.seccomp import stay_alone

__all__ = ["DESCRIPTORS", "PRIVATE", "Jail", "abi", "copies_of", "level", "seal", "separate_users", "spawn", "stay_alone"]
