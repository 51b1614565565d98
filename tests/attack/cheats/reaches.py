"""Tries every door out of the sandbox, in training and in the model server, and says which ones open."""

import ctypes
import os
import platform
import socket

PARENT = os.getppid()
LIBC = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    if platform.machine() != "x86_64":
        raise PermissionError
    LIBC.syscall.restype = ctypes.c_long
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def upwards(name):
    place = os.getcwd()
    while place != "/":
        place = os.path.dirname(place)
        for path in (name, f".autoresearch/{name}"):
            if os.path.exists(f"{place}/{path}"):
                open(f"{place}/{path}", "rb").read(1)
                return
    raise FileNotFoundError


def others():
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    open(f"/proc/{pids[0]}/cmdline", "rb").read(1)
    if not any(open(f"/proc/{pid}/environ", "rb").read(1) for pid in pids):
        raise PermissionError


def marked(change, value):
    """Change something of a file that outlives this process. The sandbox may say that it was done, and do nothing."""
    before = os.stat(torch.__file__)
    change(torch.__file__, value)
    after = os.stat(torch.__file__)
    if (before.st_mtime_ns, before.st_mode) == (after.st_mtime_ns, after.st_mode):
        raise PermissionError


DOORS = {
    "the network": lambda: socket.create_connection(("127.0.0.1", 1), timeout=1),
    "a port": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM),
    "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "an abstract socket": lambda: socket.socket(socket.AF_UNIX).bind("\0attack"),
    "the other runs": lambda: os.listdir("../.."),
    "the ledger": lambda: upwards("ledger.sqlite"),
    "the secret": lambda: upwards("heldout.secret"),
    "the settings": lambda: upwards("lab.toml"),
    "the result": lambda: open("../result.json", "w"),
    "the home": lambda: os.listdir("/root" if os.getuid() == 0 else f"/home/{os.getlogin()}"),
    "the parent's memory": lambda: open(f"/proc/{PARENT}/mem", "rb").read(1),
    "the parent's descriptors": lambda: os.listdir(f"/proc/{PARENT}/fd"),
    "the parent's environment": lambda: open(f"/proc/{PARENT}/environ", "rb").read(1),
    "other processes": others,
    "a signal to the parent": lambda: os.kill(PARENT, 0),
    "ptrace": lambda: call(101, 16, PARENT, 0, 0),
    "process_vm_readv": lambda: call(310, PARENT, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0),
    "pidfd_open": lambda: call(434, PARENT, 0),
    "kcmp": lambda: call(312, PARENT, os.getpid(), 0, 0, 0),
    "inotify": lambda: call(294, 0),
    "fanotify": lambda: call(300, 0, 0),
    "perf events": lambda: call(298, ctypes.create_string_buffer(120), 0, -1, -1, 0),
    "io_uring": lambda: call(425, 4, ctypes.create_string_buffer(120)),
    "userfaultfd": lambda: call(323, 0),
    "bpf": lambda: call(321, 0, ctypes.create_string_buffer(120), 120),
    "keys": lambda: call(248, b"user", b"attack", b"x", 1, -4),
    "mincore": lambda: call(27, ctypes.c_void_p(ctypes.addressof(ctypes.c_int.in_dll(LIBC, "daylight")) & ~4095), 4096, ctypes.create_string_buffer(8)),
    "shared memory": lambda: call(29, 7, 4096, 0o1600),
    "semaphores": lambda: call(64, 7, 1, 0o1600),
    "message queues": lambda: call(240, b"attack", 0o102, 0o600, 0),
    "a name space": lambda: call(272, 0x10000000),
    "a mount": lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "limits of the parent": lambda: call(302, PARENT, 7, 0, ctypes.create_string_buffer(16)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, PARENT, 5),
    "the times of a file": lambda: marked(os.utime, (1, 2)),
    "the mode of a file": lambda: marked(os.chmod, 0o600),
    "an attribute of a file": lambda: os.setxattr(torch.__file__, "user.attack", b"x"),
    "code of the lab": lambda: open(__file__, "a"),
    "/tmp": lambda: open("/tmp/attack", "w"),
    "/dev/shm": lambda: open("/dev/shm/attack", "w"),
    "a core of one's own": lambda: open("/proc/self/coredump_filter", "w").write("0xff"),
}


def try_doors(where):
    for name, door in DOORS.items():
        try:
            door()
        except (OSError, ValueError, KeyError, AttributeError, IndexError):
            continue
        print(f"REACHED {name} in {where}", flush=True)
    print(f"TRIED {len(DOORS)} in {where}", flush=True)


def prepare(run):
    try_doors("training")


def build_model(config):
    if __name__ != "__main__":
        try_doors("scoring")
    return Model(config)
