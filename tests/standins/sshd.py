"""A real sshd on loopback: key login only, one port a host, each host with a home of its own. It needs Debian's openssh-server."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.waiting import until

_SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def why_missing() -> str:
    """Return why no sshd can be started here; empty where one can."""
    return "" if _SSHD and shutil.which("ssh") else "there is no sshd (Debian: openssh-server)"


@dataclass(frozen=True)
class Hosts:
    """Running hosts.

    Attributes:
        folder: Has `ssh`, which reaches the hosts by their names, and a folder for each home.
        config: Of that ssh.
    """

    folder: Path
    config: Path

    @property
    def ssh(self) -> str:
        return str(self.folder / "bin" / "ssh")

    def home(self, name: str) -> Path:
        return self.folder / f"home of {name}"

    def stop(self, name: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / f"{name}.pid").read_text(encoding="ascii")), signal.SIGTERM)


@contextlib.contextmanager
def hosts(folder: Path, names: Sequence[str]) -> Iterator[Hosts]:
    """Run hosts of these names, whose data is what this machine has prepared. `other` greets, and its shell isn't bash."""
    running = Hosts(folder, folder / "config")
    (folder / "bin").mkdir(parents=True)
    folder.chmod(0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True, timeout=30)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    cache = os.environ.get("AUTORESEARCH_CACHE") or str(Path.home() / ".cache" / "autoresearch-mcp")
    texts = []
    try:
        for name in names:
            running.home(name).mkdir()
            port = free_port()
            (folder / f"{name}.sshd").write_text(
                f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/{name}.pid
AuthorizedKeysFile {folder}/user.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
SetEnv "HOME={running.home(name)}" AUTORESEARCH_CACHE={cache} PIP_NO_INDEX=1 PIP_NO_DEPS=1 "PATH={running.home(name)}/tools:/usr/local/bin:/usr/bin:/bin"
""",
                encoding="utf-8",
            )
            if name == "other":
                with (folder / f"{name}.sshd").open("a", encoding="utf-8") as file:
                    file.write('ForceCommand printf \'Welcome\\033[31m {"a": 1}\\n\'; exec dash -c "$SSH_ORIGINAL_COMMAND"\n')
            subprocess.run([str(_SSHD), "-f", str(folder / f"{name}.sshd"), "-E", str(folder / f"{name}.log")], check=True, timeout=30)
            until(lambda name=name: (folder / f"{name}.pid").exists())
            texts.append(f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n")
        common = f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n"
        running.config.write_text("".join(texts) + common, encoding="utf-8")
        wrapper = Path(running.ssh)
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(running.config))} "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        yield running
    finally:
        for name in names:
            running.stop(name)
