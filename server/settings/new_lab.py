"""Writes a new lab's `lab.toml`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoresearch_mcp.server.goal import Goal
from autoresearch_mcp.server.paths import STATE
from autoresearch_mcp.server.settings.model import SCHEMA
from autoresearch_mcp.trainer.prepare import PROFILES

SCRIPT_BUDGET_S = 600.0  # for a script whose own budget is not known; the original's takes 330 s


@dataclass(frozen=True)
class OwnCode:
    """A user's own training code.

    Attributes:
        files: what else of the repository it needs: paths, or `dir/**`.
        metric: the name of the metric that it prints itself, because it keeps no contract; empty where it keeps it.
        data: a folder that code without the contract may read, or empty.
        entry: the file that is run, with its arguments; empty for train.py.
        module: the module that is run instead, with its arguments.
        editable: what proposals may touch: paths, or `dir/**`.
        goal: which way the metric is better; None where nobody said.
        hidden: the folder with the answers that verify the metric, or empty.
        hide: what else no training may read.
        cwd: the folder where it starts; empty for the top.
        env: variables that it finds set.
    """

    files: tuple[str, ...] = ()
    metric: str = ""
    data: str = ""
    entry: str = ""
    module: str = ""
    editable: tuple[str, ...] = ("train.py",)
    goal: Goal | None = None
    hidden: str = ""
    hide: tuple[str, ...] = ()
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def toml(self) -> str:
        """Return its part of `[training]`, and `[metric]`."""
        lines = []
        if self.module:
            how = (
                "calls this function, as an installed command does"
                if ":" in self.module.split()[0]
                else f"runs as `python -m {self.module}`"
            )
            lines.append(f"module = {json.dumps(self.module, ensure_ascii=False)}  # {how}")
        elif self.entry:
            lines.append(f"entry = {json.dumps(self.entry, ensure_ascii=False)}  # the file that is run, with its arguments")
        if self.cwd:
            lines.append(f"cwd = {json.dumps(self.cwd, ensure_ascii=False)}  # the folder where it starts")
        if self.env:
            pairs = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in self.env.items())
            lines.append(f"env = {{ {pairs} }}  # what it finds set")
        if self.files or self.metric:
            lines.append(f"files = {_list(self.files)}  # what else of the repository the code needs; proposals can't touch it")
        if self.hidden:
            lines += [
                f"data = {json.dumps(self.data, ensure_ascii=False)}  # the public folder, which the code finds in $AUTORESEARCH_DATA",
                "",
                "[metric]",
                f"name = {json.dumps(self.metric, ensure_ascii=False):<24} # measured by the scorer below",
                "",
                "[scorer]",
                'kind = "predictions"            # the run leaves predictions.csv, .npy, .npz or .parquet; "command": a file of yours scores it',
                f"hidden = {json.dumps(self.hidden, ensure_ascii=False)}  # the answers, which no training reads",
                f"hide = {_list(self.hide)}  # nor these",
            ]
        elif self.metric:
            lines.append(f"data = {json.dumps(self.data, ensure_ascii=False)}  # a folder that the code may read")
            goal = f'goal = "{self.goal}"' if self.goal else '# goal = "max"'
            lines += [
                "",
                "[metric]",
                f"name = {json.dumps(self.metric, ensure_ascii=False):<24} # as the code prints it; nobody verifies it",
            ]
            lines += [f'{goal:<31} # a higher one is better; "min": a lower one']
        return "".join(f"{line}\n" for line in lines)


def _list(texts: tuple[str, ...]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)


def template(
    name: str,
    profile: str = "cpu",
    budget_s: float | None = None,
    unsandboxed: Literal["refuse", "allow"] = "refuse",
    own: OwnCode | None = None,
) -> str:
    """Return a commented `lab.toml` for a new lab.

    Args:
        name: of the lab.
        profile: what is trained on what.
        budget_s: of one experiment; by default the profile's.
        unsandboxed: whether results count that were trained without a sandbox.
        own: the user's own training code; None for the stock one.
    """
    script = own if own and own.metric else None
    clock = "CPU seconds of training on cpu, wall seconds on GPUs" if script is None else "wall seconds, from the script's start to its end"
    if budget_s is None and script is not None:
        budget_s = SCRIPT_BUDGET_S
    if budget_s is None:
        budget_s = PROFILES[profile].budget_s if profile in PROFILES else 60.0
    return f"""\
# The settings of this lab. A change takes effect at once, for what is launched after it. Every section but [lab] may be left out.

[lab]
name = {json.dumps(name, ensure_ascii=False)}
schema = {SCHEMA}                      # version of this file and of {STATE}/

[training]
profile = {json.dumps(profile):<21} # what is trained on what, measured how: cpu (a laptop), gpu (8 to 24 GB), h100
budget_s = {budget_s:<20g} # of one experiment: {clock}
heldout = "secret"              # what trainings never see: drawn with this lab's own secret, or the "public" split
threads = 1                     # of one training
editable = {_list(own.editable if own else ("train.py",)):<20} # paths that proposals may touch; "dir/**" for a folder
{own.toml() if own else ""}
[compute]
backend = "local"               # where trainings run: "local", or "modal" after `autoresearch-mcp setup modal`
slots = 0                       # trainings at once; 0 = physical cores / threads, on Modal 4

[budget]
device_hours = 8.0              # of the whole lab; a launch that could pass it is refused
usd = 25.0                      # the same in money, where devices are rented

[promotion]
level = 0.005                   # the chance that a candidate that is no better is promoted, however often anybody asks
max_replicates = 16             # of a candidate: then it is decided
approval = "none"               # "human": a person has to say yes to every promotion, with `autoresearch-mcp approve`
approval_clients = []           # clients in which a person may say it, by the names they give, such as ["claude-code"]
unsandboxed = "{unsandboxed}"{" " * (16 - len(unsandboxed))}# may results count that were trained without a sandbox: "refuse", "allow"
reported = "refuse"             # may a metric count that only the training code itself prints: "refuse", "allow"

[lake]
backend = "auto"                # where the log is shared: "managed" (Deeplake's service), "embedded" (a folder); auto = by DEEPLAKE_API_KEY

[embeddings]
backend = "auto"                # search of memories by meaning: "local" (the extra `embeddings`), "endpoint" (url, model), "none"
"""
