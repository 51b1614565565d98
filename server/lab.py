"""The lab's use cases, one method a tool. Knows no MCP: whoever calls it gets models back or a `LabError`.

Every method is synchronous, thread-safe and short (it waits for disks, never for trainings); callers with an event
loop run them in a worker thread.
"""

from pathlib import Path
from typing import Any, Literal

from . import answers as a
from .models import MemoryKind


class Lab:
    """An opened lab.

    Raises:
        LabError: `not_a_lab`, `newer_lab`, `bad_settings`, `read_only`: with what to do.
    """

    def __init__(self, root: Path) -> None: ...
    def close(self) -> None: ...
    def status(self) -> a.StatusAnswer: ...
    def read_file(self, path: str = "train.py", commit: str | None = None, first_line: int = 1, max_lines: int = 800) -> a.FileAnswer: ...
    def propose_patch(
        self,
        hypothesis: str,
        author: str,
        diff: str | None = None,
        edits: list[dict[str, str]] | None = None,  # {"path", "search", "replace"}
        files: dict[str, str] | None = None,  # path -> whole new text
        base: str | None = None,
        tags: list[str] | None = None,
    ) -> a.ProposalAnswer: ...
    def launch_training(
        self, commit: str, author: str, replicates: int = 1, device: str | None = None, idempotency_key: str | None = None, tags: list[str] | None = None
    ) -> a.LaunchAnswer: ...
    def states(self, ids: list[str]) -> list[a.ExperimentLine]: ...  # cheap; wait_for_experiments polls it; LabError unknown_experiment
    def changes(self) -> int: ...  # a number that grows whenever another process changed the ledger: poll this (microseconds), then states()
    def get_experiment(self, id: str) -> a.ExperimentAnswer: ...
    def read_log(
        self, id: str, mode: Literal["tail", "head", "grep", "window"] = "tail", lines: int = 60, pattern: str | None = None, first_line: int | None = None
    ) -> str: ...  # fenced as data, attributed, capped at 20,000 characters
    def cancel_experiment(self, id: str, author: str) -> a.CancelAnswer: ...
    def query_experiments(
        self,
        state: list[str] | None = None,
        commit: str | None = None,
        author: str | None = None,
        tag: str | None = None,
        min_val_bpb: float | None = None,
        max_val_bpb: float | None = None,
        text: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order_by: str = "created_at",
        descending: bool = True,
        columns: list[str] | None = None,
        group_by: Literal["state", "commit", "author", "device", "failure"] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> a.QueryAnswer: ...
    def write_memory(
        self,
        kind: MemoryKind,
        text: str,
        author: str,
        tags: list[str] | None = None,
        experiments: list[str] | None = None,
        commits: list[str] | None = None,
        supersedes: list[str] | None = None,
        contradicts: list[str] | None = None,
    ) -> a.MemoryAnswer: ...
    def search_memory(
        self,
        query: str = "",
        kind: MemoryKind | None = None,
        tag: str | None = None,
        author: str | None = None,
        experiment: str | None = None,
        since: float | None = None,
        limit: int = 10,
    ) -> a.SearchAnswer: ...
    def promote_commit(self, commit: str, author: str, approved_by: str | None = None) -> a.PromoteAnswer: ...  # approved_by: who said yes, where lab.toml wants approval
    def plot_progress(self) -> a.ProgressPicture: ...
    def diff(self, commit: str) -> str: ...  # resource commit://{sha}/diff: unified diff against its base, fenced, capped
