"""The system calls that confined code does without, refused by a seccomp filter (fixed). Linux on x86_64 and aarch64.

Landlock rules files, TCP and signals; this closes what it leaves open. Refused, as PermissionError:

- sockets of every kind but a connected pair, so UDP, unix and abstract sockets too; CUDA's own is the exception (`cuda`);
- shared memory, semaphores and message queues that have a name, and memory that is no process's (memfd), which nobody counts;
- other processes: their memory, their limits, their priority; and leaving the process group that the run is stopped by;
- what keeps CPU time out of the accounts: a parent that ignores its children's ends, or outlives its supervisor;
- questions about the page cache, about other processes and about the room on the disk, calls between processes through the pages of a
  file that both may read (futex), and limits, whose counts are those of all of a user's processes: through each, two processes that share
  no file they can write could still talk, by a million bits a second;
- marks on files that outlive the process, for the next one to find: attributes, flags, lengths of files it may only read (Landlock
  rules none of these for a file's owner), and watching who opens what;
- kernel surface that no training needs: io_uring, bpf, namespaces, mounts, keys, perf, userfaultfd and the like.

Modes, owners and times of files are such marks too, but `cp` and `ld` set them in passing: they are answered as set, and nothing
is. So are locks, where `locks` says so. Waiting for a futex that is not a process's own ends at once, so `pthread_join` spins. A
handler of SIGCHLD is refused with the ignoring of it, which a filter can't tell apart; shells do without. `clone3` and `openat2` are
answered as unknown, because their flags are out of a filter's sight, and libc falls back to the calls before them.
"""

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

# Numbers on (x86_64, aarch64), from asm/unistd_64.h and asm-generic/unistd.h; None where the call doesn't exist.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "mincore": (27, 232),
    "cachestat": (451, 451),
    "readahead": (187, 213),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "truncate": (76, 45),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "fadvise64": (221, 223),
    "preadv2": (327, 286),
    "io_setup": (206, 0),  # its requests are counted over the whole machine, which has 65,536
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "syslog": (103, 116),
    "setrlimit": (160, 164),
    "getpriority": (140, 141),
    "ioprio_get": (252, 31),
    "personality": (135, 92),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
}
# Refused but for CUDA, whose driver listens on an abstract socket of its own, and may use memory files. Nobody can connect to it.
_NOT_FOR_CUDA: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "bind": (49, 200),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "sendmsg": (46, 211),  # what it sends besides bytes, open files, is nobody's until it is received, and nobody counts it
    "sendmmsg": (307, 269),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
}
# Answered as done, and not done
_PRETENDED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
# Refused but for the calling thread itself, which their first argument calls 0
_SELF_ONLY = {
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_getattr": (315, 275),
    "sched_rr_get_interval": (148, 127),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
}
# Answered as unknown, as by an older kernel
_UNKNOWN = {
    "clone3": (435, 435),
    "openat2": (437, 437),
    "futex_waitv": (449, 449),
    "futex_wake": (454, 454),
    "futex_wait": (455, 455),
    "futex_requeue": (456, 456),
}
_SOCKET, _SOCKETPAIR, _SENDTO, _CLONE = (41, 198), (53, 199), (44, 206), (56, 220)
_FUTEX, _GETAFFINITY, _PRLIMIT = (202, 98), (204, 123), (302, 261)
_OPEN, _OPENAT, _IOCTL, _FCNTL, _FLOCK = (2, None), (257, 56), (16, 29), (72, 25), (73, 32)
_PRCTL, _SIGACTION, _SECCOMP = (157, 167), (13, 134), (317, 277)

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_X32 = 0x40000000
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _TYPE_MASK = 1, 1, 5, 0xF
_PR_SET_PDEATHSIG, _SIGCHLD = 1, 17
_O_TRUNC, _O_ACCMODE = 0x200, 3
# Second byte of what an ioctl asks: of terminals and of every descriptor; of NVIDIA's devices, the second of unified memory
_TERMINAL, _NVIDIA = 0x5400, (0x4600, 0x0000)
_F_PLAIN = 4  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL are 0 to 4
_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW = 6, 7, 37, 38
_F_ASKED = (1030, 1032, 1034)  # F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS; not F_GETLK, whose answer is 16 bytes of another's
_F_ADD_SEALS = 1033
_PRIVATE, _BY_THE_WALL_CLOCK = 128, 256  # of a futex
_WAIT, _WAKE, _WAIT_BITSET, _WAKE_BITSET = 0, 1, 9, 10

# seccomp(2) and bpf(4)
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # without the last, older kernels slow the whole process down; gVisor doesn't know it
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument's lower half comes first on both machines

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def available() -> bool:
    """Whether the kernel takes filters, and this is a machine whose calls are known here."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.byteorder != "little":
        return False
    column, _ = _MACHINES[platform.machine()]
    ctypes.CDLL(None, use_errno=True).syscall(_SECCOMP[column], _SET_MODE_FILTER, 0, None)
    return ctypes.get_errno() == errno.EFAULT  # it would read a filter, and there is none


def refuse(cuda: bool = False, locks: bool = True) -> None:
    """Take the calls away from this thread and all that descends from it, for good. Needs no_new_privs.

    Args:
        cuda: leave what a GPU's driver needs.
        locks: whether file locks are real. They are a way to tell another process something, in either direction.

    Raises:
        OSError: the kernel doesn't take the filter.
    """
    column, _ = _MACHINES[platform.machine()]
    install(_rules(column, cuda, locks))


def install(rules: Iterable[Instruction]) -> None:
    """Put a filter in force: `rules` see the call's number loaded, and whatever they don't decide is allowed."""
    column, architecture = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER)]
    if platform.machine() == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    program += [*rules, (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *instruction) for instruction in program))
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_SPEC_ALLOW, 0):
        if libc.syscall(_SECCOMP[column], _SET_MODE_FILTER, flags, ctypes.c_char_p(header)) == 0:
            return
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise OSError(ctypes.get_errno(), "the sandbox could not be entered: seccomp")


def answer(number: int, error: int) -> list[Instruction]:
    """Rules that answer a call with an error; with 0, as if it had been done."""
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]


def _rules(column: int, cuda: bool, locks: bool) -> Iterator[Instruction]:
    refused = _REFUSED if cuda else _REFUSED | _NOT_FOR_CUDA
    for calls, error in ((refused, errno.EPERM), (_PRETENDED, 0)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                yield from answer(number, error)
    for call in _UNKNOWN.values():
        yield from answer(call[column], errno.ENOSYS)
    for self_only in _SELF_ONLY.values():
        yield from _unless(self_only[column], [*_argument(0), (_EQUAL, 0, 1, 0)])
    yield from _unless(_GETAFFINITY[column], [*_argument(0), (_EQUAL, 0, 1, 0)], errno.ENOSYS)  # libc asks it of a thread, and does without
    nothing_set = [*_argument(2), (_EQUAL, 0, 3, 0), *_argument(2, upper=True), (_EQUAL, 0, 1, 0)]
    yield from _unless(_PRLIMIT[column], [*_argument(0), (_EQUAL, 0, len(nothing_set) + 1, 0), *nothing_set])
    yield from _shared_futexes(_FUTEX[column])
    if cuda:
        yield from _unless(_SOCKET[column], _of_family_and_type(_SOCK_SEQPACKET))
    yield from _unless(_SOCKETPAIR[column], _of_family_and_type(_SOCK_STREAM))  # datagrams could be sent anywhere
    yield from _unless(_SENDTO[column], [*_argument(4), (_EQUAL, 0, 3, 0), *_argument(4, upper=True), (_EQUAL, 0, 1, 0)])
    yield from _unless(_CLONE[column], [*_argument(0), (_AND, 0, 0, _NAMESPACES), (_EQUAL, 0, 1, 0)])
    yield from _unless(_PRCTL[column], [*_argument(0), (_EQUAL, 1, 0, _PR_SET_PDEATHSIG)])
    looking = [*_argument(1), (_EQUAL, 0, 3, 0), *_argument(1, upper=True), (_EQUAL, 0, 1, 0)]
    yield from _unless(_SIGACTION[column], [*_argument(0), (_EQUAL, 0, len(looking), _SIGCHLD), *looking])
    for opening, flags in ((_OPEN[column], 1), (_OPENAT[column], 2)):
        if opening is not None:  # a file that is opened to read, and emptied: before Landlock's ABI 3, nothing else is in the way
            yield from _unless(opening, [*_argument(flags), (_AND, 0, 0, _O_TRUNC | _O_ACCMODE), (_EQUAL, 1, 0, _O_TRUNC)])
    devices = (_TERMINAL, *_NVIDIA) if cuda else (_TERMINAL,)
    yield from _unless(_IOCTL[column], [*_argument(1), (_AND, 0, 0, 0xFF00), *_among(devices)])
    yield from _descriptor_calls(column, cuda, locks)


def _descriptor_calls(column: int, cuda: bool, locks: bool) -> Iterator[Instruction]:
    """fcntl but for leases, hints, owners and sizes, which stay with a file or a pipe; and locks."""
    taking = (_F_SETLK, _F_SETLKW, _F_OFD_SETLK, _F_OFD_SETLKW)
    known = (*range(_F_PLAIN + 1), *_F_ASKED, *((_F_ADD_SEALS,) if cuda else ()), *(taking if locks else ()))
    if not locks:
        yield from answer(_FLOCK[column], 0)
        pretending = [rule for command in taking for rule in answer(command, 0)]
        block = [*_argument(1), *pretending, (_LOAD, 0, 0, _NUMBER)]
        yield from [(_EQUAL, 0, len(block), _FCNTL[column]), *block]
    yield from _unless(_FCNTL[column], [*_argument(1), *_among(known)])


def _shared_futexes(number: int) -> list[Instruction]:
    """Those of several processes, which may be a page of a file: nobody wakes another, so nobody may wait either."""
    block = [*_argument(1), (_AND, 0, 0, _PRIVATE), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ALLOW)]
    block += [*_argument(1), (_AND, 0, 0, 0xFFFFFFFF & ~_BY_THE_WALL_CLOCK)]
    for operation, error in ((_WAIT, errno.EAGAIN), (_WAIT_BITSET, errno.EAGAIN), (_WAKE, 0), (_WAKE_BITSET, 0)):
        block += answer(operation, error)
    block.append((_RETURN, 0, 0, _ERRNO | errno.ENOSYS))
    return [(_EQUAL, 0, len(block), number), *block]


def _argument(index: int, upper: bool = False) -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * index + 4 * upper)]


def _among(values: Sequence[int]) -> list[Instruction]:
    """The end of a condition: what was loaded is one of these."""
    *others, last = values
    return [*((_EQUAL, len(others) - number, 0, value) for number, value in enumerate(others)), (_EQUAL, 0, 1, last)]


def _of_family_and_type(kind: int) -> list[Instruction]:
    return [*_argument(0), (_EQUAL, 0, 4, _AF_UNIX), *_argument(1), (_AND, 0, 0, _TYPE_MASK), (_EQUAL, 0, 1, kind)]


def _unless(number: int, condition: Sequence[Instruction], error: int = errno.EPERM) -> list[Instruction]:
    """Rules that refuse a call unless the condition falls through its end; one that fails jumps one instruction further."""
    block = [*condition, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | error)]
    return [(_EQUAL, 0, len(block), number), *block]
