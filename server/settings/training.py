"""Defines `[training]` of `lab.toml`: what an experiment runs, and with what."""

import re
import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from autoresearch_mcp.server.editable import Editable, is_pattern
from autoresearch_mcp.server.paths import STATE
from autoresearch_mcp.server.settings.metric import Name
from autoresearch_mcp.server.settings.profile import ProfileSection
from autoresearch_mcp.server.settings.section import Section
from autoresearch_mcp.trainer.profiles import PROFILES, Profile, find

# No repeated `\w` in a pattern, as in `\w{0,40}`: each takes tens of milliseconds to compile, at every start of a server.


OF_SCRIPTS = ("module", "python", "cwd", "env", "memory_mb", "max_file_mb", "max_files")  # keys for code that runs as it is


class Training(Section):
    """Say what an experiment runs. An experiment keeps these settings from its launch; a change holds for later launches."""

    own_profile: ProfileSection | None = Field(
        default=None, description="what `[profile.NAME]` says; the lab fills it in", exclude_if=lambda own: own is None
    )
    profile: str = Field(
        default="cpu",
        description="what is trained on what: `cpu`, a 2-layer GPT on two centuries of State of the Union addresses; `h100`, the original's "
        "8 layers on its web text; "
        "`gpu`, 6 layers on that text for cards of 8 to 24 GB, and `mps` for Apple's; `tiny`, a toy for tests; or the NAME of a `[profile.NAME]`",
    )
    budget_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="seconds of one experiment. On `cpu` they are CPU seconds of training, with a wall cap of 3 times that; on GPUs wall "
        "seconds, and the default is 300; for code without the contract wall seconds from start to end",
    )
    heldout: Literal["secret", "public"] = Field(
        default="secret",
        description="what trainings never see: `secret` draws it with the lab's own secret; `public` is the profile's split, the same in "
        "every lab, which a training script can know by heart",
    )
    threads: int = Field(default=1, ge=1, le=256, description="threads of one training")
    attention: Literal["auto", "fa3", "sdpa"] = Field(
        default="auto", description="`auto` is FlashAttention 3 on a Hopper GPU and PyTorch's elsewhere; `fa3` and `sdpa` insist on one"
    )
    stop_hopeless: bool = Field(
        default=False,
        description="whether a commit's first training is stopped when its loss is 3 standard deviations worse than the champion's runs at the "
        "same share of the budget, from 25 % on. It counts as failed. Every 20th goes on, to measure what is lost",
    )
    smoke: bool | None = Field(
        default=None,
        description="whether a new proposal is started for at most 5 s before the answer, so that what can't be imported, or dies at once, is "
        "told at once. It has the lowest priority, and is left out while all cores train. By default it is on where the contract is kept and "
        "a training takes 20 CPU seconds or more on this machine",
    )
    entry: str = Field(
        default="train.py",
        max_length=1000,
        description="the file that is run, with its arguments if it takes any. In them `$AUTORESEARCH_SEED`, `$AUTORESEARCH_BUDGET_S`, "
        "`$AUTORESEARCH_DATA` and `$HOME`, the run's own folder, are filled in",
    )
    module: str = Field(
        default="",
        max_length=1000,
        description="instead of `entry`: a module that is run as with `python -m`, or `module:function`, which is called as an installed command "
        "calls it; with its arguments",
    )
    files: list[str] = Field(
        default=[], max_length=200, description="other paths of the repository that the code needs; proposals can't touch them"
    )
    editable: list[str] = Field(
        default=["train.py"],
        min_length=1,
        max_length=50,
        description="paths that proposals may touch: `train.py`, or patterns as in `.gitignore`, "
        "such as `model/**`, `src/*.py` or `!src/fixed.py`",
    )
    reported_metric: Name = Field(default="", description="of labs before 0.2: the same as `[metric] name`")
    data: str = Field(
        default="", max_length=1000, description="a folder that such code may read: an absolute path, or one that begins with `~/`"
    )

    python: str = Field(
        default="",
        max_length=1000,
        description="the interpreter that runs such code, or its virtual environment: an absolute path, or one that begins with `~/`. "
        "Its packages belong to the conditions. Empty: the server's own",
    )
    cwd: str = Field(default="", max_length=400, description="the folder of the repository where such code starts; empty is its top")
    env: dict[str, str] = Field(default={}, max_length=50, description="variables that such code finds set; filled in as in `entry`")
    memory_mb: int = Field(default=0, ge=0, le=10**8, description="megabytes of memory for such code; 0 is 4,096")
    max_file_mb: int = Field(
        default=0, ge=0, le=10**8, description="megabytes that such code may write, in one file or in all together; 0 is 1,024"
    )
    max_files: int = Field(default=0, ge=0, le=10**7, description="files and folders that such code may have in its folder; 0 is 10,000")

    @model_validator(mode="before")
    @classmethod
    def _budget_of_its_profile(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "budget_s" in given or given.get("profile") not in [*PROFILES]:
            return given
        return {**given, "budget_s": PROFILES[given["profile"]].budget_s}

    @field_validator("profile")
    @classmethod
    def _exists(cls, profile: str, info: ValidationInfo) -> str:
        if profile not in PROFILES and info.data.get("own_profile", profile) is None:
            raise ValueError(f"be one of {', '.join(PROFILES)}, or the NAME of a [profile.NAME]")
        return profile

    @field_validator("entry")
    @classmethod
    def _is_a_command(cls, entry: str) -> str:
        try:
            file = shlex.split(entry)[0]
        except (ValueError, IndexError):
            file = ""
        if not is_inside(file) or not file.endswith(".py"):
            raise ValueError('name a Python file of the repository, and its arguments if it takes any, such as "train.py --depth 4"')
        return entry

    @field_validator("editable", "files")
    @classmethod
    def _stay_inside(cls, paths: list[str]) -> list[str]:
        for path in paths:
            bare = re.sub(r"[*?\[\]!]+", "x", path.removeprefix("!").strip("/")) if is_pattern(path) else path
            if not is_inside(bare):
                raise ValueError(f"hold paths inside the repository, such as train.py or model/**; {path!r} is not one")
        return paths

    @field_validator("module")
    @classmethod
    def _is_a_module(cls, module: str) -> str:
        try:
            name = shlex.split(module)[0] if module else "x"
        except (ValueError, IndexError):
            name = ""
        where, colon, function = name.partition(":")
        if not all(part.isidentifier() for part in [*where.split("."), *([function] if colon else [])]):
            raise ValueError(
                'name a module or a function of it, and its arguments if it takes any, such as "pkg.train --depth 4" or "pkg.cli:main"'
            )
        return module

    @field_validator("python", "data")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if path and not Path(path).expanduser().is_absolute():
            raise ValueError("be an absolute path, or begin with ~/")
        return path

    @field_validator("cwd")
    @classmethod
    def _is_a_folder_of_it(cls, cwd: str) -> str:
        if cwd and not is_inside(cwd.rstrip("/")):
            raise ValueError("be a folder of the repository, such as experiments/mnist")
        return cwd.rstrip("/")

    @field_validator("env")
    @classmethod
    def _can_be_set(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) or "\0" in value or len(name) + len(value) > 4_000:
                raise ValueError(f"hold names of variables and their texts; {name[:80]!r} is not one")
        return env

    @property
    def limits(self) -> Profile:
        """The profile that is trained."""
        return find(self.profile, self.own_profile.own_text() if self.own_profile else None)

    @property
    def files_run(self) -> list[str]:
        """Return where the code that is run may be: one path for a file, several for a module."""
        if not self.module:
            return [shlex.split(self.entry)[0]]
        name, function, _ = shlex.split(self.module)[0].partition(":")
        ends = (".py", "/__init__.py" if function else "/__main__.py")
        places = [f"{folder}{name.replace('.', '/')}{end}" for folder in ("", "src/") for end in ends]
        return places + ([f"{self.cwd}/{place}" for place in places] if self.cwd else [])

    @property
    def file(self) -> str:
        """Return the path of the file that is run; of a module, the likeliest."""
        named = Editable([*self.editable, *self.files])
        ranked = [path for path in self.files_run if path in self.editable] + [path for path in self.files_run if path in named]
        return ranked[0] if ranked else self.files_run[0]

    @property
    def command(self) -> str:
        """Return how the code is run, in words."""
        name, _, arguments = self.module.partition(" ")
        if ":" in name:
            return f"{name}() {arguments}".rstrip()
        return f"python -m {self.module}" if self.module else f"python {self.entry}"

    @property
    def interpreter(self) -> str:
        """Return the path of the interpreter that runs the code; empty for the server's own."""
        path = Path(self.python).expanduser()
        return str(path / "bin" / "python" if path.is_dir() else path) if self.python else ""


def is_inside(path: str) -> bool:
    """Return whether it is a plain path of the repository, as git writes them."""
    return path.isprintable() and set(path.split("/")).isdisjoint({"", ".", "..", ".git", STATE}) and not set(path) & set("\\*?[:")
