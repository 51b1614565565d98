"""Where something of the sandbox is missing, the result says so. Real launches on a kernel, or a system, that pretends to lack it."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import protocol, sandbox
from tests.trainer.conftest import BIGRAM, PACKAGE, Warm, processes_in

LINUX_WITHOUT = f"""
import ctypes, os, sys
from autoresearch_mcp.trainer.sandbox import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.install(seccomp.answer(int(sys.argv[2]), {errno.ENOSYS}))
os.execv(sys.executable, [sys.executable, "-m", "autoresearch_mcp.trainer.launch", sys.argv[1]])
"""
ANOTHER_SYSTEM = """
import sys
import torch, torch._dynamo, safetensors.torch  # they look at the system themselves
sys.platform = "darwin"
from autoresearch_mcp.trainer import launch
sys.argv = ["launch", sys.argv[1]]
launch.main()
"""
PROBES = """
    import socket
    for name, attempt in [("read", lambda: open({val!r}, "rb").read(1)), ("socket", socket.socket)]:
        try:
            attempt()
            print("PROBE", name, "worked")
        except PermissionError:
            print("PROBE", name, "refused")"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it pretends on Linux to be elsewhere")


def launch(warm: Warm, program: str, code: str, *arguments: str) -> tuple[dict[str, Any], dict[str, str], Path]:
    run = warm.directory(code)
    environment = {**os.environ, "AUTORESEARCH_CLEAN": "1"}  # else it would start itself anew
    subprocess.run([sys.executable, "-c", program, str(run), *arguments], cwd=PACKAGE.parent, env=environment, check=True, timeout=120)
    result = protocol.read_json(run / protocol.RESULT)
    assert result is not None and result["state"] == "finished", result
    lines = (run / protocol.LOG).read_text(encoding="utf-8").splitlines()
    return result, {line.split()[1]: line.split()[2] for line in lines if line.startswith("PROBE")}, run


@pytest.mark.skipif(sandbox.level() == "unsandboxed", reason="it is missing without pretending")
@pytest.mark.parametrize(
    ("missing", "calls", "refused"), [("landlock", (444, 444), "socket"), ("seccomp", (317, 277), "read")], ids=["landlock", "seccomp"]
)
def test_a_kernel_that_lacks_half_of_the_sandbox_gives_what_it_has_and_says_unsandboxed(
    warm: Warm, data: Path, missing: str, calls: tuple[int, int], refused: str
) -> None:
    code = BIGRAM.replace("# before submit", PROBES.format(val=str(data / "val.bin")).lstrip())
    result, probes, run = launch(warm, LINUX_WITHOUT, code, str(calls[os.uname().machine == "aarch64"]))
    assert result["sandbox"] == "unsandboxed"
    assert probes == {name: "refused" if name == refused else "worked" for name in ("read", "socket")}
    spec = protocol.read_json(run / protocol.SPEC) or {}
    read = protocol.parse_result(result)
    assert protocol.conditions(read, spec) != protocol.conditions(replace(read, sandbox=sandbox.level()), spec)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_another_system_trains_and_says_unsandboxed(warm: Warm) -> None:
    result, _, run = launch(warm, ANOTHER_SYSTEM, BIGRAM)
    assert result["sandbox"] == "unsandboxed" and 1.5 < result["val_bpb"] < 4.0
    assert not processes_in(run)
