"""`doctor` on a real Slurm."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.lab.findings import Finding


def found(root: Path) -> list[Finding]:
    return [finding for finding in examine(root) if finding.name == "slurm"]


def test_a_cluster_that_fits_is_ok_and_a_python_without_packages_is_named(make_slurm_lab: Callable[..., Path]) -> None:
    import sys

    fits = found(make_slurm_lab("fits", python=f'"{sys.executable}"'))
    assert [finding.grade for finding in fits] == ["ok", "ok"] and "sees the folder of runs" in fits[1].text, fits
    lacks = found(make_slurm_lab("lacks", python='"/usr/bin/python3"', before='["cd /"]'))
    assert lacks[-1].bad and "can't run the trainer" in lacks[-1].text and "python" in lacks[-1].hint


@pytest.mark.parametrize(("keys", "words"), [({"partition": '"nowhere"'}, "nowhere"), ({"gres": '"gpu:1"'}, "gres")])
def test_what_the_cluster_lacks_is_named(make_slurm_lab: Callable[..., Path], keys: dict[str, str], words: str) -> None:
    lab = make_slurm_lab(**keys)
    finding = found(lab)[-1]
    assert finding.bad and words in finding.text and "lab.toml" in finding.hint
