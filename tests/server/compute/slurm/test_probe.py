"""`doctor` on a real Slurm."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.lab.findings import Finding


def found(root: Path) -> list[Finding]:
    return [finding for finding in examine(root) if finding.name == "slurm"]


def test_a_cluster_that_fits_is_ok_and_a_python_without_packages_is_named(make_slurm_lab: Callable[..., Path]) -> None:
    fits = found(make_slurm_lab("fits", python=f'"{sys.executable}"'))
    assert [finding.grade for finding in fits] == ["ok", "ok"] and "sees the folder of runs" in fits[1].text, fits
    lacks = found(make_slurm_lab("lacks", python='"/usr/bin/python3"', before='["cd /"]'))
    assert lacks[-1].bad and "can't run the trainer" in lacks[-1].text and "python" in lacks[-1].hint


def test_a_node_without_torch_will_do_where_the_code_keeps_no_contract(make_slurm_lab: Callable[..., Path], tmp_path: Path) -> None:
    without = tmp_path / "without"
    hide = "import runpy, sys; sys.modules['torch'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0])"
    without.write_text(f"""#!/bin/sh\nexec '{sys.executable}' -c "{hide}" "$@"\n""", encoding="utf-8")
    without.chmod(0o755)
    root = make_slurm_lab(python=f'"{without}"')
    lacks = found(root)[-1]
    assert lacks.bad and "but lacks torch" in lacks.text
    with (root / "lab.toml").open("a", encoding="utf-8") as file:
        file.write('\n[metric]\nname = "loss"\n')
    assert not found(root)[-1].bad


def test_an_interpreter_of_trainings_that_is_not_on_the_nodes_is_named(make_slurm_lab: Callable[..., Path]) -> None:
    root = make_slurm_lab(python=f'"{sys.executable}"')
    text = (root / "lab.toml").read_text(encoding="utf-8") + '\n[metric]\nname = "loss"\n'
    for python, fits in (("/no/such 'python", False), (sys.executable, True)):
        (root / "lab.toml").write_text(text.replace("[training]\n", f'[training]\npython = "{python}"\n', 1), encoding="utf-8")
        finding = found(root)[-1]
        assert finding.bad is not fits, finding
        assert fits or (f"{python}, can't be run" in finding.text and "[training] python" in finding.hint), finding


@pytest.mark.parametrize(("keys", "words"), [({"partition": '"nowhere"'}, "nowhere"), ({"gres": '"gpu:1"'}, "gres")])
def test_what_the_cluster_lacks_is_named(make_slurm_lab: Callable[..., Path], keys: dict[str, str], words: str) -> None:
    lab = make_slurm_lab(**keys)
    finding = found(lab)[-1]
    assert finding.bad and words in finding.text and "lab.toml" in finding.hint
