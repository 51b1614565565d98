"""What the kernel says of processes that tests look at."""

import contextlib
from pathlib import Path


def is_there(pid: int) -> bool:
    """Return whether a process lives."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


def helpers(server: int, answering: type) -> list[int]:
    """Return the processes beside a server that answer for a class."""
    what = f"{answering.__module__}:{answering.__qualname__}".encode()
    listed = Path(f"/proc/{server}/task").glob("*/children")
    children = [int(pid) for each in listed for pid in each.read_text(encoding="ascii").split()]
    return [pid for pid in children if what in Path(f"/proc/{pid}/cmdline").read_bytes()]
