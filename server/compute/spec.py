"""Turns the settings of a launch into what a launcher runs."""

import shlex
from pathlib import Path

from autoresearch_mcp.server.settings import LaunchSettings
from autoresearch_mcp.trainer.protocol import Spec


def spec_of(
    launch: LaunchSettings,
    experiment: str,
    data: str = "",
    *,
    seed: int = 0,
    device: str = "cpu",
    commit: str = "",
    others: str = "",
    quiet: bool = True,
    far: bool = False,
) -> Spec:
    """Return what a launcher runs.

    Args:
        launch: The settings of the launch.
        experiment: Names the run.
        data: Where the prepared data is.
        seed: Of the run.
        device: The kind of device.
        commit: The full id of the code's commit, which a script may ask git for.
        others: A hash of the files that no proposal can change.
        quiet: Whether it stops while a neighbour's model is scored.
        far: Whether it runs where the interpreter's path means something else than here, and is left as it is written.
    """
    training, metric = launch.training, launch.metric
    entry, *arguments = shlex.split(training.module or training.entry)
    entry, module = (training.file, entry) if training.module else (entry, "")
    readable, home = Path(training.data).expanduser(), Path.home()
    below_home = readable.relative_to(home).as_posix() if training.data and readable.is_relative_to(home) and readable != home else ""
    return Spec(
        experiment=experiment,
        seed=seed,
        profile=training.profile,
        budget_s=training.budget_s,
        threads=training.threads,
        data=data,
        device=device,
        attention=training.attention,
        entry=entry,
        arguments=tuple(arguments),
        metric=metric.name,
        unit=metric.unit,
        pattern=metric.pattern,
        source="" if metric.source == "output" else metric.source,
        watched=tuple(guard.name for guard in metric.guard),
        readable=str(readable) if training.data else "",
        below_home=below_home,
        others=others,
        module=module,
        python=training.python if far else training.interpreter,
        cwd=training.cwd,
        env=training.env,
        memory_mb=training.memory_mb,
        disk_mb=training.max_file_mb,
        max_files=training.max_files,
        commit=commit,
        quiet=quiet,
        scoring=launch.scorer.scoring(),
        own_text=training.own_profile.own_text() if training.own_profile else None,
    )
