"""`check`: what an agent would hit is told before one does, by itself, at init and in the doctor."""

import builtins
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli


def repository(root: Path, files: dict[str, str], ignored: str = "") -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    if ignored:
        (root / ".gitignore").write_text(f"{ignored}\n", encoding="utf-8")
        (root / ignored).write_text("1\n", encoding="utf-8")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Train"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return root


@dataclass(frozen=True)
class Shape:
    """A small repository of the shape of a public one, what `init` is told of it, and what a run prints.

    Attributes:
        files: of the repository.
        options: of `init`.
        metric: as `check` tells it.
        toml: lines of `[training]` that the owner adds.
    """

    files: dict[str, str]
    options: tuple[str, ...]
    metric: str
    toml: str = ""


NUMBERS = "class Numbers:\n    def __init__(self, rate):\n        self.rate = rate\n"
SHAPES = {
    "nanoGPT: flat, constants that exec'd code and the command line override": Shape(
        {
            "train.py": "import os, time\nfrom model import Numbers\ndataset, rate, out_dir = 'web', 1.0, 'out'\nexec(open('configurator.py').read())\n"
            "os.makedirs(out_dir)\nvalue = float(open(os.path.join('data', dataset, 'val.txt')).read()) * Numbers(rate).rate\n"
            "print(f'iter 0: loss {value:.4f}, time 1.00ms')\nprint(f'step 1: train loss {value / 2:.4f}, val loss {value:.4f}')\n# loss.backward()\n",
            "configurator.py": "import sys\nfor each in sys.argv[1:]:\n    if '=' in each:\n        name, text = each[2:].split('=')\n"
            "        globals()[name] = type(globals()[name])(text)\n    else:\n        exec(open(each).read())\n",
            "config/small.py": "rate = 0.5\n",
            "model.py": NUMBERS,
        },
        ("--entry", "train.py config/small.py --dataset=$AUTORESEARCH_DATA"),
        "val loss is 0.5",
        'data = "{data}"',
    ),
    "a project in src/, run by its command's module": Shape(
        {
            "pyproject.toml": '[project]\nname = "numbers"\nversion = "1"\n[project.scripts]\nfit = "ours.cli:main"\n',
            "src/ours/__init__.py": "",
            "src/ours/model.py": NUMBERS,
            "src/ours/cli.py": "from .model import Numbers\ndef main():\n    # model.fit()\n    print('test_rmse=%.3f' % Numbers(0.25).rate)\n"
            "if __name__ == '__main__':\n    main()\n",
        },
        (),
        "test_rmse is 0.25",
    ),
    "Hydra and Lightning: a tree of configuration, a marker of the top, a progress bar and a table": Shape(
        {
            ".project-root": "",
            "configs/train.json": '{"model": "small"}',
            "configs/model/small.json": '{"rate": 0.75}',
            "src/__init__.py": "",
            "src/models/__init__.py": NUMBERS,
            "src/train.py": "import json, pathlib, sys\nroot = next(p for p in pathlib.Path(__file__).parents if (p / '.project-root').exists())\n"
            "sys.path.insert(0, str(root))\nfrom src.models import Numbers\nname = json.loads((root / 'configs/train.json').read_text())['model']\n"
            "rate = json.loads((root / f'configs/model/{name}.json').read_text())['rate']\n"
            "print('\\rEpoch 0: 50%|##  | 1/2 [val/acc=0.100]', end='')\nprint('\\rEpoch 0: 100%|####| 2/2 [val/acc=0.200]')\n"
            "print('\\u2502   test/acc    \\u2502', Numbers(rate).rate, '\\u2502')\n# Trainer()\n",
            "README.md": "Run `python src/train.py trainer=cpu`.\n",
        },
        ("--metric", "test/acc", "--goal", "max", "--editable", "src/", "configs/"),
        "test/acc is 0.75",
    ),
    "an estimator with a file of configuration and a pattern for the metric": Shape(
        {
            "models/.gitkeep": "",
            "out/plots/.gitignore": "*\n!.gitignore\n",
            "fit.py": "import json, os, sys\nopen('models/a', 'w'), open('out/plots/b', 'w')\n"
            "rate = json.load(open(sys.argv[1]))['rate']\nseed = int(os.environ['AUTORESEARCH_SEED'])\n# model.fit()\n"
            "print(f'Test set: Average loss: {rate + 0 * seed:.4f}, Accuracy: 88/100 (88%)')\n",
            "config.json": '{"rate": 0.125}',
        },
        ("--entry", "fit.py config.json", "--metric", "Average loss", "--editable", "fit.py", "*.json"),
        "Average loss is 0.125",
    ),
}  # fmt: skip


def test_init_offers_to_train_for_a_few_seconds_and_says_what_stands_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(tmp_path / "source", {"train.py": 'x = open("data.txt").read()\nprint("val_loss:", x)\n'}, ignored="data.txt")
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or "")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "lab", "--from-repo", "source", "--metric", "val_loss", "--profile", "tiny"]) == 0
    out = capsys.readouterr().out
    assert asked == ["Do that now? [Y/n] "]
    assert "BAD   code: `python train.py` failed: FileNotFoundError" in out and "train.py:1" in out
    assert "name it as [training] data in lab.toml" in out


@pytest.mark.parametrize("name", SHAPES)
def test_a_repository_of_the_shape_of_a_public_one_trains_at_once(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape, lab = SHAPES[name], tmp_path / "lab"
    source = repository(tmp_path / "source", shape.files)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val.txt").write_text("1.0", encoding="utf-8")
    assert cli.main(["init", str(lab), "--from-repo", str(source), "--yes", "--profile", "tiny", *shape.options]) == 0
    toml = (lab / "lab.toml").read_text(encoding="utf-8")
    if shape.toml:
        toml = toml.replace('data = ""', shape.toml.format(data=tmp_path / "data"))
    (lab / "lab.toml").write_text(toml, encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["doctor", "--train", str(lab)]) == 0
    out = capsys.readouterr().out
    assert "came to its end" in out and f"ok    metric: {shape.metric}" in out and "ok    memory: " in out and "names nothing" not in out


def test_code_that_can_not_be_scored_is_named_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = repository(tmp_path / "source", {"train.py": "import no_such_package\npool.submit(train)\n"})
    assert cli.main(["init", str(tmp_path / "lab"), "--from-repo", str(source), "--yes", "--profile", "tiny"]) == 0
    capsys.readouterr()
    assert cli.main(["check", str(tmp_path / "lab")]) == 1
    assert "BAD   code: train.py never calls submit()" in (said := capsys.readouterr().out) and "[metric] name" in said


def test_code_of_another_python_is_told_where_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = repository(tmp_path / "source", {"train.py": "print 'loss:', 1\n"})
    assert cli.main(["init", str(tmp_path / "lab"), "--from-repo", str(source), "--yes", "--profile", "tiny", "--metric", "loss"]) == 0
    assert cli.main(["check", str(tmp_path / "lab")]) == 1
    assert "The Python that runs it can't read it: correct it, or name a newer one as [training] python" in capsys.readouterr().out


def test_a_run_of_no_time_is_refused(lab_root: Path) -> None:
    assert cli.main(["check", str(lab_root), "--seconds", "0"]) == 2
