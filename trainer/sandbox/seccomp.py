"""Lets confined code make only the system calls that a training needs (fixed). Linux on x86_64 and aarch64.

It is an allow-list: a call that syscalls.py doesn't name is answered as unknown, as an older kernel would. So what a newer kernel adds
is out of reach from the start. Libraries fall back to older calls, as they do on older kernels: that is how `clone3` and `openat2`, whose
flags are out of a filter's sight, become `clone` and `openat`.

What Landlock leaves open, and this closes, as PermissionError:

- sockets of every kind but a connected pair, so UDP, unix and abstract sockets too; CUDA's own is the exception (`cuda`);
- shared memory, semaphores and message queues that have a name, and memory that is no process's (memfd), which nobody counts;
- other processes: their memory, their limits, their priority, and on CPUs its own; and leaving the process group that the run is
  stopped by;
- what keeps CPU time out of the accounts: a parent that ignores its children's ends, or outlives its supervisor;
- questions about the page cache, about other processes and about the room on the disk, and limits, whose counts are those of all of a
  user's processes: through each, two processes that share no file they can write could still talk, by a million bits a second;
- marks on files that outlive the process, for the next one to find: attributes, flags, lengths of files that it may only read (Landlock
  rules none of these for a file's owner), and watching who opens what;
- kernel surface that no training needs: io_uring, bpf, namespaces, mounts, keys, perf, userfaultfd and the like.

What is pretended:

- modes, owners and times of files are such marks too, but `cp` and `ld` set them in passing: they are answered as set, and nothing is;
- a handler of SIGCHLD, which a filter can't tell from ignoring it, is answered as set and never called: libraries put it back in passing;
- so are locks, where `locks` says so, and the cores that a thread asks for;
- waiting for a futex that is not a process's own ends at once, so `pthread_join` spins: two processes could talk through the pages of a
  file that both may read.

Code without the contract has more: it is measured by the wall's clock, and nothing that is hidden is ever in its processes. Its handlers,
limits, priority, process groups and shared futexes are its own affair. In a world of its own (see world.py) so are sockets, what has a name,
and the marks on its own files, and with process ids of its own so are the processes that it can name.

Its helpers' wish to end with their parents is answered as set.

What is not covered:

- by waiting on the same page of a file that both may read, or by asking for each other's locks on it, two runs without the contract can
  talk;
- what a CUDA driver may do through the calls that it gets is unproven: no GPU was at hand to try it.
"""

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

from autoresearch_mcp.trainer.sandbox.syscalls import (
    ALLOWED,
    BY_ID,
    FOR_CUDA,
    FOR_SCRIPTS,
    IN_A_WORLD,
    PRETENDED,
    PRIORITY,
    REFUSED,
    SELF_ONLY,
)

_DEPENDING = ALLOWED | REFUSED | FOR_CUDA | SELF_ONLY  # among them those that depend on their arguments
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_X32 = 0x40000000
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET, _TYPE_MASK = 1, 5, 0xF
_PR_SET_PDEATHSIG, _SIGCHLD = 1, 17
_O_TRUNC, _O_ACCMODE = 0x200, 3
# Second byte of what an ioctl asks: of terminals and of every descriptor; of NVIDIA's devices, the second of unified memory
_TERMINAL, _NVIDIA = 0x5400, (0x4600, 0x0000)
_F_PLAIN = 4  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL are 0 to 4
_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW = 6, 7, 37, 38
_F_GETLKS = (5, 36)  # F_GETLK, F_OFD_GETLK: SQLite's write-ahead log asks who holds a lock
_F_ASKED = (1030, 1032, 1034)  # F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS; not F_GETLK, whose answer is 16 bytes of another's
_F_ADD_SEALS = 1033
_PRIVATE, _BY_THE_WALL_CLOCK = 128, 256  # of a futex
_WAIT, _WAKE, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 9, 10

# seccomp(2) and bpf(4)
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # without the last, older kernels slow the whole process down; gVisor doesn't know it
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument's lower half comes first on both machines

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def available() -> bool:
    """Return whether the kernel takes filters, and this is a machine whose calls are known here."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.byteorder != "little":
        return False
    column, _ = _MACHINES[platform.machine()]
    ctypes.CDLL(None, use_errno=True).syscall(_number("seccomp", column), _SET_MODE_FILTER, 0, None)
    return ctypes.get_errno() == errno.EFAULT  # it would read a filter, and there is none


def refuse(
    cuda: bool = False, locks: bool = True, counters: bool = True, script: bool = False, world: bool = False, own_ids: bool = False
) -> None:
    """Take the calls away from this thread and all that descends from it, for good. Needs no_new_privs.

    Args:
        cuda: leave what a GPU's driver needs.
        locks: whether file locks are real. They are a way to tell another process something, in either direction.
        counters: whether it may ask for the machine's free memory and number of processes.
        script: whether it is code without the contract.
        world: whether it has a world of its own, see world.py.
        own_ids: whether that has process ids of its own, by which no other process can be named.

    Raises:
        OSError: the kernel doesn't take the filter.
    """
    column, _ = _MACHINES[platform.machine()]
    unasked = [] if counters else answer(_number("sysinfo", column), errno.EPERM)
    install([*unasked, *rules(column, cuda, locks, script, world, own_ids)])


def stay_alone() -> None:
    """Let this process start no other process or thread from now on, for good. Each takes an id, and all can see which ids are taken.

    Raises:
        OSError: the kernel doesn't take the filter.
    """
    column, _ = _MACHINES[platform.machine()]
    numbers = [ALLOWED[name][column] for name in ("clone", "fork", "vfork")]
    install([rule for number in numbers if number is not None for rule in answer(number, errno.EPERM)])


def install(decisions: Iterable[Instruction]) -> None:
    """Put a filter in force.

    Args:
        decisions: they find the call's number loaded. What they don't decide is allowed.

    Raises:
        OSError: the kernel doesn't take the filter.
    """
    column, architecture = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER)]
    if platform.machine() == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    program += [*decisions, (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *instruction) for instruction in program))
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_SPEC_ALLOW, 0):
        if libc.syscall(_number("seccomp", column), _SET_MODE_FILTER, flags, ctypes.c_char_p(header)) == 0:
            return
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise OSError(ctypes.get_errno(), "the sandbox could not be entered: seccomp")


def answer(number: int, error: int) -> list[Instruction]:
    """Answer a call with an error; with 0, as if it had been done."""
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]


def rules(column: int, cuda: bool, locks: bool, script: bool = False, world: bool = False, own_ids: bool = False) -> list[Instruction]:
    """Decide on every call: first on those that depend on their arguments, then on the others by their number.

    Args:
        column: of the tables in syscalls.py: 0 for x86_64, 1 for aarch64.
        cuda: leave what a GPU's driver needs.
        locks: whether file locks are real.
        script: whether it is code without the contract.
        world: whether that has a world of its own.
        own_ids: whether that has process ids of its own.
    """
    freed = (*(FOR_SCRIPTS if script else ()), *(IN_A_WORLD if world else ()), *(BY_ID if own_ids else ()))
    return [*_by_arguments(column, cuda, locks, script, world, own_ids), *_search(_runs(column, cuda, freed))]


def _number(name: str, column: int) -> int:
    """Return the number of a call that exists on both machines."""
    number = _DEPENDING[name][column]
    assert number is not None
    return number


def _runs(column: int, cuda: bool, freed: Collection[str]) -> list[tuple[int, int]]:
    """Return what becomes of each call that doesn't depend on its arguments: (first number, verdict) of runs with one verdict."""
    verdicts = dict[int | None, int]()
    for calls, verdict in ((ALLOWED, _ALLOW), (REFUSED, _ERRNO | errno.EPERM), (PRETENDED, _ERRNO)):
        verdicts |= {numbers[column]: verdict for numbers in calls.values()}
    verdicts |= {numbers[column]: _ALLOW if cuda else _ERRNO | errno.EPERM for numbers in FOR_CUDA.values()}
    verdicts |= {
        numbers[column]: _ALLOW for table in (REFUSED, PRETENDED, FOR_CUDA, SELF_ONLY) for name, numbers in table.items() if name in freed
    }
    runs = list[tuple[int, int]]()
    for number in range(2 + max(number for number in verdicts if number is not None)):
        verdict = verdicts.get(number, _ERRNO | errno.ENOSYS)
        if not runs or runs[-1][1] != verdict:
            runs.append((number, verdict))
    return runs


def _search(runs: Sequence[tuple[int, int]]) -> list[Instruction]:
    """Find a number's run by halves, so that no call pays for the length of the list."""
    if len(runs) == 1:
        return [(_RETURN, 0, 0, runs[0][1])]
    middle = len(runs) // 2
    lower, upper = _search(runs[:middle]), _search(runs[middle:])
    return [(_AT_LEAST, 0, 1, runs[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _by_arguments(column: int, cuda: bool, locks: bool, script: bool, world: bool, own_ids: bool) -> Iterator[Instruction]:
    if not own_ids:
        yield from _of_itself(column, cuda, script)
    if not script:
        yield from _shared_futexes(_number("futex", column))
        looking = [*_argument(1), (_EQUAL, 0, 3, 0), *_argument(1, upper=True), (_EQUAL, 0, 1, 0)]
        yield from _unless(_number("rt_sigaction", column), [*_argument(0), (_EQUAL, 0, len(looking), _SIGCHLD), *looking], 0)
    if world:
        yield from _unless(_number("socket", column), [*_argument(0), *_among((_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK))])
        yield from _unless(_number("socketpair", column), [*_argument(0), (_EQUAL, 0, 1, _AF_UNIX)])
    else:
        if cuda:
            yield from _unless(_number("socket", column), _of_family_and_type(_SOCK_SEQPACKET))
        yield from _unless(_number("socketpair", column), _of_family_and_type(_SOCK_STREAM))  # datagrams could be sent anywhere
        yield from _unless(_number("sendto", column), [*_argument(4), (_EQUAL, 0, 3, 0), *_argument(4, upper=True), (_EQUAL, 0, 1, 0)])
    yield from _unless(_number("clone", column), [*_argument(0), (_AND, 0, 0, _NAMESPACES), (_EQUAL, 0, 1, 0)])
    yield from _unless(_number("prctl", column), [*_argument(0), (_EQUAL, 1, 0, _PR_SET_PDEATHSIG)], 0 if script else errno.EPERM)
    for opening, flags in ((ALLOWED["open"][column], 1), (ALLOWED["openat"][column], 2)):
        if opening is not None:  # a file that is opened to read, and emptied: before Landlock's ABI 3, nothing else is in the way
            yield from _unless(opening, [*_argument(flags), (_AND, 0, 0, _O_TRUNC | _O_ACCMODE), (_EQUAL, 1, 0, _O_TRUNC)])
    devices = (_TERMINAL, *_NVIDIA) if cuda else (_TERMINAL,)
    yield from _unless(_number("ioctl", column), [*_argument(1), (_AND, 0, 0, 0xFF00), *_among(devices)])
    yield from _descriptor_calls(column, cuda, locks, world)


def _of_itself(column: int, cuda: bool, script: bool) -> Iterator[Instruction]:
    """Decide on calls that name a process by its id: about the calling one alone."""
    own = [*_argument(0), (_EQUAL, 0, 1, 0)]
    if not (cuda or script):  # its threads stay on the cores that it was given; libraries ask for others in passing
        pretended = [*own, (_RETURN, 0, 0, _ERRNO), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
        yield from [(_EQUAL, 0, len(pretended), _number("sched_setaffinity", column)), *pretended]
    for name in SELF_ONLY:
        if name in PRIORITY and not (cuda or script):  # who comes last waits as long as he likes, and patience.py takes waiting off
            yield from answer(_number(name, column), errno.EPERM)
        else:
            yield from _unless(_number(name, column), own)
    yield from _unless(_number("sched_getaffinity", column), own, errno.ENOSYS)  # libc asks it of a thread, and does without
    if script:
        yield from _unless(_number("prlimit64", column), own)
        for name in ("getpriority", "setpriority"):  # of itself alone
            itself = [*_argument(0), (_EQUAL, 0, 3, 0), *_argument(1), (_EQUAL, 0, 1, 0)]
            yield from _unless(_number(name, column), itself)
    else:
        nothing_set = [*_argument(2), (_EQUAL, 0, 3, 0), *_argument(2, upper=True), (_EQUAL, 0, 1, 0)]
        yield from _unless(_number("prlimit64", column), [*_argument(0), (_EQUAL, 0, len(nothing_set) + 1, 0), *nothing_set])


def _descriptor_calls(column: int, cuda: bool, locks: bool, world: bool) -> Iterator[Instruction]:
    """Decide on fcntl and locks. Leases, hints, owners and sizes are refused: they stay with a file or a pipe."""
    taking = (_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW)
    known = (*range(_F_PLAIN + 1), *_F_ASKED, *((_F_ADD_SEALS,) if cuda else ()), *(taking if locks else ()), *(_F_GETLKS if world else ()))
    if not locks:
        yield from answer(_number("flock", column), 0)
        pretending = [rule for command in taking for rule in answer(command, 0)]
        block = [*_argument(1), *pretending, (_LOAD, 0, 0, _NUMBER)]
        yield from [(_EQUAL, 0, len(block), _number("fcntl", column)), *block]
    yield from _unless(_number("fcntl", column), [*_argument(1), *_among(known)])


def _shared_futexes(number: int) -> list[Instruction]:
    """Decide on futexes. One of several processes may be a page of a file: none wakes another, so none may wait either."""
    block = [*_argument(1), (_AND, 0, 0, _PRIVATE), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ALLOW)]
    block += [*_argument(1), (_AND, 0, 0, 0xFFFFFFFF & ~_BY_THE_WALL_CLOCK)]
    for operation, error in ((_WAIT, errno.EAGAIN), (_WAIT_BITSET, errno.EAGAIN), (_WAKE, 0), (_WAKE_BITSET, 0)):
        block += answer(operation, error)
    block.append((_RETURN, 0, 0, _ERRNO | errno.ENOSYS))
    return [(_EQUAL, 0, len(block), number), *block]


def _argument(index: int, upper: bool = False) -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * index + 4 * upper)]


def _among(values: Sequence[int]) -> list[Instruction]:
    """End a condition: what was loaded is one of these."""
    *others, last = values
    return [*((_EQUAL, len(others) - number, 0, value) for number, value in enumerate(others)), (_EQUAL, 0, 1, last)]


def _of_family_and_type(kind: int) -> list[Instruction]:
    return [*_argument(0), (_EQUAL, 0, 4, _AF_UNIX), *_argument(1), (_AND, 0, 0, _TYPE_MASK), (_EQUAL, 0, 1, kind)]


def _unless(number: int, condition: Sequence[Instruction], error: int = errno.EPERM) -> list[Instruction]:
    """Refuse a call unless the condition falls through its end. One that fails jumps one instruction further."""
    block = [*condition, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | error)]
    return [(_EQUAL, 0, len(block), number), *block]
