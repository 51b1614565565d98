"""A cluster whose commands and file system this machine has, as a login node does."""

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath

from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.preparation import prepare_data
from autoresearch_mcp.server.compute.slurm.client import Slurm
from autoresearch_mcp.server.compute.slurm.folder import SharedFolder
from autoresearch_mcp.server.compute.slurm.queue import Queue
from autoresearch_mcp.server.compute.slurm.script import script
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.trainer.protocol import OwnText


class Here:
    """Reaches a cluster from one of its own machines.

    Args:
        section: What lab.toml says of the cluster.
        variables: What each launcher gets beside the node's own environment.
        folder: Where runs lie that the nodes see, in place of the lab's own folder.
        log: Where the messages of a preparation go.
        own: What the profile is made of, where it is of the owner's own text.
    """

    def __init__(self, section: SlurmSection, variables: Mapping[str, str], folder: Path | None, log: Path, own: OwnText | None) -> None:
        cache = {"AUTORESEARCH_CACHE": str(section.shared / "cache")} if section.shared else {}
        self._section, self._folder, self._log, self._own = section, folder, log, own
        self._variables = {**cache, **import_environment(), **variables}

    def missing(self, slurm: Slurm) -> str:
        """Return why no job can be started from here; empty where one can."""
        names = slurm.missing()
        return f"there is no {', '.join(names)} on this machine" if names else ""

    def troubles(self) -> list[str]:
        """Return none: nothing has to be brought to the nodes."""
        return []

    def folder(self, job: Job) -> SharedFolder:
        """Return a job's folder."""
        shared = self._folder / job.id / str(job.attempt) if self._folder else job.directory
        return SharedFolder(job, shared, self._script)

    async def prepare(self, profile: str, secret: Path | None, slurm: Slurm, queue: Queue) -> str:
        """Prepare the data on this machine, where the nodes see it, and return its directory.

        Raises:
            ComputeError: It can't be prepared.
        """
        return await prepare_data(profile, secret, {**os.environ, **self._variables}, self._log, self._own)

    async def tidy(self, needed: Collection[str]) -> None:
        """Do nothing: what a run leaves is removed when it has ended."""

    def _script(self, directory: PurePath) -> str:
        return script(directory, self._section, self._variables, self._section.python or sys.executable)
