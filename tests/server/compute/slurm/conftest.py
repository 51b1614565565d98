"""Labs whose trainings are jobs of a real Slurm."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"


@pytest.fixture
def make_slurm_lab(slurm_cluster: Path, make_lab: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a lab on the cluster whose jobs draw their metrics in `seconds`, and count in `starts` and `ends` how often they ran.

    Keywords are keys of `[compute.slurm]` as TOML, such as `partition='"main"'`.
    """
    python = tmp_path / "python"  # what a job's script runs with `-m autoresearch_mcp.trainer.launch DIRECTORY`
    text = '#!/bin/sh\necho begun >> "$3/starts"\n"{}" "{}" {} 0.5 "$3" && echo ended >> "$3/ends"\n'

    def make(name: str = "cluster-lab", seconds: float = 0.2, **keys: str) -> Path:
        python.write_text(text.format(sys.executable, DRAWING, seconds), encoding="utf-8")
        python.chmod(0o755)
        root = make_lab(name, {'backend = "local"': 'backend = "slurm"', "slots = 0": "slots = 4"})
        section = {"python": f'"{python}"', **keys}
        with (root / "lab.toml").open("a", encoding="utf-8") as file:
            file.write("\n[compute.slurm]\n" + "".join(f"{key} = {value}\n" for key, value in section.items()))
        return root

    return make
