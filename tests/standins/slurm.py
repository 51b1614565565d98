"""A real Slurm of one node on loopback: its daemons in a folder, started in seconds. It needs Debian's slurm-wlm and munge, and root."""

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_port
from tests.waiting import until

_DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")


def why_missing() -> str:
    """Return why no cluster can be started here; empty where one can."""
    absent = [name for name in _DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"there is no {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root here"


@contextlib.contextmanager
def cluster(folder: Path, cpus: int = 8) -> Iterator[Path]:
    """Run a cluster whose node says it has `cpus` cores and no memory limit of its own. Yields its configuration file."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    controller, node = free_port(), free_port()
    conf = folder / "slurm.conf"
    conf.write_text(
        f"""ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=localhost CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
""",
        encoding="utf-8",
    )
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    _start_munge(environment)
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "localhost"]):
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30)
        until(lambda: "idle" in _states(environment), timeout_s=30)
        yield conf
    finally:
        for name in ("slurmd", "slurmctld"):
            with contextlib.suppress(OSError, ValueError):  # it did not begin
                _end(int((folder / f"{name}.pid").read_text(encoding="ascii")))


def _end(daemon: int) -> None:
    """Ask a daemon to end, and wait until it has."""
    process = os.pidfd_open(daemon)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], 120)
        assert ended, f"the daemon {daemon} of Slurm goes on"
    finally:
        os.close(process)


def _states(environment: dict[str, str]) -> str:
    return subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, check=False, capture_output=True, text=True, timeout=30).stdout


def _start_munge(environment: dict[str, str]) -> None:
    """Start the daemon by which Slurm knows its users, unless it runs."""
    if subprocess.run(["munge", "-n"], env=environment, check=False, capture_output=True, timeout=10).returncode == 0:
        return
    user = pwd.getpwnam("munge")
    run = Path("/run/munge")
    run.mkdir(exist_ok=True)
    os.chown(run, user.pw_uid, user.pw_gid)
    subprocess.run(["munged"], env=environment, user="munge", group=user.pw_gid, check=False, capture_output=True, timeout=30)
    until(
        lambda: subprocess.run(["munge", "-n"], env=environment, check=False, capture_output=True, timeout=10).returncode == 0, timeout_s=20
    )
