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
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int((each / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
            if parent == server and what in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found
