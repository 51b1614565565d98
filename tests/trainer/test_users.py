"""A container of our own on a kernel without Landlock, as rented ones may be: each child is a user of its own. Real launches in a mount namespace."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from trainer import prepare, protocol, sandbox, syscalls

from .conftest import BIGRAM, PACKAGE
from .test_score import bigram_bpb

# What an image's build and a container's start do to a machine, done to this one's mounts as this process alone sees them: the
# interpreter and the packages where every user can read them, the data where only root can, and nothing that all can write.
CONTAINER = """
import ctypes, errno, os, stat, sys
from pathlib import Path
python, packages, repository, data, out, hidden, action = sys.argv[1:8]
libc = ctypes.CDLL(None, use_errno=True)
BIND, REMOUNT, READ_ONLY, PRIVATE = 4096, 32, 1, 1 << 18 | 1 << 14
def mount(source, target, kind=None, flags=0, options=None):
    encoded = [None if text is None else str(text).encode() for text in (source, target, kind, options)]
    if libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")
if libc.unshare(0x00020000) != 0:
    raise OSError(ctypes.get_errno(), "unshare")
mount(None, "/", None, PRIVATE)
mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755")
for name in ("python", "packages", "repository", "private", "tmp", "empty"):
    Path("/mnt", name).mkdir(0o700 if name in ("private", "empty") else 0o755)
for source, name in ((python, "python"), (packages, "packages"), (repository, "repository")):
    mount(source, f"/mnt/{name}", None, BIND)
for source, name in ((data, "data"), (out, "out")):
    Path("/mnt/private", name).mkdir()
    mount(source, f"/mnt/private/{name}", None, BIND)
for path in filter(None, hidden.split(":")):
    mount("/mnt/empty", path.replace(packages, "/mnt/packages"), None, BIND)
for line in Path("/proc/self/mounts").read_text().splitlines():
    target = line.split()[1]
    if not target.startswith(("/mnt", "/proc", "/sys")) and target != "/dev/shm":
        mount(None, target, None, BIND | REMOUNT | READ_ONLY)
mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")
sys.path.insert(0, "/mnt/repository")
from trainer import syscalls
libc.prctl(38, 1, 0, 0, 0)
syscalls.install([rule for number in (444, 445, 446) for rule in syscalls.answer(number, errno.ENOSYS)])
environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/mnt/packages:/mnt/repository", "TMPDIR": "/mnt/tmp", "AUTORESEARCH_PRIVATE": "/mnt/private"}
arguments = sys.argv[8:] if action == "train" else ["/mnt/private/data", "/mnt/private/out"]
os.chdir("/mnt")
os.execve("/mnt/python/bin/python3", ["python3", "-m", "trainer.remote", action, *arguments], environment)
"""

# What each attempt of `probe` came to, but for those that were refused as they should be
PROBES = """
import json, os
def attempts(run, text, supervisor):
    yield "text", lambda: open(text, "rb").read(1)
    yield "folder", lambda: os.listdir(os.path.dirname(text))
    yield "through another", lambda: os.listdir(f"/proc/{supervisor}/root{os.path.dirname(text)}")
    yield "memory", lambda: open(f"/proc/{supervisor}/mem", "rb")
    yield "descriptors", lambda: os.listdir(f"/proc/{supervisor}/fd")
    yield "signal", lambda: os.kill(supervisor, 0)
    yield "run", lambda: os.listdir(run)
    yield "spec", lambda: open(run + "/spec.json").read()
    yield "lock", lambda: open(run + "/launcher.lock").read()
    yield "code", lambda: open(run + "/code/train.py", "a")
    yield "shared memory", lambda: open("/dev/shm/x", "w")
    yield "temporary", lambda: open("/mnt/tmp/x", "w")
    yield "root again", lambda: os.setuid(0)
    yield "own directory", lambda: open("x", "w").write("x")
    yield "own code", lambda: open(run + "/code/train.py").read(1)
def probe(up):
    found = {"user": os.getuid()}
    for name, attempt in attempts(os.path.normpath(os.path.join(os.getcwd(), up)), "/mnt/private/data/val.bin", os.getppid()):
        try:
            attempt()
            found[name] = "worked"
        except PermissionError:
            pass
        except OSError as error:
            found[name] = type(error).__name__
    return "PROBED" + json.dumps(found)
"""
GIVEN = {"own directory": "worked", "own code": "worked"}


def namespaces() -> bool:
    command = [sys.executable, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x00020000))"]
    return sys.platform == "linux" and os.geteuid() == 0 and syscalls.available() and subprocess.run(command, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not namespaces(), reason="needs root, as in a container, and mount namespaces")


class Container:
    def __init__(self, data: Path, directory: Path) -> None:
        self._data, self.out, self._code = data, directory / "out", directory / "code"
        self.out.mkdir()
        self._code.mkdir()

    def run(self, action: str, *arguments: str, hide: bool = True) -> None:
        packages = sysconfig.get_path("purelib")
        hidden = [path for path in sandbox.copies_of(prepare.PROFILES["tiny"].dataset) if path.is_relative_to(Path(packages).resolve())]
        where = (sys.base_prefix, str(Path(packages).resolve()), str(PACKAGE.parent), str(self._data), str(self.out))
        command = [sys.executable, "-c", CONTAINER, *where, ":".join(map(str, hidden)) if hide else "", action, *arguments]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)

    def train(self, code: str, hide: bool = True) -> dict[str, Any]:
        (self._code / "train.py").write_text(code, encoding="utf-8")
        (self._code / "train.py").chmod(0o600)  # as a careful user's files are
        spec = protocol.Spec("x-1", 0, "tiny", 5.0, 1, "/mnt/private/data")
        self.run("train", json.dumps(vars(spec)), str(self._code), "/mnt/private/out", hide=hide)
        return protocol.read_json(self.out / protocol.RESULT) or {}

    def score(self) -> dict[str, Any]:
        self.run("score")
        return protocol.read_json(self.out / "scored.json") or {}


@pytest.fixture
def container(data: Path, tmp_path: Path) -> Container:
    return Container(data, tmp_path)


def probed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text.partition("PROBED")[2])[0]
    return found


def test_without_landlock_each_child_is_a_user_that_can_read_nothing_hidden(container: Container, data: Path) -> None:
    trained = container.train(PROBES + BIGRAM.replace("# before submit", "print(probe('../..'))"))
    assert (trained["state"], trained["sandbox"]) == (protocol.SUBMITTED, "user+seccomp"), trained
    found = probed((container.out / protocol.LOG).read_text(encoding="utf-8"))
    assert found.pop("user") >= 1 << 16 and found == GIVEN
    scored = container.score()
    assert (scored["state"], scored["sandbox"]) == ("finished", "user+seccomp"), scored
    assert scored["val_bpb"] == pytest.approx(bigram_bpb(data), abs=1e-5)


def test_a_model_server_is_another_user_that_can_read_nothing_hidden(container: Container) -> None:
    """What it found it can say by failing on the random tokens of its rehearsal."""
    code = BIGRAM.replace("return self.table(idx)", "raise KeyError(probe('../../..'))")
    assert container.train(PROBES + code)["state"] == protocol.SUBMITTED
    found = probed(container.score()["failure"]["message"])
    assert found.pop("user") >= 1 << 16 and found == GIVEN


def test_what_every_user_could_read_keeps_a_child_from_starting(container: Container) -> None:
    result = container.train(BIGRAM, hide=False)
    assert result["state"] == "crashed" and "every user can read" in str(result["failure"]), result
