"""The filter of system calls, for both machines: what it decides on every number, and whether its numbers are the kernel's."""

import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.trainer.sandbox import seccomp, syscalls
from tests.trainer.conftest import PACKAGE

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
TABLES = {name: getattr(syscalls, name) for name in ("ALLOWED", "REFUSED", "FOR_CUDA", "PRETENDED", "SELF_ONLY")}
HEADERS = {  # of linux-libc-dev, with the column of the tables
    0: (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    1: (Path("/usr/include/asm-generic/unistd.h"),),
}
MACHINES = pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
FIRST_ARGUMENT, SECOND_ARGUMENT = 16, 24


def decide(program: list[seccomp.Instruction], number: int, *arguments: int) -> int:
    """Run a filter as the kernel would; a call that it leaves undecided is an error."""
    data = struct.pack("<iIQ6Q", number, 0, 0, *arguments, *([0] * (6 - len(arguments))))
    position, loaded = 0, number
    while True:
        code, yes, no, operand = program[position]
        position += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            loaded &= operand
        elif code == 0x15:
            position += yes if loaded == operand else no
        elif code == 0x35:
            position += yes if loaded >= operand else no
        elif code == 0x05:
            position += operand
        else:
            assert code == 0x06
            return operand


def numbers(table: str, column: int) -> set[int]:
    return {each[column] for each in TABLES[table].values() if each[column] is not None}


DEPENDING = {
    *("open", "openat", "ioctl", "fcntl", "flock", "futex", "clone", "prctl", "prlimit64", "rt_sigaction", "sched_getaffinity"),
    *("socket", "socketpair", "sendto"),
    *syscalls.SELF_ONLY,
}


@MACHINES
@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("locks", [False, True])
def test_every_call_that_no_table_names_is_unknown_and_every_other_one_is_as_its_table_says(column: int, cuda: bool, locks: bool) -> None:
    program = seccomp.rules(column, cuda, locks)
    depending = {each[column] for table in TABLES.values() for name, each in table.items() if name in DEPENDING}
    allowed = numbers("ALLOWED", column) | (numbers("FOR_CUDA", column) if cuda else set())
    refused = numbers("REFUSED", column) | (set() if cuda else numbers("FOR_CUDA", column))
    for number in {*range(600), 0x3FFFFFFF, 0x7FFFFFFF} - depending:
        verdict = decide(program, number)
        if number in allowed:
            assert verdict == ALLOW, number
        elif number in refused:
            assert verdict == ERRNO | errno.EPERM, number
        elif number in numbers("PRETENDED", column):
            assert verdict == ERRNO, number
        else:
            assert verdict == ERRNO | errno.ENOSYS, number


@MACHINES
def test_calls_that_depend_on_their_arguments_are_decided_by_them(column: int) -> None:
    program, call = seccomp.rules(column, False, False), {name: each[column] for table in TABLES.values() for name, each in table.items()}
    eperm, enosys, eagain = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS, ERRNO | errno.EAGAIN
    for name, arguments, verdict in (
        ("openat", (0, 0, os.O_RDONLY), ALLOW),
        ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC), ALLOW),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), eperm),
        ("clone", (0x11,), ALLOW),
        ("clone", (0x10000011,), eperm),
        ("futex", (0, 128), ALLOW),
        ("futex", (0, 0), eagain),
        ("prctl", (15,), ALLOW),
        ("prctl", (1,), eperm),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x40086602), eperm),
        ("fcntl", (0, 3), ALLOW),
        ("fcntl", (0, 6), ERRNO),
        ("fcntl", (0, 1024), eperm),
        ("flock", (0, 1), ERRNO),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 2), eperm),
        ("socketpair", (2, 1), eperm),
        ("socket", (1, 5), eperm),
        ("sendto", (0, 0, 0, 0, 0), ALLOW),
        ("sendto", (0, 0, 0, 0, 1 << 32), eperm),
        ("rt_sigaction", (2, 1), ALLOW),
        ("rt_sigaction", (17, 0), ALLOW),
        ("rt_sigaction", (17, 1), ERRNO),
        ("prlimit64", (0, 7, 0), ALLOW),
        ("prlimit64", (0, 7, 1), eperm),
        ("prlimit64", (5, 7, 0), eperm),
        ("sched_getaffinity", (0,), ALLOW),
        ("sched_getaffinity", (5,), enosys),
        ("getsid", (0,), ALLOW),
        ("getsid", (5,), eperm),
    ):
        number = call[name]
        assert number is not None and decide(program, number, *arguments) == verdict, (name, arguments)
    assert decide(seccomp.rules(column, True, True), call["socket"] or 0, 1, 5) == ALLOW
    assert decide(seccomp.rules(column, True, True), call["socket"] or 0, 2, 1) == eperm
    assert decide(seccomp.rules(column, True, True), call["flock"] or 0, 0, 1) == ALLOW


def test_no_call_stands_in_two_tables() -> None:
    names = [name for table in TABLES.values() for name in table]
    assert len(names) == len(set(names))
    for column in (0, 1):
        every = [each[column] for table in TABLES.values() for each in table.values() if each[column] is not None]
        assert len(every) == len(set(every))


@MACHINES
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    header = next((path for path in HEADERS[column] if path.exists()), None)
    if header is None:
        pytest.skip("needs the kernel's headers: apt-get install linux-libc-dev")
    text = header.read_text(encoding="utf-8")
    kernels = {name: int(number) for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", text, re.MULTILINE)}
    kernels = {{"umount": "umount2", "fstatat": "newfstatat"}.get(name, name): number for name, number in kernels.items()}
    ours = {name: each[column] for table in TABLES.values() for name, each in table.items()}
    if column == 1:  # the generic header has calls of other machines too
        kernels = {name: number for name, number in kernels.items() if number < 244 or number >= 260}
    kernels.pop("syscalls", None)  # how many there are
    assert len(kernels) > 250
    assert {name: (ours[name], kernels[name]) for name in ours.keys() & kernels.keys() if ours[name] not in (kernels[name], None)} == {}
    newest = max(kernels.values())
    absent = {name for name, number in ours.items() if number is not None and number <= newest and name not in kernels}
    assert absent <= {"uprobe", "uretprobe", "prlimit64", "map_shadow_stack"}, "named here, and in no header"


@pytest.mark.skipif(not seccomp.available(), reason="no seccomp here")
def test_a_call_that_nobody_has_thought_about_is_unknown_to_the_kernel_as_well() -> None:
    """Landlock's own first call answers its version to everybody else."""
    program = """
import ctypes, errno
from autoresearch_mcp.trainer.sandbox import seccomp
libc = ctypes.CDLL(None, use_errno=True)
before = libc.syscall(444, None, 0, 1), ctypes.get_errno()
libc.prctl(38, 1, 0, 0, 0)
seccomp.refuse()
after = libc.syscall(444, None, 0, 1), ctypes.get_errno()
print(before[0] > 0 or before[1] == errno.EOPNOTSUPP or before[1] == errno.ENOSYS, after == (-1, errno.ENOSYS))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"], done
