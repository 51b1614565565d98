"""The owner's scorer: what a run leaves is read by a process without answers, measured by one without agents' code, and told to few digits."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch_mcp.trainer import measures, protocol, tables
from autoresearch_mcp.trainer.own_scorer.common import ScoringError
from autoresearch_mcp.trainer.own_scorer.predictions import fit
from autoresearch_mcp.trainer.own_scorer.scorer import folders
from autoresearch_mcp.trainer.protocol import Scoring
from tests.trainer.conftest import Launched, Warm

pytest.importorskip("sklearn")
LABELS = {"validation": [0, 1, 2, 1, 0, 2], "test": [1, 0, 2, 2]}


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """Make a hidden folder of an owner's, with the answers of six inputs and of four."""
    for part, labels in LABELS.items():
        (tmp_path / "hidden" / part).mkdir(parents=True)
        rows = "".join(f"{part[0]}{n},{label}\n" for n, label in enumerate(labels))
        (tmp_path / "hidden" / part / "answers.csv").write_text(f"id,label\n{rows}", encoding="utf-8")
    return tmp_path / "hidden"


@pytest.fixture
def launch(warm: Warm, hidden: Path) -> Callable[..., Launched]:
    def launch(code: str, metric: str = "accuracy", watched: tuple[str, ...] = (), seed: int = 0, **scoring: Any) -> Launched:
        run = warm.directory(code, 20.0, seed)
        spec = protocol.read_json(run / protocol.SPEC) or {}
        given = Scoring(**{"kind": "predictions", "hidden": str(hidden), **scoring})
        protocol.write_json(run / protocol.SPEC, {**spec, "metric": metric, "watched": watched, "scoring": given.__dict__})
        return Launched(run, warm.ask(run)["pid"])

    return launch


RIGHT = "import numpy as np\nnp.save('predictions.npy', np.array([0, 1, 2, 1, 0, 0, 1, 0, 0, 0]))\nprint('accuracy: 1.0')\n"


def test_predictions_are_measured_on_both_sets_and_only_validation_is_shown(launch: Callable[..., Launched]) -> None:
    run = launch(RIGHT, watched=("f1", "latency"))
    result = run.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["val_bpb"] == 0.8333 and run.hidden == 0.5 and result["reported_bpb"] == 1.0
    assert result["metrics"]["f1"] == 0.8222 and result["metrics"]["accuracy"] == 0.8333 and "latency" not in result["metrics"]
    assert not (run.run / "submitted").exists()
    spec = protocol.read_json(run.run / protocol.SPEC) or {}
    parsed, printed = protocol.parse_result(result), {**spec, "scoring": None}
    assert protocol.conditions(parsed, spec) != protocol.conditions(parsed, printed)


def test_other_answers_are_other_conditions(launch: Callable[..., Launched], hidden: Path) -> None:
    before = launch("raise SystemExit(1)").wait()
    (hidden / "test" / "answers.csv").write_text("id,label\nt0,1\nt1,0\nt2,2\nt3,0\n", encoding="utf-8")
    after = launch("raise SystemExit(1)").wait()
    assert before["state"] == "crashed" and before["hashes"]["data"] != after["hashes"]["data"]


ATTACK = """
import ctypes, glob, os
import numpy as np
open('/dev/shm/x', 'w').close() if os.path.isdir('/dev/shm') and os.access('/dev/shm', os.W_OK) else None
for path in {paths!r}:
    for mode in ('r', 'w', 'a'):
        try:
            open(path, mode).read()
        except OSError as error:
            print('refused', mode, type(error).__name__)
        else:
            print('OPENED', mode, path)
    try:
        print('LISTED', os.listdir(os.path.dirname(path)))
    except OSError:
        pass
for name in ('validation', 'test'):
    try:
        os.symlink({hidden!r} + '/' + name + '/answers.csv', name + '.csv')
        print('READ', open(name + '.csv').read())
    except OSError:
        pass
held = [line for line in open('/proc/self/maps') if 'answers' in line]
print('mapped', held)
np.save('predictions.npy', np.zeros(10))
"""


def test_a_training_neither_reads_the_answers_nor_writes_into_the_scorer_nor_finds_another_runs_predictions(
    launch: Callable[..., Launched], hidden: Path, tmp_path: Path
) -> None:
    import sklearn

    (tmp_path / "scoring").mkdir()
    (tmp_path / "scoring" / "score.py").write_text("print('{}')", encoding="utf-8")
    public = Path(sklearn.__file__).parent / "datasets" / "data" / "iris.csv"
    first = launch(RIGHT)
    first.wait()
    paths = [
        *(str(hidden / part / "answers.csv") for part in LABELS),
        str(tmp_path / "scoring" / "score.py"),
        str(public),
        str(first.run / "submitted" / "predictions.npy"),
        str(first.run / "hidden.json"),
    ]
    code = ATTACK.format(paths=[*paths, str(Path(measures.__file__))], hidden=str(hidden))
    run = launch(code, kind="command", file=str(tmp_path / "scoring" / "score.py"), hide=("sklearn/datasets/data",))
    run.wait()
    assert run.log.count("refused") == 3 * len(paths) + 2 and "READ" not in run.log and "answers" not in run.log.replace("mapped []", "")
    assert run.log.count("OPENED") == 1 and f"OPENED r {measures.__file__}" in run.log  # the fixed files are no secret
    assert (tmp_path / "scoring" / "score.py").read_text(encoding="utf-8") == "print('{}')"


def test_what_is_hidden_is_found_in_another_interpreters_packages_too(hidden: Path, tmp_path: Path) -> None:
    site = tmp_path / "venv" / "site-packages"
    (site / "own" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(site)
    scoring = Scoring("predictions", str(hidden), hide=("own/data", str(tmp_path / "link")))
    assert set(folders(scoring, [site])) == {hidden.resolve(), (site / "own" / "data").resolve(), site.resolve()}


SUBMISSIONS = {
    "import pickle\npickle.dump([0] * 10, open('predictions.pkl', 'wb'))": "predictions.csv or predictions.npy",
    "import numpy as np\nnp.save('predictions.npy', np.array([print] * 10, dtype=object), allow_pickle=True)": "runs code",
    "import os\nos.symlink(HIDDEN + '/test/answers.csv', 'predictions.csv')": "is a link",
    "import os\nos.mkfifo('predictions.csv')": "plain file",
    "import os\nos.mkdir('predictions.csv')": "plain file",
    "open('predictions.csv', 'w').truncate(120 << 20)": "more than the 100 MB",
    "open('predictions.csv', 'w').truncate(10 << 30)": "[training] max_file_mb",
    "import numpy as np\nnp.save('predictions.npy', np.array([0.0] * 9 + [float('nan')]))": "row 10: expected finite numbers, got NaN",
    "import numpy as np\nnp.save('predictions.npy', np.zeros(9))": "9 rows, expected 10: 6 for the validation inputs, then 4",
    "open('predictions.csv', 'w').write('id,p\\n' + ''.join(f't{n},0\\n' for n in range(10)))": "row 1: expected the id v0, got t0",
    "open('predictions.csv', 'w').write('p\\n' + '0\\n' * 10)": "no column id",
    "open('predictions.npy', 'wb').write(b'\\x93NUMPY\\x01\\x00garbage')": "can't be read",
    "import numpy as np\nnp.save('predictions.npy', np.zeros((10, 4)))": "takes 1 column, or 3",
}


def test_what_is_no_table_of_predictions_is_refused_with_what_was_expected(launch: Callable[..., Launched], hidden: Path) -> None:
    runs = [(launch(f"HIDDEN = {str(hidden)!r}\n{code}\n"), words) for code, words in SUBMISSIONS.items()]
    for run, words in runs:
        result = run.wait()
        message = result["failure"]["message"]
        assert result["state"] == "crashed" and result["fault"] == "code" and words in message, (words, result["failure"])
        assert "token ids" not in result["failure"]["advice"] and "names the metric" not in result["failure"]["advice"]
        assert result["val_bpb"] is None and result["ended_in"] == "running" and not (run.run / "hidden.json").exists()


SCORE = """
import json, os, socket, sys
import numpy as np
submitted, answers = sys.argv[1:]
rows = open(answers + '/answers.csv').read().split()[1:]
other = os.path.join(os.path.dirname(answers), 'test' if answers.endswith('validation') else 'validation')
attempts = {
    'the other answers': lambda: open(other + '/answers.csv'),
    'the machine': lambda: open('/etc/passwd').read().index('root:'),
    'what was submitted': lambda: open(submitted + '/x', 'w'),
    'its own code': lambda: open(__file__, 'a'),
    'the network': lambda: socket.create_connection(('127.0.0.1', 9), timeout=1),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (OSError, ValueError):
        continue
    raise SystemExit('the sandbox let it reach ' + name)
predictions = np.load(submitted + '/labels.npy')
if predictions.ndim != 1:
    print(json.dumps({"error": f"labels.npy must have one dimension, got {predictions.ndim}"}))
    raise SystemExit
truth = [int(row.split(',')[1]) for row in rows]
part = predictions[:6] if len(truth) == 6 else predictions[6:]
print('a line for the owner', truth)
if len(truth) == 4 and part[0] == 9:
    raise RuntimeError(f'secret {truth}')
print(json.dumps({"error rate": float((part != truth).mean()), "rows": len(truth), "broken": float("nan")}))
"""
LEAVES = "import numpy as np, os\nos.mkdir('submission')\nnp.save('submission/labels.npy', np.array({labels}))\n"


def test_the_owners_file_scores_each_set_in_a_sandbox_of_its_own(launch: Callable[..., Launched], tmp_path: Path) -> None:
    (tmp_path / "scoring").mkdir()
    file = tmp_path / "scoring" / "score.py"
    file.write_text(SCORE, encoding="utf-8")
    command = {"kind": "command", "file": str(file), "metric": "error rate"}
    run = launch(LEAVES.format(labels=[0, 1, 2, 1, 0, 0, 1, 0, 0, 0]), **command)
    failing = launch(LEAVES.format(labels=[0, 1, 2, 1, 0, 0, 9, 0, 0, 0]), **command)
    refused = launch(LEAVES.format(labels=[[0], [1]]), **command)
    unsafe = launch(LEAVES.format(labels=[0]) + "import pickle\npickle.dump(1, open('submission/model.bin', 'wb'))\n", **command)
    result = run.wait()
    assert result["state"] == "finished", (result["failure"], protocol.read_finding(run.run))
    assert result["val_bpb"] == 0.16667 and run.hidden == 0.5 and result["metrics"]["rows"] == 6
    assert "broken" not in result["metrics"] and "a line for the owner" not in run.log
    assert result["timings"]["score_s"] % 2 < 0.5
    told = failing.wait()
    assert told["fault"] == "scorer" and "secret" not in json.dumps(told) and "secret [1, 0, 2, 2]" in protocol.read_finding(failing.run)
    assert "must have one dimension, got 2" in refused.wait()["failure"]["message"]
    assert "runs code when it is loaded" in unsafe.wait()["failure"]["message"]
    file.write_text(SCORE + "\n# another\n", encoding="utf-8")
    changed = launch("raise SystemExit(1)", **command).wait()
    assert changed["hashes"]["scorer"] != result["hashes"]["scorer"] and changed["hashes"]["data"] == result["hashes"]["data"]


@pytest.mark.parametrize(
    ("name", "predictions", "answers", "value"),
    [
        ("accuracy", [0, 1, 1, 1], [0, 1, 0, 1], 0.75),
        ("accuracy", ["a", "b", "b"], ["a", "b", "c"], 2 / 3),
        ("balanced accuracy", [0, 1, 1, 1], [0, 1, 0, 1], 0.75),
        ("f1", [0, 1, 1, 1], [0, 1, 0, 1], 0.8),
        ("f1", [0.2, 0.9, 0.8, 0.7], [0, 1, 0, 1], 0.8),
        ("auc", [0.1, 0.8, 0.3, 0.9], [0, 1, 0, 1], 1.0),
        ("log loss", [0.5, 0.5], [0, 1], np.log(2)),
        ("log loss", [[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]], [2, 0], np.log(2)),
        ("brier", [0.5, 0.5], [0, 1], 0.25),
        ("rmse", [1.0, 2.0], [1.0, 4.0], np.sqrt(2)),
        ("mae", [1.0, 2.0], [1.0, 4.0], 1.0),
        ("r2", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ("spearman", [1.0, 2.0, 9.0], [3.0, 4.0, 5.0], 1.0),
    ],
)
def test_each_metric_is_what_its_name_says(name: str, predictions: Any, answers: Any, value: float) -> None:
    truth = np.array(answers)
    classes = measures.count_classes(truth)
    assert measures.measure(name, measures.check(name, np.array(predictions), truth, classes), truth, classes) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "predictions", "answers", "words"),
    [
        ("log loss", [[0.5, 0.5]], [0, 2], "takes 3 columns"),
        ("log loss", [0.5, 1.5], [0, 1], "from 0 to 1"),
        ("log loss", [[0.5, 0.4], [0.5, 0.5]], [0, 1], "sum to 1"),
        ("log loss", [0.5, 0.5], [0.5, 1.5], "class numbers"),
        ("accuracy", [0.5, 1.0, 2.0], [0, 1, 2], "got fractions"),
        ("accuracy", ["a", "b"], [0, 1], "takes numbers"),
        ("rmse", [[1.0, 2.0]], [0.5], "takes 1 column"),
        ("spearman", [1.0, 1.0], [0.5, 0.7], "are all of them equal"),
    ],
)
def test_predictions_that_a_metric_cannot_take_are_named(name: str, predictions: Any, answers: Any, words: str) -> None:
    truth = np.array(answers)
    classes = measures.count_classes(truth)
    with pytest.raises(measures.MeasureError, match=words):
        measures.measure(name, measures.check(name, np.array(predictions), truth, classes), truth, classes)


def test_names_of_metrics_are_read_as_people_write_them() -> None:
    assert [measures.known(name) for name in ("Log_Loss", "ROC AUC", "balanced-accuracy", "R2", "bleu")] == [
        "log loss",
        "auc",
        "balanced accuracy",
        "r2",
        None,
    ]
    assert measures.shown("rmse", 12345.678) == 12346 and measures.shown("accuracy", 0.123456) == 0.1235


def test_tables_of_every_format_are_read_alike(tmp_path: Path) -> None:
    values = [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]
    (tmp_path / "t.csv").write_text("\ufeffid,a,b\nx,0.25,0.75\ny,0.5,0.5\nz,1,0\n", encoding="utf-8")
    pq.write_table(
        pa.table({"id": ["x", "y", "z"], "a": [row[0] for row in values], "b": [row[1] for row in values]}), tmp_path / "t.parquet"
    )
    np.save(tmp_path / "t.npy", np.array(values, np.float32))
    np.savez_compressed(tmp_path / "t.npz", test=np.array(values[2:]), validation=np.array(values[:2]))
    for ending in tables.ENDINGS:
        table = tables.read(tmp_path / f"t{ending}")
        assert table.values.tolist() == values and table.ids in (None, ["x", "y", "z"])
    assert tables.read(tmp_path / "t.csv").ids == ["x", "y", "z"]


def test_files_that_would_run_code_or_unpack_to_much_are_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "t.csv"
    pickled.write_bytes(pickle.dumps([1, 2]))
    np.savez_compressed(tmp_path / "t.npz", np.zeros(1 << 20))
    np.savez(tmp_path / "o.npz", np.array([print], dtype=object), allow_pickle=True)
    for name, words in (("t.csv", "run code"), ("t.npz", "unpacks to more than 1 MB"), ("o.npz", "allow_pickle")):
        with pytest.raises(tables.TableError, match=words):
            tables.read(tmp_path / name, 1)


def test_the_rows_of_answers_without_ids_need_none() -> None:
    answers = {part: tables.Table(np.zeros(2)) for part in tables.PARTS}
    fit(Path("predictions.csv"), tables.Table(np.zeros(4)), answers)
    with pytest.raises(ScoringError, match="expected 4: 2"):
        fit(Path("predictions.csv"), tables.Table(np.zeros(5)), answers)
