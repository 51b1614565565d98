"""`setup account`: gives a lab an account of its own, so that agents with a shell can't read or change what the tools refuse; see docs/accounts.md."""

import contextlib
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.findings import Finding
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Role

USER = "autoresearch"
ADDRESS = "127.0.0.1:8765"
_HOMES = Path("/var/lib")
_UNITS = Path("/etc/systemd/system")
_PERSONS = 1000  # the first user id of a person's account, as distributions have it
_UNIT = """[Unit]
Description=autoresearch-mcp: the lab {root}
After=network.target

[Service]
User={user}
WorkingDirectory={root}
ExecStart={command}
Restart=on-failure
NoNewPrivileges=yes
KillMode=process

[Install]
WantedBy=multi-user.target
"""


def set_up(root: Path, user: str, agents: Sequence[str], address: str, dry_run: bool, say: Callable[[str], None]) -> None:
    """Make the account, hand the lab to it, and make a token for each agent. What is there already stays.

    Args:
        root: the lab.
        user: the account's name.
        agents: names that get a worker's token, unless they have one.
        address: where the lab will be served.
        dry_run: whether to change nothing.
        say: tells the user what happens.

    Raises:
        LabError: `no_account` where this machine or this caller can't; `not_a_lab`.
    """
    lab_settings.load(root)
    home, command = _HOMES / user, [sys.executable, "-m", "autoresearch_mcp.server.cli", "serve", str(root), "--http", address]
    unit = _UNIT.format(root=root, user=user, command=shlex.join(command))
    file = _UNITS / f"{user}.service"
    say(f"The system account {user}, home {home}, will own {root} alone (mode 750; .autoresearch 700).")
    say(f"Worker's tokens for: {', '.join(agents) or 'nobody; give --agent NAME for each'}. With tokens, HTTP serves nobody without one.")
    if dry_run:
        say(f"{file}, where there is systemd:\n{unit}Nothing was changed: this was a dry run.")
        return
    _check(user)
    account = _account(user, home)
    paths = LabPaths(root)
    paths.state.mkdir(exist_ok=True)
    with contextlib.closing(Ledger(paths.ledger)) as ledger:
        having = {token.name for token in ledger.tokens().values() if token.valid}
        tokens = {name: ledger.add_token(name, Role.WORKER, None) for name in agents if name not in having}
    _hand_over(root, account)
    root.chmod(0o750)
    paths.state.chmod(0o700)
    if not _can(account, ["test", "-r", str(paths.settings)]):
        say(f"NOTE: {user} can't reach {root}, because of a folder above it. Move the lab, such as to /srv.")
    if not _can(account, [sys.executable, "-c", "import autoresearch_mcp.server"]):
        say(f"NOTE: {user} can't run {sys.executable}. Install the package where every account reads it, such as in /opt.")
    for name, token in tokens.items():
        say(f"{name}: git clone http://{name}:{token}@{address}/git {name}")
    if Path("/run/systemd/system").is_dir():
        file.write_text(unit, encoding="utf-8")
        say(f"{file} is written. Start it: systemctl daemon-reload && systemctl enable --now {file.stem}")
    else:
        say(f"No systemd here. Start it: sudo -u {user} -H {shlex.join(command)}")
    say(f"Other commands from now on: sudo -u {user} -H autoresearch-mcp status {shlex.quote(str(root))}")


def account(root: Path) -> Finding:
    """Say against whom the lab's promises hold: who can read its state."""
    state = LabPaths(root).state
    status = state.stat() if state.is_dir() else root.stat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    hint = "`autoresearch-mcp setup account` gives the lab an account of its own; see docs/accounts.md."
    closed = not state.is_dir() or not status.st_mode & 0o077 or not root.stat().st_mode & 0o007
    if 0 < status.st_uid < _PERSONS and closed:
        return Finding("account", "ok", f"the lab belongs to the account {owner}, and no other reads its state")
    which = f"An agent with a shell as {owner}{'' if closed else ', or as anyone here,'} reads hidden scores, whatever the tools refuse"
    return Finding("account", "note", which, hint)


def _check(user: str) -> None:
    if not sys.platform.startswith("linux") or shutil.which("useradd") is None:
        raise LabError("Accounts are made on Linux alone, with useradd. Elsewhere serve the lab from a container.", "no_account")
    if os.geteuid() != 0:
        raise LabError("To make an account takes root: run it with sudo.", "no_account")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user):
        raise LabError(f"{user!r} is no name for an account.", "no_account")


def _account(user: str, home: Path) -> pwd.struct_passwd:
    """Return the account, which is made unless it is there."""
    try:
        existing = pwd.getpwnam(user)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--home-dir", str(home), "--shell", shutil.which("nologin") or "/bin/false", user]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"useradd failed: {done.stderr.strip()}", "no_account") from None
        existing = pwd.getpwnam(user)
    if existing.pw_uid == 0 or existing.pw_uid >= _PERSONS:
        raise LabError(f"{user} is a person's account. Choose another --user.", "no_account")
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, existing.pw_uid, existing.pw_gid)
    return existing


def _hand_over(root: Path, account: pwd.struct_passwd) -> None:
    """Make an account own a folder with all that is in it, without following links."""
    for folder, names, files in os.walk(root):
        for path in (Path(folder), *(Path(folder, name) for name in (*names, *files))):
            status = path.lstat()
            # A file with a second name elsewhere stays its owner's: who made the link may not own the file
            if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _can(account: pwd.struct_passwd, command: Sequence[str]) -> bool:
    """Return whether an account can run a command."""
    try:
        done = subprocess.run(
            command, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", capture_output=True, env={"PATH": os.defpath}
        )
    except OSError:
        return False
    return done.returncode == 0
