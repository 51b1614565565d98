"""Two machines that confine by users: this kernel, its mounts changed and its Landlock taken away, and gVisor's. Both as an image's build and a
container's start would leave them: the interpreter and the packages where every user can read them, the data where only root can.

Places inside, the same in both: /mnt/python, /mnt/packages, /mnt/repository, /mnt/code; /mnt/private with data and out; /mnt/tmp.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from autoresearch_mcp.trainer import prepare, sandbox
from autoresearch_mcp.trainer.sandbox import seccomp
from tests.trainer.conftest import PACKAGE

PRIVATE = "/mnt/private"
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": "/mnt/packages:/mnt/repository",
    "TMPDIR": "/mnt/tmp",
    sandbox.PRIVATE: PRIVATE,
}
GVISOR = ("--platform=ptrace", "--network=none", "--ignore-cgroups")
PYTHON = ("/mnt/python/bin/python3", "-m", "autoresearch_mcp.trainer.remote")
PACKAGES = Path(sysconfig.get_path("purelib")).resolve()

NAMESPACE = """
import ctypes, errno, json, os, sys
from pathlib import Path
binds, environment, argv = map(json.loads, sys.argv[1:4])
libc = ctypes.CDLL(None, use_errno=True)
BIND, REMOUNT, READ_ONLY, PRIVATE = 4096, 32, 1, 1 << 18 | 1 << 14
def mount(source, target, kind=None, flags=0, options=None):
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    if libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")
if libc.unshare(0x00020000) != 0:
    raise OSError(ctypes.get_errno(), "unshare")
mount(None, "/", None, PRIVATE)
mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755")
Path("/mnt/private").mkdir(0o700)
Path("/mnt/tmp").mkdir(0o755)
for source, target in binds:
    Path(target).mkdir(0o755, parents=True, exist_ok=True)
    mount(source, target, None, BIND)
for line in Path("/proc/self/mounts").read_text().splitlines():
    target = line.split()[1]
    if not target.startswith(("/mnt", "/proc", "/sys")) and target != "/dev/shm":
        mount(None, target, None, BIND | REMOUNT | READ_ONLY)
mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777")
sys.path.insert(0, "/mnt/repository")
from autoresearch_mcp.trainer.sandbox import seccomp
libc.prctl(38, 1, 0, 0, 0)
seccomp.install([rule for number in (444, 445, 446) for rule in seccomp.answer(number, errno.ENOSYS)])
os.chdir("/mnt")
os.execve(argv[0], argv, environment)
"""


class Container:
    """Args:
    kind: `namespace` or `gvisor`.
    directory: on this machine, for what goes in and comes out.
    hidden: whether the dataset's package is.
    """

    def __init__(self, kind: str, data: Path, directory: Path) -> None:
        self.kind, self.out, self.code = kind, directory / "out", directory / "code"
        self._directory, self._data = directory, data
        self.more: dict[str, Path] = {}  # places inside, and what else is there
        for folder in (self.out, self.code, directory / "empty"):
            folder.mkdir(0o700)

    def run(self, *arguments: str, hide: bool = True) -> str:
        """Run `autoresearch_mcp.trainer.remote` with these arguments to its end, and return what it printed."""
        binds = [
            (sys.base_prefix, "/mnt/python"),
            (PACKAGES, "/mnt/packages"),
            (PACKAGE.parent, "/mnt/repository/autoresearch_mcp"),
            (self.code, "/mnt/code"),
        ]
        binds += [(self._data, f"{PRIVATE}/data"), (self.out, f"{PRIVATE}/out"), *((path, place) for place, path in self.more.items())]
        if hide:
            copies = [path for path in sandbox.copies_of(prepare.PROFILES["tiny"].dataset) if path.parent == PACKAGES]
            binds += [(self._directory / "empty", f"/mnt/packages/{path.name}") for path in copies]
        start = self._in_namespace if self.kind == "namespace" else self._in_gvisor
        command = start([(str(source), target) for source, target in binds], [*PYTHON, *arguments])
        # A pipe, as where its words are listened to
        return subprocess.run(command, check=True, timeout=240, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout

    def _in_namespace(self, binds: list[tuple[str, str]], argv: list[str]) -> list[str]:
        return [sys.executable, "-c", NAMESPACE, json.dumps(binds), json.dumps(ENVIRONMENT), json.dumps(argv)]

    def _in_gvisor(self, binds: list[tuple[str, str]], argv: list[str]) -> list[str]:
        bundle = self._directory / f"bundle-{secrets.token_hex(4)}"
        root = bundle / "rootfs"
        (root / "mnt/private").mkdir(0o700, parents=True)
        (root / "mnt/tmp").mkdir()
        (root / "tmp").mkdir(0o1777)
        mounts = [{"destination": f"/{name}", "type": kind, "source": kind} for name, kind in (("proc", "proc"), ("dev", "tmpfs"))]
        mounts.append({"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})  # type: ignore[dict-item]
        for path in map(Path, ("/usr", "/etc", "/bin", "/lib", "/lib64")):
            if path.is_symlink():
                (root / path.name).symlink_to(path.readlink())
            elif path.exists():
                binds = [*binds, (str(path), str(path))]
        binding = [{"destination": target, "type": "bind", "source": source, "options": ["rbind"]} for source, target in binds]
        usual = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SETPCAP"]
        sets = {name: [f"CAP_{capability}" for capability in usual] for name in ("bounding", "effective", "permitted", "inheritable")}
        process = {"user": {"uid": 0, "gid": 0}, "cwd": "/mnt", "capabilities": sets, "args": argv}
        process["env"] = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
        spec = {"ociVersion": "1.0.0", "process": process, "root": {"path": "rootfs"}, "mounts": [*mounts, *binding]}
        (bundle / "config.json").write_text(json.dumps({**spec, "linux": {"namespaces": namespaces}}), encoding="utf-8")
        return ["runsc", *GVISOR, f"--root={bundle / 'state'}", "run", "-bundle", str(bundle), bundle.name]


def missing(kind: str) -> str:
    """What this machine lacks for a container of this kind."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, as in a container"
    if kind == "gvisor":
        works = shutil.which("runsc") and subprocess.run(["runsc", *GVISOR, "do", "true"], check=False, capture_output=True).returncode == 0
        return "" if works else "needs gVisor that runs here: apt-get install runsc"
    tried = subprocess.run([sys.executable, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x00020000))"], check=False)
    return "" if tried.returncode == 0 and seccomp.available() else "needs mount namespaces and seccomp"
