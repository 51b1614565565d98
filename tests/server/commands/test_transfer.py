"""Export and import: the log in files, and back without counting for anything but the log."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.export import export
from autoresearch_mcp.server.commands.import_ import import_
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.models import Experiment, Failure, Memory
from tests.server.lake.records import experiment, memory

ORIGINAL = """\
commit\tval_bpb\tmemory_gb\tstatus\tdescription
a1b2c3d\t0.997900\t44.0\tkeep\tbaseline
b2c3d4e\t0.993200\t44.2\tkeep\tincrease LR to 0.04
c3d4e5f\t1.005000\t44.0\tdiscard\tswitch to "GeLU" activation
d4e5f6g\t0.000000\t0.0\tcrash\tdouble model width (OOM)
"""


@pytest.fixture
def lab(lab_root: Path) -> Iterator[Lab]:
    opened = Lab(lab_root)
    yield opened
    opened.close()


def test_an_original_results_tsv_can_be_queried_and_counts_for_nothing(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "results.tsv"
    source.write_text(ORIGINAL, encoding="utf-8")
    before = lab.status()
    assert import_(lab, source) == [f"{source}: 4 new experiments, 0 known already"]
    assert import_(lab, source) == [f"{source}: 0 new experiments, 4 known already"]
    rows = lab.query_experiments(
        ExperimentQuery(tag="imported", order_by="created_at", descending=False, columns=["state", "reported_bpb", "val_bpb", "tags"])
    ).rows
    assert [(row["state"], row["reported_bpb"], row["val_bpb"]) for row in rows] == [
        ("finished", 0.9979, None),
        ("finished", 0.9932, None),
        ("finished", 1.005, None),
        ("crashed", None, None),
    ]
    assert lab.query_experiments(ExperimentQuery(text='"GeLU"')).rows[0]["hypothesis"] == 'switch to "GeLU" activation'
    after = lab.status()
    assert (after.budget, after.leaderboard, after.counts) == (before.budget, before.leaderboard, before.counts)
    assert lab.get_experiment(rows[0]["id"]).experiment.state == "finished"


def test_a_labs_export_becomes_part_of_another_labs_log(lab: Lab, make_lab: Callable[..., Path], tmp_path: Path) -> None:
    hostile = "tab\there, line\nthere, 'quotes\", \u2028 and ünïcode"
    record = experiment(1, id="e-000000000000001", hypothesis=hostile, details={"peak_memory_mb": 2048.0}, tags=["lr"], curve=[(0.5, 3.0)])
    crashed = experiment(2, id="e-000000000000002", state="crashed", val_bpb=None, failure=Failure(kind="oom", message="out of memory"))
    lab.import_records("experiments", [record, crashed])
    lab.import_records("memories", [memory(1, hostile, id="m-000000000000001")])
    out = tmp_path / "out"
    assert len(export(lab, out)) == 4
    lines = (out / "results.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
    assert lines[1] == "0000000\t1.500000\t2.0\tdiscard\ttab here, line there, 'quotes\", and ünïcode"
    assert lines[2].split("\t")[1:4] == ["0.000000", "0.0", "crash"]
    other = Lab(make_lab("other"))
    import_(other, out)
    (taken, _) = sorted((r for r in other.records("experiments") if isinstance(r, Experiment)), key=lambda r: r.id)
    one_line = "tab here, line there, 'quotes\", and ünïcode"
    assert taken == record.model_copy(update={"hypothesis": one_line, "tags": ["imported", "lr"]})
    (note,) = other.records("memories")
    assert isinstance(note, Memory) and note.text == hostile.replace("\u2028", "\n")
    assert all("0 new" in line for line in import_(other, out))
    other.close()


def test_an_import_replaces_nothing_that_is_known(lab: Lab, make_lab: Callable[..., Path], tmp_path: Path) -> None:
    lab.import_records("experiments", [experiment(1, id="e-000000000000001", val_bpb=0.1, version=99)])
    export(lab, tmp_path / "out")
    other = Lab(make_lab("other"))
    other.import_records("experiments", [experiment(1, id="e-000000000000001", val_bpb=1.5)])
    import_(other, tmp_path / "out")
    (kept,) = other.records("experiments")
    assert isinstance(kept, Experiment) and kept.val_bpb == 1.5
    other.close()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("results.tsv", "id\tloss\n", "first line"),
        ("results.tsv", ORIGINAL + "a\tb\n", "line 6 has 2 fields"),
        ("results.tsv", ORIGINAL.replace("0.997900", "nan"), "line 2"),
        ("results.tsv", ORIGINAL.replace("discard", "maybe"), "line 4"),
        ("results.tsv", "\0", "can't be imported"),
        ("experiments.parquet", "no parquet", "can't be imported"),
        ("nothing", None, "not a results.tsv"),
    ],
)
def test_what_is_no_export_is_refused_whole(name: str, content: str | None, says: str, lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=says):
        import_(lab, source)
    assert lab.query_experiments().rows == []
