"""Where a lab keeps its files. Every name in a lab's root and in its state folder is spelled here, and nowhere else."""

from dataclasses import dataclass
from pathlib import Path

SETTINGS = "lab.toml"
STATE = ".autoresearch"


@dataclass(frozen=True)
class StatePaths:
    """The files of a lab's state folder.

    Attributes:
        state: the folder itself.
    """

    state: Path

    @property
    def root(self) -> Path:
        """The lab's directory."""
        return self.state.parent

    @property
    def ignore(self) -> Path:
        """Keeps the folder out of git."""
        return self.state / ".gitignore"

    @property
    def ledger(self) -> Path:
        """The SQLite file of what is happening."""
        return self.state / "ledger.sqlite"

    @property
    def secret(self) -> Path:
        """What draws the lab's held-out split. Only the lab's user can read it."""
        return self.state / "heldout.secret"

    @property
    def lake(self) -> Path:
        """The folder with the tables of what has ended."""
        return self.state / "lake"

    @property
    def sql(self) -> Path:
        """The folder with the rows that statements in SQL read, while they do."""
        return self.state / "sql"

    @property
    def runs(self) -> Path:
        """The folder with a folder for each experiment."""
        return self.state / "runs"

    def run(self, experiment: str, attempt: int) -> Path:
        """Return the run directory of one attempt of an experiment."""
        return self.runs / experiment / str(attempt)

    @property
    def smoke_lock(self) -> Path:
        """Held by a smoke start."""
        return self.state / "smoke.lock"

    @property
    def short_runs(self) -> Path:
        """The folder with a folder for each short run, while it lasts."""
        return self.state / "short-runs"

    @property
    def git(self) -> Path:
        """What git's own server looks at: the lab's repository, with the champion as its HEAD, and our hook."""
        return self.state / "git"

    @property
    def try_lock(self) -> Path:
        """Held while something is tried."""
        return self.state / "try.lock"

    @property
    def runner_lock(self) -> Path:
        """Held by the lab's runner, and holds its process id."""
        return self.state / "runner.lock"

    @property
    def runner_log(self) -> Path:
        """Everything that runners wrote to their output."""
        return self.state / "runner.log"

    @property
    def runner_starts(self) -> Path:
        """Counts how often the runner was started since it last got to work."""
        return self.state / "runner.starts"

    @property
    def runner_health(self) -> Path:
        """What the runner that lives tells servers about itself."""
        return self.state / "runner.json"

    @property
    def promotion_lock(self) -> Path:
        """Held while the champion moves."""
        return self.state / "promote.lock"

    @property
    def deployment(self) -> Path:
        """The record of what `setup modal` made."""
        return self.state / "modal.json"

    @property
    def keep_going(self) -> Path:
        """The owner's permission that a client's session goes on by itself."""
        return self.state / "keep-going.json"

    @property
    def slurm(self) -> Path:
        """The record of what tells this lab's jobs on a Slurm cluster from others."""
        return self.state / "slurm.json"

    @property
    def ssh(self) -> Path:
        """The record of what tells this lab's runs on its hosts from others, and what their data must be."""
        return self.state / "ssh.json"

    def server_log(self, name: str) -> Path:
        """Return the log of a server that the demo started for the agent `name`."""
        return self.state / f"server-{name}.log"


class LabPaths(StatePaths):
    """The files of a lab: those of its state folder, and its settings.

    Args:
        root: the lab's directory, a git repository.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root / STATE)

    @property
    def settings(self) -> Path:
        """The lab's settings."""
        return self.root / SETTINGS
