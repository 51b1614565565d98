"""Confines code that agents wrote: it runs in a forked child that has nothing but what it was given (fixed).

What is covered:

- Landlock (Linux 5.13 or newer): no file outside the lists, no TCP (ABI 4), no signals and no abstract sockets to the outside (ABI 6).
- Seccomp: only the system calls that a training needs, see seccomp.py. Sockets, shared memory, other processes, marks on files, and
  what the kernel counts for all of a user's processes are out of reach.
- In a container of our own, whose kernel may lack Landlock, each child is a user of its own, instead or besides. What it must not read
  is then beneath one folder that only root can enter, and nothing on the machine can be written by all.

A run is called confined if it has seccomp and one of the other two. Elsewhere `level()` says `unsandboxed`, and the lab decides whether
that counts. The supervisor watches how much memory, disk, processes and time a run uses.

What is not covered:

- signals to processes of the same user before ABI 6 (Linux 6.12);
- what runs that live at the same time tell each other by timing, and through how busy cores, caches and memory are. A model server with
  one thread starts no process or thread, so that it tells nothing by their ids, and no run that is scored sees the machine's counters.
  With one slot, nothing runs beside;
- what stays of a run in a machine's memory and in times of access;
- what a CUDA device lets through, which is unproven: no GPU was at hand to try it.
"""

import ctypes
import errno
import os
import resource
import signal
import stat
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.trainer.sandbox import processes, seccomp, world

# Landlock's system calls and access rights, from linux/landlock.h; the numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_MACHINE = ("/proc/cpuinfo", "/sys/devices/system/cpu", "/sys/devices/system/node")
_COUNTERS = ("/proc/meminfo", "/proc/stat")
# Of the process itself. Left out is what tells of others: who else has a page of a file (pagemap, smaps), how many signals its user waits for (status).
_SELF = tuple(f"/proc/self/{name}" for name in ("cgroup", "cmdline", "comm", "environ", "fd", "maps", "mem", "mounts", "stat", "statm"))
_FOR_SCRIPTS = ("/proc/self", "/proc/loadavg", "/proc/uptime", "/proc/version", "/proc/vmstat")  # what monitors of resources ask
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
PRIVATE = "AUTORESEARCH_PRIVATE"  # variable with the folder that only root can enter; set in images that are only for trainings
DESCRIPTORS = 4096  # of one process
_WRITABLE_BY_ALL = ("/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue")  # usually, besides what is mounted  # noqa: S108
_FIRST_USER, _USERS = 1 << 16, 1 << 22  # one for each process id there can be

_CUDA_READS = (
    "/proc/self",
    "/proc/driver/nvidia",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus/pci/devices",
    "/sys/devices",
    "/sys/module",
)


@dataclass(frozen=True)
class Jail:
    """Lists what a confined child has: files, descriptors, environment. What it may write it may read."""

    read: tuple[Path, ...]
    write: tuple[Path, ...]
    hidden: tuple[Path, ...]  # never readable, even where a directory above is
    keep: tuple[int, ...]  # descriptors that stay open; `output` becomes stdout and stderr
    output: int
    directory: Path  # where it starts, and its home
    environment: Mapping[str, str]
    file_mb: int
    cpu_s: int  # of one process: a backstop for those that outlive a killed supervisor
    cuda: bool = False  # whether it may use the GPUs
    locks: bool = True  # whether file locks are real
    counters: bool = True  # whether it may know what the kernel counts of the whole machine, such as free memory
    world: Path | None = None  # an empty folder, if it gets a world of its own: see world.py
    shared_mb: int = 0  # of /dev/shm in that world
    cores: frozenset[int] = frozenset()  # that it stays on, if any
    script: bool = False  # whether it is code without the contract, whose helpers no clock has to find


def abi() -> int:
    """Return the version of Landlock that the kernel enforces: 0 for none, or for one that takes rules without enforcing them (gVisor)."""
    if sys.platform != "linux":
        return 0
    for call in (_ADD_RULE, _RESTRICT_SELF):
        if _libc().syscall(call, -1, 0, 0, 0) < 0 and ctypes.get_errno() == errno.ENOSYS:
            return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def level() -> str:
    """Name the confinement that `spawn` gives on this machine. A child that can't get it doesn't run.

    Returns:
        `landlock-N+seccomp`, `user+seccomp`, `landlock-N+user+seccomp`; or `unsandboxed`, even if one part is there.
    """
    parts = [*([f"landlock-{abi()}"] if abi() else []), *(["user"] if separate_users() else [])]
    return "+".join([*parts, "seccomp"]) if parts and seccomp.available() else "unsandboxed"


def separate_users() -> bool:
    """Return whether children get users of their own.

    They do where this is root, in a container whose private folder is only root's, and no place can be written by all.
    """
    private = os.environ.get(PRIVATE)
    if sys.platform != "linux" or not private or os.geteuid() != 0:
        return False
    ids = [[int(number) for number in line.split()] for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()]
    if not any(first <= _FIRST_USER and first + count >= _FIRST_USER + _USERS for first, _, count in ids):
        return False
    try:
        folder = Path(private).lstat()
    except FileNotFoundError:
        return False
    return folder.st_uid == 0 and stat.S_ISDIR(folder.st_mode) and not folder.st_mode & 0o077 and not list(_open_to_all())


def seal() -> None:
    """Close what all may write, in a container of our own: two model servers could talk through it. Elsewhere, do nothing.

    Our own descriptors are such a place too: gVisor lets every user open them whom the mode allows.
    """
    if os.environ.get(PRIVATE):
        for place in _open_to_all():
            place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o022)
        for standard in (0, 1, 2):
            if not stat.S_ISCHR(mode := os.fstat(standard).st_mode):
                os.fchmod(standard, stat.S_IMODE(mode) & ~0o077)


def shut(places: Iterable[Path]) -> None:
    """Keep all users but root out of what trainings must not read, in a container of our own. Elsewhere, do nothing: Landlock does.

    What lies in the private folder is out of their reach as it is.
    """
    for place in places if separate_users() else ():
        if place.exists() and not place.is_relative_to(os.environ[PRIVATE]):
            place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o077)


def _open_to_all() -> Iterator[Path]:
    """Yield the mounted or usual directories that everybody could write. Those in the private folder are out of sight."""
    mounted = [line.split()[1].encode().decode("unicode_escape") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in {Path(path) for path in (*mounted, *_WRITABLE_BY_ALL) if not Path(path).is_relative_to(os.environ[PRIVATE])}:
        try:
            info, system = place.stat(), os.statvfs(place)
        except OSError:
            continue
        if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IWOTH and not system.f_flag & os.ST_RDONLY:
            yield place


def copies_of(package: str) -> tuple[Path, ...]:
    """Find everything that a Python of this machine may hold of an installed package, to hide it."""
    roots = {Path(entry) for entry in sys.path if entry}
    for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local"):
        roots.update(Path(prefix).glob("lib*/python3*/*-packages"))
    return tuple({path.resolve() for root in roots for path in root.glob(f"{package}*")})


def spawn(target: Callable[[], object], jail: Jail) -> int:
    """Fork a child that enters the jail, runs `target` and exits. It dies with this process.

    Returns:
        Its process id.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _become_confined(jail, parent)
        target()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))  # at once: two children may share the log
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _become_confined(jail: Jail, parent: int) -> None:
    separate = separate_users()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    _keep_descriptors(jail)
    if jail.cores:
        os.sched_setaffinity(0, jail.cores)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (jail.file_mb << 20, jail.file_mb << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (jail.cpu_s, jail.cpu_s))
    descriptors = min(DESCRIPTORS, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if sys.platform == "linux" and not separate and not jail.cuda and not jail.script:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))  # counted over all of a user's processes
    os.environ.clear()
    os.environ.update(jail.environment)
    os.chdir(jail.directory)
    tempfile.tempdir = None
    if separate:
        _become_another_user(jail)
    if jail.world is not None:
        _enter_world(jail, jail.world)
        parent = 1 if world.counts_its_own() else parent
    processes.die_with(parent)  # after the change of user, which would undo it
    if sys.platform == "linux":
        _drop_capabilities()
        _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if abi():
        _restrict(jail)
    if seccomp.available():
        own_ids = jail.world is not None and world.counts_its_own()
        seccomp.refuse(jail.cuda, jail.locks, jail.counters, jail.script, jail.world is not None, own_ids)


def _enter_world(jail: Jail, place: Path) -> None:
    whole = _EXECUTE | _READ_FILE | _READ_DIR
    paths = list(_readable(jail))
    devices = [Path(path) for path in _DEVICES] + list(Path("/dev").glob("nvidia*") if jail.cuda else ())
    own = [Path(path) for path in world.TEXTS]  # not the machine's, which names its users
    read = [path for path, access in paths if access == whole and not path.is_relative_to("/dev") and path not in own]
    links = [root for root in (*_roots(jail), *jail.read) if root != root.resolve() and root.exists()]
    listed = [path for path, access in paths if access != whole]
    # A link to a folder is laid, not bound: what it leads to may be readable in part only
    files, folders = ([link for link in links if link.is_dir() == kind] for kind in (False, True))
    world.enter(place, [*read, *files], [*listed, *folders], jail.write, devices, jail.shared_mb)
    os.chdir(jail.directory)


def _keep_descriptors(jail: Jail) -> None:
    os.dup2(jail.output, 1)
    os.dup2(jail.output, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    low = 2
    for descriptor in sorted(jail.keep):
        os.closerange(low + 1, descriptor)
        low = descriptor
    os.closerange(low + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _become_another_user(jail: Jail) -> None:
    """Become a user that no living process has, and that owns no file but those in `jail.write`."""
    user = _FIRST_USER + os.getpid()
    for directory in jail.write:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if readable := [path for path in jail.hidden if os.access(path, os.R_OK)]:
        raise OSError(errno.EPERM, f"the sandbox could not be entered: every user can read {readable[0]}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(outcome: int, what: str) -> int:
    if outcome < 0:
        raise OSError(ctypes.get_errno(), f"the sandbox could not be entered: {what}")
    return outcome


def _drop_capabilities() -> None:
    """Drop all of root's powers, as a container's root has some: no mounting, no raw devices, no rebooting."""
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    _check(_libc().capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))), "capset")


def _restrict(jail: Jail) -> None:
    version, libc = abi(), _libc()
    rights = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0) | (_IOCTL_DEVICE if version >= 5 else 0)
    tcp, scopes = (3 if version >= 4 and jail.world is None else 0), (3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(libc.syscall(_CREATE_RULESET, ctypes.c_char_p(struct.pack("<QQQ", rights, tcp, scopes)), size, 0), "ruleset")

    def allow(path: Path, access: int) -> None:
        access &= rights
        if not path.is_dir():
            access &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", access, handle)
        _check(libc.syscall(_ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0), f"rule for {path}")
        os.close(handle)

    for path, access in _readable(jail):
        allow(path, access)
    for path in (*jail.write, *((world.SHARED, world.TEMPORARY) if jail.world is not None else ())):
        allow(path, rights)
    allow(Path("/dev/null"), _READ_FILE | _WRITE_FILE)
    for path in Path("/dev").glob("nvidia*") if jail.cuda else ():
        allow(path, _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEVICE)
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "restrict")
    os.close(ruleset)


def _readable(jail: Jail) -> Iterator[tuple[Path, int]]:
    """Yield paths and the access to each: the interpreter, its packages, the system's libraries, and what the jail adds."""
    for root in {path.resolve() for path in (*_roots(jail), *jail.read) if path.exists()}:
        yield from _without(root, jail.hidden)


def _roots(jail: Jail) -> set[Path]:
    """Return what every jail can read: the interpreter, its packages, the system's libraries."""
    counters = _COUNTERS if jail.counters else ()
    roots = {Path(path) for path in (*_SYSTEM, *_MACHINE, *counters, *_SELF, *_DEVICES, *(_CUDA_READS if jail.cuda else ()))}
    if jail.script:
        roots |= {Path(path) for path in _FOR_SCRIPTS}
    if jail.world is not None:
        roots |= {Path(path) for path in (*world.TEXTS, *(("/proc",) if world.counts_its_own() else ()))}
    for prefix in (sys.prefix, sys.base_prefix):
        roots.update(Path(prefix, name) for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"))
    roots.update(Path(entry) for entry in sys.path if entry.endswith("-packages"))
    roots.add(Path(__file__).parents[1])
    return roots


def _without(path: Path, hidden: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Yield `path`. Where something hidden lies beneath it, yield its listing, and its children without the hidden ones."""
    if path in hidden:
        return
    if not any(secret.is_relative_to(path) for secret in hidden):
        yield path, _EXECUTE | _READ_FILE | _READ_DIR
        return
    yield path, _READ_DIR
    for child in path.iterdir():
        if not child.is_symlink():
            yield from _without(child, hidden)
