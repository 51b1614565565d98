"""Gives code without the contract a world of its own, in which it may do what `python train.py` does (fixed). Linux.

It is made of namespaces, which need no privilege where the kernel allows them to users:

- a file system with nothing but what the jail lists, read-only but for the run's folder, and a /dev/shm that starts empty;
- a network with nothing but its own loopback;
- shared memory, semaphores and queues that no other process can name;
- process ids of its own, and a /proc that tells of no other, where the kernel lets a user mount one (`counts_its_own`). The code then
  descends from two keepers that wait: one outside, whom the supervisor knows, and the first in there, whose end is the end of all.

So workers, pools, queues and process groups work, and still nothing of another run, of the lab or of the machine's user is in reach.
Where the kernel gives no such namespaces, `available` says so, and runs do without: see seccomp.py.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from autoresearch_mcp.trainer.sandbox import processes

_NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000  # CLONE_NEWUSER, NEWNS, NEWNET, NEWIPC
_NEW_PIDS = 0x20000000  # CLONE_NEWPID
_READ_ONLY, _BIND, _REC, _PRIVATE, _NOSUID, _NODEV = 1, 4096, 16384, 1 << 18, 2, 4
_DETACH = 2
_MOUNT_SETATTR, _PIVOT_ROOT = 442, {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = -100, 0x8000, 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SHARED, TEMPORARY = Path("/dev/shm"), Path("/tmp")  # noqa: S108
TEXTS = {  # what names resolve to, for libraries that ask for the machine's own
    "/etc/hosts": "127.0.0.1 localhost {host}\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/passwd": "trainer:x:{uid}:{gid}::/:/bin/sh\n",
    "/etc/group": "trainer:x:{gid}:\n",
}


@lru_cache(maxsize=1)
def available() -> bool:
    """Return whether this machine lets a process have a world of its own. Tries it, once, in a child."""
    return _can(lambda: _mount("tmpfs", Path("/"), "tmpfs"), _NEW)


@lru_cache(maxsize=1)
def counts_its_own() -> bool:
    """Return whether a world may have process ids and a /proc of its own. Containers that hide parts of their /proc don't let it."""

    def mount() -> None:
        child = os.fork()
        if child == 0:
            _exit_by(lambda: _mount("proc", Path("/"), "proc"))
        _check(-os.waitpid(child, 0)[1], "a /proc")

    return available() and _can(mount, _NEW | _NEW_PIDS)


def _can(task: Callable[[], None], namespaces: int) -> bool:
    """Return whether a child with these namespaces can do a task."""
    if os.uname().sysname != "Linux" or os.uname().machine not in _PIVOT_ROOT:
        return False
    child = os.fork()
    if child == 0:

        def attempt() -> None:
            _unshare(namespaces)
            task()

        _exit_by(attempt)
    return os.waitpid(child, 0)[1] == 0


def _exit_by(task: Callable[[], None]) -> NoReturn:
    """End this process: with 0 if the task succeeds."""
    code = 1
    try:
        task()
        code = 0
    finally:
        os._exit(code)


def enter(
    place: Path, read: Iterable[Path], listed: Iterable[Path], write: Sequence[Path], devices: Iterable[Path], shared_mb: int
) -> None:
    """Move this process into a world of its own.

    Args:
        place: an empty folder, where its root is put together.
        read: files and folders that it can read.
        listed: folders of which it sees the name alone.
        write: folders that it can write. Its /tmp is one in the first.
        devices: files below /dev that it can use.
        shared_mb: how much its /dev/shm may hold.

    Raises:
        OSError: it can't be made.
    """
    own_processes = counts_its_own()
    _unshare(_NEW | (_NEW_PIDS if own_processes else 0))
    if own_processes:
        _begin_processes()
    _mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, "mode=755")
    temporary = write[0] / ".tmp"  # by a short name: a socket's path has at most 107 characters; first, as others may lie below
    temporary.mkdir(exist_ok=True)
    _bind(place, TEMPORARY, of=temporary)
    for path in listed:
        _lay(place, path).mkdir(parents=True, exist_ok=True)
    if own_processes:
        _lay(place, Path("/proc")).mkdir(exist_ok=True)
        _mount("proc", place / "proc", "proc", _NOSUID | _NODEV | _READ_ONLY)
    else:
        _bind(place, Path("/proc"))
    for path in sorted({path for path in read if path.exists() and not path.is_relative_to("/proc")}, key=lambda path: len(path.parts)):
        if not _covered(place, path):
            _bind(place, path, read_only=True)
    for path in devices:
        _bind(place, path)
    for path in write:
        _bind(place, path)
    for name, text in TEXTS.items():
        target = _lay(place, Path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_text(text.format(host=socket.gethostname(), uid=os.getuid(), gid=os.getgid()), encoding="utf-8")
    shared = _lay(place, SHARED)
    shared.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", shared, "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={shared_mb}m")
    os.chdir(place)
    _check(_libc().syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", _DETACH), "umount")
    _raise_loopback()


def _begin_processes() -> None:
    """Go on as the second process of a world. Its first waits for it and for orphans; this process stays outside and ends as that one does.

    Neither of the two that wait runs any code but this. Each is killed with the one before it.
    """
    supervisor = os.getppid()
    told, tell = os.pipe()
    first = os.fork()
    if first:
        processes.die_with(supervisor)
        os.dup2(told, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        _end_as(_status_of(first))
    os.close(told)
    processes.die_with(0)  # so its parent counts in here
    if not _is_read(tell):
        os._exit(1)  # that was gone already
    code = os.fork()
    if code:
        os.dup2(tell, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        os.write(0, struct.pack("i", _status_of(code)))
        os._exit(0)
    os.close(tell)
    os.setsid()  # a group whose number it knows


def _is_read(pipe: int) -> bool:
    """Return whether anybody holds the other end of a pipe."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _status_of(child: int) -> int:
    """Wait for all children until this one ends, and return how."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def _end_as(first_status: int) -> NoReturn:
    """End as the code did whose end the first process told, or as that one itself."""
    told = os.read(0, 4)
    status = struct.unpack("i", told)[0] if len(told) == 4 else first_status
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _unshare(namespaces: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    _check(_libc().unshare(namespaces), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    _check(_libc().mount(b"none", b"/", None, _REC | _PRIVATE, None), "a private root")


def _lay(place: Path, path: Path) -> Path:
    """Return where a path of the machine is below the new root. Makes the links on the way, as /bin is one to /usr/bin."""
    here = place
    for part in path.parts[1:]:
        outside = Path("/", here.relative_to(place), part)
        here = here / part
        if outside.is_symlink() and not here.is_symlink():
            here.parent.mkdir(parents=True, exist_ok=True)
            if not here.exists():
                here.symlink_to(outside.readlink())
        if here.is_symlink():
            resolved = Path(os.path.normpath(Path("/", here.parent.relative_to(place)) / here.readlink()))
            here = _lay(place, resolved)
    return here


def _covered(place: Path, path: Path) -> bool:
    """Return whether a folder that was bound already holds this path."""
    inside = _lay(place, path)
    try:
        return os.path.samestat(inside.stat(), path.stat())
    except OSError:
        return False


def _bind(place: Path, path: Path, read_only: bool = False, of: Path | None = None) -> None:
    source = of or path
    target = _lay(place, path)
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, None, _BIND | _REC)
    if read_only:
        attributes = struct.pack("<QQQQ", _ATTR_RDONLY, 0, 0, 0)
        outcome = _libc().syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, attributes, len(attributes))
        _check(outcome, f"{path}, read-only")


def _mount(source: str, target: Path, kind: str | None, flags: int = 0, options: str = "") -> None:
    outcome = _libc().mount(os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, flags, options.encode() or None)
    _check(outcome, f"mounting {target}")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("16xh", fcntl.ioctl(asking, _SIOCGIFFLAGS, request))
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(outcome: int, what: str) -> None:
    if outcome < 0:
        raise OSError(ctypes.get_errno() or errno.EPERM, f"a world of its own could not be made: {what}")
