"""Prepares code that keeps no contract: its folder, its environment, its interpreter, and what of the machine it may read (fixed)."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from autoresearch_mcp.trainer import entry, metric_files
from autoresearch_mcp.trainer.failures import Ended, Failure
from autoresearch_mcp.trainer.own_scorer.scorer import folders
from autoresearch_mcp.trainer.protocol import Spec
from autoresearch_mcp.trainer.records import Log
from autoresearch_mcp.trainer.sandbox import Jail, has_world, separate_users

# What looks for a network first finds that there is none, and goes by what is cached.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "MPLBACKEND": "Agg",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "PIP_NO_INDEX": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TP_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
_WANTS_TO_SHARE = re.compile(r"SemLock|/dev/shm|shared_memory|_MultiProcessingDataLoaderIter|torch_shm_manager")
WORLD = "world"  # the empty folder of a run directory in which a world of its own is put together
_PREFIX_FOLDERS = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
_LOOK = """
import hashlib, json, platform, sys
from importlib import metadata
found = {(d.metadata["Name"] or "").lower(): d.version for d in metadata.distributions()}
text = json.dumps([platform.python_version(), sorted(found.items())])
print(json.dumps({
    "folders": [sys.prefix, sys.base_prefix],
    "paths": [path for path in sys.path if path.endswith("-packages")],
    "python": platform.python_version(),
    "packages": hashlib.sha256(text.encode()).hexdigest()[:16],
    "versions": {name: found[name] for name in ("torch", "numpy") if name in found},
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that is not the launcher's own.

    Attributes:
        path: of its program.
        folders: what it has to read.
        packages: a hash of its version and of all packages that it has.
        versions: of itself and of the packages that compute.
    """

    path: str
    folders: tuple[Path, ...]
    packages: str
    versions: dict[str, str]


def interpreter(path: str) -> Interpreter:
    """Ask another interpreter what it has.

    Raises:
        Ended: it can't be run.
    """
    try:
        done = subprocess.run([path, "-I", "-c", _LOOK], capture_output=True, text=True, timeout=60, check=True)
        facts: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", "") or "").strip().splitlines()[-1:] or [getattr(error, "strerror", None) or "no answer"]
        message = f"[training] python, {path}, can't be run: {words[0][:200]}. Correct it in lab.toml."
        raise Ended("crashed", Failure("error", message, fault="machine")) from None
    prefixes = [Path(folder) for folder in dict.fromkeys(facts["folders"])]
    folders = [folder / name for folder in prefixes for name in _PREFIX_FOLDERS]
    return Interpreter(path, (*folders, *map(Path, facts["paths"])), facts["packages"], {"python": facts["python"], **facts["versions"]})


class Script:
    """One run of code that keeps no contract.

    Args:
        spec: what to run.
        code: the folder with its files.
        folder: where it runs, in a copy of them.
    """

    def __init__(self, spec: Spec, code: Path, folder: Path) -> None:
        self._spec, self._code, self._folder = spec, code, folder
        self._interpreter = interpreter(spec.python) if spec.python else None
        self._readable = Path(spec.readable).resolve() if spec.readable else None

    @property
    def packages(self) -> str:
        """A hash of another interpreter's packages; empty where the launcher's own runs the code."""
        return self._interpreter.packages if self._interpreter else ""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of another interpreter and its packages."""
        return self._interpreter.versions if self._interpreter else {}

    def lay_out(self) -> None:
        """Fill the run's folder: a copy of the files, as much of a repository as tells its commit, and a link to the data below its home.

        Raises:
            Ended: the folder where it should start is not there.
        """
        shutil.copytree(self._code, self._folder, dirs_exist_ok=True)
        if self._spec.commit:
            for name in ("objects", "refs"):
                (self._folder / ".git" / name).mkdir(parents=True)
            (self._folder / ".git" / "HEAD").write_text(f"{self._spec.commit}\n", encoding="ascii")
        if self._readable is not None and self._spec.below_home:
            link = self._folder / self._spec.below_home
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self._readable)
        if not self.start.is_dir():
            message = f"[training] cwd is {self._spec.cwd}, and the code that was copied has no such folder. Name it in [training] files."
            raise Ended("crashed", Failure("error", message, fault="machine"))

    def jail(self, usual: Jail, run: Path, memory_mb: int) -> Jail:
        """Return the jail of the run.

        Args:
            usual: that of a run with the contract.
            run: the run directory, which it must not read.
            memory_mb: what it may use; of this, half in /dev/shm.
        """
        world = run / WORLD if has_world() and not separate_users() else None
        if world is not None:
            world.mkdir(exist_ok=True)
        read = (*self._data(), *(self._interpreter.folders if self._interpreter else ()))
        environment = {**usual.environment, **OFFLINE, **self._own_variables()}
        environment |= {"MPLCONFIGDIR": environment["HOME"]} | ({"TMPDIR": "/tmp"} if world else {})  # noqa: S108
        if self._interpreter:
            environment["PATH"] = f"{Path(self._interpreter.path).parent}:{environment['PATH']}"
        if self._readable:
            environment |= {"HF_HOME": str(self._readable)} if (self._readable / "hub").is_dir() else {}
            environment |= {"TORCH_HOME": str(self._readable)} if (self._readable / "hub" / "checkpoints").is_dir() else {}
        environment |= {name: self._filled(text) for name, text in self._spec.env.items()}
        return replace(
            usual,
            read=read,
            hidden=(
                run,
                *(folders(self._spec.scoring, self._interpreter.folders if self._interpreter else ()) if self._spec.scoring else ()),
            ),
            environment=environment,
            directory=self.start,
            locks=True,
            script=True,
            world=world,
            shared_mb=memory_mb // 2,
        )

    def _data(self) -> tuple[Path, ...]:
        """Return the data, by its own name too if that is a link. A link in it leads nowhere else: who packed a data set may have set it."""
        return (self._readable, Path(self._spec.readable)) if self._readable is not None else ()

    def run(self) -> None:
        """In the run's own process: run the code. Doesn't return where another interpreter does it."""
        what: dict[str, Any] = {
            "root": str(self._folder),
            "entry": self._spec.entry,
            "module": self._spec.module,
            "arguments": [self._filled(text) for text in self._spec.arguments],
        }
        if self._interpreter is None:
            entry.run(**what)
            return
        program = self._interpreter.path
        os.execv(program, [program, "-u", str(Path(entry.__file__)), json.dumps(what)])  # noqa: S606

    def read_metric(self, log: Log) -> tuple[float, dict[str, float]]:
        """Read what it says of its metric, once it has ended.

        Args:
            log: of the run.

        Returns:
            The metric, and further numbers that it left in files.

        Raises:
            Ended: it says nothing, or no finite number.
        """
        name, source, scalars = self._spec.metric, self._spec.source, dict[str, float]()
        if source:
            reading, scalars = metric_files.read(self._folder, source, name)
        else:
            reading = log.reported()
        if reading is None:
            place = "TensorBoard event file" if source == metric_files.TENSORBOARD else source
            form = "a match of [metric] pattern" if self._spec.pattern else f"a line `{name}: NUMBER`"
            missing = f"without leaving {name} in a {place}" if source else f"without printing {form}"
            raise Ended("crashed", Failure("error", f"{self._spec.entry} ended {missing}.", log.tail.strip().splitlines()[-5:]))
        if reading.value is None:
            kind = "nan" if re.match(r"[-+]?(nan|inf)", reading.fault, re.IGNORECASE) else "error"
            raise Ended("crashed", Failure(kind, f"{self._spec.entry} gave no number for {name}: {reading.fault}.", [reading.line]))
        return reading.value, scalars

    @property
    def start(self) -> Path:
        """The folder where it starts."""
        return self._folder / self._spec.cwd

    def _own_variables(self) -> dict[str, str]:
        data = str(self._readable) if self._readable else ""
        own = {"AUTORESEARCH_SEED": str(self._spec.seed), "AUTORESEARCH_BUDGET_S": f"{self._spec.budget_s:g}"}
        return own | ({"AUTORESEARCH_DATA": data} if data else {})

    def _filled(self, text: str) -> str:
        """Return a text of lab.toml with the run's own variables in place of their names."""
        known: Mapping[str, str] = {**self._own_variables(), "HOME": str(self._folder)}
        return Template(text).safe_substitute(known)


def explained(failure: Failure, log: str, limit_mb: int) -> Failure:
    """Return a failure that says which of the sandbox's limits was met, and what to do.

    Args:
        failure: as the log has it.
        log: the end of what the code printed, with its traceback.
        limit_mb: how much it may write.
    """
    hint = ""
    if "File too large" in failure.message:
        hint = f" A run may write {limit_mb} MB ([training] max_file_mb in lab.toml)."
    elif not has_world() and _WANTS_TO_SHARE.search(log) and re.search(r"Permission|_shutdown", log):
        hint = (
            " This machine gives a run no /dev/shm of its own (it takes Linux with namespaces for users), so processes can't share memory: "
            "use num_workers=0, and no pools or queues."
        )
    return replace(failure, message=failure.message + hint)
