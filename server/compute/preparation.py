"""Prepares the data of a profile on this machine, in a process of its own. Every backend whose trainings read it from a folder does it so."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.secret import ensure
from autoresearch_mcp.trainer.protocol import OwnText

_DOWNLOADING = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
_INTERRUPT_S = 5.0  # for a preparation to tidy up


async def prepare_data(profile: str, secret: Path | None, environment: Mapping[str, str], log: Path, own: OwnText | None = None) -> str:
    """Prepare data and tokenizer, or find them prepared. Cancelling the call ends the work.

    Args:
        profile: A name in `autoresearch_mcp.trainer.prepare`.
        secret: The file with the lab's secret, made if it is missing; None for the public split.
        environment: Of the process, but for the proxies that it downloads by. A proxy's password is not for trainings.
        log: Where its messages go.
        own: What the profile is made of, where it is of the owner's own text.

    Returns:
        The directory of the data.

    Raises:
        ComputeError: The data can't be prepared, or no process can be started.
    """
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.prepare", profile]
    if own is not None:
        command += ["--own", json.dumps(asdict(own))]
    if secret is not None:
        try:
            command += ["--secret", str(ensure(secret))]
        except OSError as error:
            raise ComputeError(f"The lab's secret can't be written to {secret}: {error.strerror}.") from error
    online = {name: os.environ[name] for name in _DOWNLOADING if name in os.environ}
    try:
        with log.open("ab") as messages:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                env={**environment, **online},
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise ComputeError(f"The data's preparation could not be started: {error}.") from error
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        await _interrupt(process)
        raise
    if process.returncode != 0:
        raise ComputeError(f"The training data could not be prepared. {hint(log)}")
    return out.decode().strip().splitlines()[-1]


def hint(log: Path) -> str:
    """Return the last line of the launchers' log, with what usually mends it."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = f"The launcher's last line was: {lines[-1][:400]}." if lines else "The launcher printed nothing."
    return f"{last} Are the trainer's packages installed (`pip install 'autoresearch-mcp[local]'`)? See {log.name}."


async def _interrupt(process: asyncio.subprocess.Process) -> None:
    """End a process and its helpers; first give it a moment to remove half-written files."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_INTERRUPT_S):
                await process.wait()
            return
