"""`init --from-repo` understands a repository: what trains, what it needs, and what will be missing is said at once."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli, settings
from autoresearch_mcp.server.commands.candidates import Candidate, candidates
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.commands.reach import reached, unresolved
from autoresearch_mcp.server.commands.survey import Asked, survey
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.repo import Repo

TRAINS = "import json\n\nloss.backward()\nprint(f'val_loss: {loss}')\n"


def git(root: Path, *args: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")
    return root


def lab_of(tmp_path: Path, files: dict[str, str], asked: Asked = Asked()) -> tuple[settings.Training, str]:  # noqa: B008
    lines = create_lab(tmp_path / "lab", repository(tmp_path / "repo", files), profile="tiny", asked=asked)
    return settings.load(tmp_path / "lab").training, "\n".join(lines)


@pytest.mark.parametrize(
    ("files", "runs", "others"),
    [
        ({"train.py": TRAINS, "main.py": TRAINS}, "train.py", ["main.py"]),
        ({"scripts/train.py": TRAINS, "net/model.py": "x = 1\n", "conf/a.yaml": "lr: 1\n"}, "scripts/train.py", ["scripts/**", "net/**", "conf/**"]),
        ({"pkg/__init__.py": "", "pkg/train.py": TRAINS}, "-m pkg.train", ["pkg/**"]),
        (
            {
                "src/__init__.py": "",
                "src/train.py": f"import src\nroot = '.project-root'\n{TRAINS}",
                ".project-root": "",
                ".flake8": "",
                "README.md": "`python src/train.py`",
            },
            "src/train.py",
            ["src/**", ".project-root"],
        ),
        ({"src/pkg/__init__.py": "", "src/pkg/__main__.py": TRAINS}, "-m pkg", ["src/**"]),
        (
            {"src/own/__init__.py": "", "src/own/fitting.py": TRAINS, "pyproject.toml": '[project]\nname="own"\n[project.scripts]\ngo = "own.fitting:main"\n'},
            "-m own.fitting",
            ["src/**", "pyproject.toml"],
        ),
        (
            {"own/__init__.py": "from own.fitting import main\n", "own/fitting.py": TRAINS, "pyproject.toml": '[project.scripts]\ngo = "own:main"\n'},
            "-m own.fitting",
            ["pyproject.toml", "own/**"],
        ),
        (
            {
                "src/own/__init__.py": "import os\nfrom .a import fit as main\n",
                "src/own/a.py": "def fit():\n    x.fit()\n    print(f'val_loss: {x}')\n",
                "setup.cfg": "[options.entry_points]\nconsole_scripts =\n    go = own:main\n",
            },
            "-m own.a:fit",
            ["src/**"],
        ),
        (
            {"src/own/__init__.py": f"def main():\n    {TRAINS}", "setup.cfg": "[options.entry_points]\nconsole_scripts =\n    go = own:main\n"},
            "-m own:main",
            ["src/**"],
        ),
        ({"mnist/run_it.py": TRAINS, "README.md": "```\npython ./mnist/run_it.py --epochs 1\n```\n"}, "mnist/run_it.py", ["mnist/**"]),
        (
            {"net/model.py": "x = 1\n", "projects/adder/adder.py": f"import net.model\nif __name__ == '__main__':\n    pass\n{TRAINS}"},
            "projects/adder/adder.py",
            ["net/**"],
        ),
        ({"main.py": TRAINS, "tests/train.py": TRAINS, "setup.py": "import setuptools\n"}, "main.py", ["setup.py", "tests/**"]),
    ],
)  # fmt: skip
def test_what_trains_is_found_and_what_it_needs_comes_along(tmp_path: Path, files: dict[str, str], runs: str, others: list[str]) -> None:
    training, _ = lab_of(tmp_path, files)
    assert (f"-m {training.module}" if training.module else training.entry) == runs
    assert ".flake8" not in training.files
    assert set(others) <= set(training.files) | {path for path in training.editable if path in others}
    assert settings.load(tmp_path / "lab").metric.name == "val_loss" and training.file in files and training.editable == [training.file]


PACKAGE = {"p/__init__.py": "", "p/go.py": TRAINS}


@pytest.mark.parametrize(
    ("files", "first"),
    [
        ({"finetune.py": TRAINS}, "finetune.py"),
        ({"Train.py": TRAINS}, "Train.py"),
        ({"trainMNIST.py": TRAINS}, "trainMNIST.py"),
        ({"engine_pretrain.py": TRAINS, "main_pretrain.py": TRAINS}, "main_pretrain.py"),
        ({"train_utils.py": TRAINS, "trainer.py": TRAINS, "main.py": "import trainer"}, "main.py"),
        ({"a/b.py": TRAINS, "README.md": "`uv run python a/b.py`"}, "a/b.py"),
        ({"a/b.py": TRAINS, "README.md": "`CUDA_VISIBLE_DEVICES=0 python -u a/b.py`"}, "a/b.py"),
        ({"a/b.py": TRAINS, "README.md": "torchrun --nproc_per_node 8 a/b.py --config c.py"}, "a/b.py"),
        ({"a/b.py": TRAINS, "README.md": "python -m torch.distributed.launch a/b.py"}, "a/b.py"),
        ({"a/b.py": TRAINS, "README.md": "accelerate launch \\\n  a/b.py"}, "a/b.py"),
        ({"a/b.py": TRAINS, "README.md": "cd a && python b.py"}, "a/b.py"),
        ({"a/b.py": TRAINS, "scripts/go.sh": "deepspeed a/b.py"}, "a/b.py"),
        ({"a/b.py": TRAINS, "Makefile": "go:\n\tpython3.11 a/b.py\n"}, "a/b.py"),
        ({**PACKAGE, "README.md": "torchrun -m p.go"}, "p/go.py"),
        ({**PACKAGE, "pyproject.toml": '[tool.poetry.scripts]\ngo = "p.go:main"\n'}, "p/go.py"),
        ({**PACKAGE, "setup.cfg": "[options.entry_points]\nconsole_scripts =\n    go = p.go:main\n"}, "p/go.py"),
        ({**PACKAGE, "setup.py": "setup(entry_points={'console_scripts': ['go=p.go:main']})"}, "p/go.py"),
        ({"sk.py": "import sklearn\nclf.fit(X, y)\nprint('acc:', a)\n", "lib.py": "def f():\n    clf.fit(X, y)\n"}, "sk.py"),
        ({"agent.py": "for _ in range(3):\n    model.learn(9)\n"}, "agent.py"),
        (
            {"lib.py": "def f():\n    clf.fit(X, y)\n", "README.md": "pytest tests/test_lib.py; python setup.py install", "setup.py": "x"},
            None,
        ),
    ],
)
def test_the_likeliest_to_train_comes_first(files: dict[str, str], first: str | None) -> None:
    likely = candidates(list(files), lambda path: files[path].encode())
    assert (likely[0].path if likely else None) == first


def test_flags_say_what_trains_what_may_be_changed_and_how_it_is_measured(tmp_path: Path) -> None:
    files = {"train.py": TRAINS, "alt/fit.py": TRAINS, "net/model.py": "x = 1\n", "net/loss.py": "x = 1\n", "conf.yaml": "lr: 1\n"}
    training, _ = lab_of(tmp_path, files, Asked("alt/fit.py --epochs 1", editable=["alt/fit.py", "net/", "*.yaml"], metric="rmse"))
    assert (training.entry, settings.load(tmp_path / "lab").metric.name) == ("alt/fit.py --epochs 1", "rmse")
    assert training.editable == ["alt/fit.py", "net/**", "conf.yaml"]


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        (Asked("python train.py --name 'a b'"), "train.py --name 'a b'"),
        (Asked("uv run python3.11 -u ./train.py"), "train.py"),
        (Asked("./train.py --x=$AUTORESEARCH_SEED"), "train.py --x=$AUTORESEARCH_SEED"),
        (Asked("{repo}/train.py --x 1"), "train.py --x 1"),
        (Asked("my code/fit it.py"), "'my code/fit it.py'"),
        (Asked("{repo}/my code/fit it.py"), "'my code/fit it.py'"),
        (Asked("'my code/fit it.py' --x 1"), "'my code/fit it.py' --x 1"),
        (Asked("python -m pkg.train --x 1"), "-m pkg.train --x 1"),
        (Asked("-m pkg.train"), "-m pkg.train"),
        (Asked(module="./pkg/train.py --x 'a b'"), "-m pkg.train --x 'a b'"),
        (Asked(module="train.py --x 1"), "-m train --x 1"),
        (Asked(module="pkg.train --x 1"), "-m pkg.train --x 1"),
    ],
)
def test_a_command_line_or_a_path_will_do_to_say_what_trains(tmp_path: Path, asked: Asked, runs: str) -> None:
    files = {"train.py": TRAINS, "my code/fit it.py": TRAINS, "pkg/__init__.py": "", "pkg/train.py": TRAINS}
    repo, commit = Repo(repository(tmp_path / "repo", files)), "HEAD"
    said = replace(asked, entry=asked.entry.replace("{repo}", str(tmp_path / "repo")))
    own = survey(repo, commit, said, str(tmp_path / "repo")).own
    assert (f"-m {own.module}" if own.module else own.entry) == runs


def test_a_script_with_blanks_in_its_path_is_found_and_all_may_be_editable(tmp_path: Path) -> None:
    files = {"my code/train model.py": TRAINS, "net/model.py": "x = 1\n", ".github/x.yml": ""}
    training, _ = lab_of(tmp_path, files, Asked(editable=["."]))
    assert (training.entry, training.file) == ("'my code/train model.py'", "my code/train model.py")
    assert training.editable == ["my code/**", "net/**"]


@pytest.mark.parametrize(
    ("asked", "goal", "words"),
    [
        (Asked(metric="val acc"), None, "whether a higher val acc is better"),
        (Asked(metric="val acc", goal="min"), "min", ""),
        (Asked(metric="val acc", ask_goal=lambda _: "max"), "max", "higher is better"),
        (Asked(metric="rmse", ask_goal=lambda _: "max"), None, ""),
    ],
)
def test_the_goal_is_asked_for_where_the_name_speaks_against_the_default(
    tmp_path: Path, asked: Asked, goal: str | None, words: str
) -> None:
    _, said = lab_of(tmp_path, {"train.py": TRAINS}, asked)
    metric = settings.load(tmp_path / "lab").metric
    assert (metric.name, metric.goal) == (asked.metric, goal) and words in said


def test_what_the_started_file_runs_is_read_too_and_the_owner_told_that_proposals_may_not_touch_it(tmp_path: Path) -> None:
    files = {
        "own/cli.py": "from .engine import fit\nfrom . import data\nif __name__ == '__main__':\n    fit(data)\n",
        "own/engine.py": "import no_such_a\nprint(f'val_acc: {x}')\n",
        "own/data.py": "import no_such_b\nopen('conf/a.yaml')\n",
        "own/__init__.py": "",
        "conf/a.yaml": "",
        "conf/b.yaml": "",
        "own/other.py": "import no_such_c\nprint(f'test_acc: {x}')\n",
        "pyproject.toml": '[project.scripts]\nfit = "own.cli:main"\n',
    }
    training, said = lab_of(tmp_path, files)
    assert (training.module, training.editable, settings.load(tmp_path / "lab").metric.name) == ("own.cli", ["own/cli.py"], "val_acc")
    assert (
        "proposals may change own/cli.py alone, not own/engine.py, own/data.py, conf/a.yaml; to widen that: --editable own/ conf/" in said
    )
    assert "the metric is val_acc, which own/engine.py seems to print" in said and "imports no_such_a, no_such_b, which" in said


def test_where_several_may_train_the_owner_is_asked_and_the_others_are_named(tmp_path: Path) -> None:
    offered: list[str] = []

    def ask(choices: list[Candidate]) -> Candidate:
        offered.extend(choice.name for choice in choices)
        return choices[1]

    files = {"train_big.py": TRAINS, "train_small.py": TRAINS}
    training, said = lab_of(tmp_path, files, Asked(ask=ask))  # type: ignore[arg-type]
    assert offered == ["python train_big.py", "python train_small.py"] and training.entry == "train_small.py"
    assert "others: python train_big.py" in said


@pytest.mark.parametrize(
    ("line", "metric"),
    [
        ('print(f"step {n}: train loss {t:.4f}, val loss {v:.4f}")', "val loss"),
        ("print0(f'Step {step:05d} | Validation bpb: {val_bpb:.6f}')", "Validation bpb"),
        ('print(f"val_bpb:          {val_bpb:.6f}")', "val_bpb"),
        ("logger.info('test_rmse=%.3f', rmse)", "test_rmse"),
        ("self.log('val_loss', loss)\nself.log('test/acc', acc)", "test/acc"),
        ("print('MAE', a)\nprint(f'Final test accuracy: {a}')", "test accuracy"),
        ("writer.add_scalar('Loss/test', test_loss, n)\nprint(f'train loss: {a} test loss: {b}')", "test loss"),
        ("print('  RMSE: %s' % rmse)", ""),  # of which data?
        ("import keras\nmodel.compile(metrics=['acc'])\nmodel.fit(x, y, validation_data=(a, b), epochs=1)", "val_acc"),
        ("from tensorflow import keras\nmodel.fit(\n    x,\n    validation_split=0.1,\n)", "val_loss"),
        ("import keras\nmodel.fit(x, y, validation_data=(a, b), verbose=0)", ""),
        ("log(a, val_loss, n)", ""),  # a variable's name
        ("print(f'loss {loss}')", ""),  # of which data?
        ("# the val loss matters\nprint(loss)", ""),
    ],
)
def test_the_metric_is_read_out_of_what_is_printed_and_asked_for_where_nothing_shows(tmp_path: Path, line: str, metric: str) -> None:
    asked: list[str] = []
    files = {"train.py": f"loss.backward()\n{line}\n"}
    lab_of(tmp_path, files, Asked(ask_metric=lambda path: asked.append(path) or "own"))  # type: ignore[func-returns-value]
    assert settings.load(tmp_path / "lab").metric.name == (metric or "own") and bool(asked) == (not metric)


@pytest.mark.parametrize(
    ("files", "asked", "code", "words"),
    [
        ({"pkg/__init__.py": "", "pkg/train.py": "loss.backward()\n"}, Asked(), "no_metric", "pkg/train.py never calls submit()"),
        ({"lib.py": "x = 1\n"}, Asked(), "no_train_file", "It has: lib.py. Name it with --entry"),
        ({"my nb.ipynb": "{}"}, Asked(), "no_train_file", "after `jupyter nbconvert --to script 'my nb.ipynb'` and a commit"),
        (
            {"prepare.r": "x", "my train.R": "x"},
            Asked(),
            "no_train_file",
            """add a train.py that starts yours by `subprocess.run(["Rscript", "my train.R"], check=True)`, commit it, and name the metric""",
        ),
        ({"{{ name }}/train.py": TRAINS}, Asked(), "no_train_file", "It is a template: make a project of it"),
        ({"train.py": TRAINS, "fit.jl": "x"}, Asked("fit.jl --x 1"), "no_train_file", '["julia", "fit.jl"]'),
        ({"train.py": TRAINS}, Asked(module="pkg.train"), "no_train_file", "pkg.train"),
        ({"train.py": TRAINS}, Asked(editable=["modle/**"]), "no_such_path", "modle/**"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_is_made(
    tmp_path: Path, files: dict[str, str], asked: Asked, code: str, words: str
) -> None:
    with pytest.raises(LabError) as error:
        lab_of(tmp_path, files, asked)
    assert error.value.code == code and words in str(error.value) and not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    ("path", "lacking"),
    [
        ("lm/main.py", ["no_such_a"]),  # its own `data`, not another example's
        ("gan/main.py", ["no_such_a", "no_such_b", "no_such_c"]),  # no `data` of its own: all of them may be meant
        ("main.py", ["no_such_c", "no_such_d"]),
        ("board.py", ["tensorboard"]),
        ("hydra_app.py", ["hydra", "no_such_h"]),
        ("app.py", ["no_such_e"]),  # neither another module of the package, nor what is called as one of Python's own
    ],
)
def test_what_an_example_lacks_is_not_what_its_neighbours_lack(path: str, lacking: list[str]) -> None:
    files = {
        "lm/main.py": b"import data",
        "lm/data.py": b"import no_such_a",
        "vision/data/__init__.py": b"import no_such_b",
        "gan/main.py": b"import data, no_such_c",
        "main.py": b"import model, no_such_c",
        "board.py": b"from torch.utils.tensorboard import SummaryWriter",
        "src/model.py": b"import no_such_d",
        "lm/model.py": b"import no_such_a",
        "app.py": b"import logging\nfrom pkg.sub.part import f",
        "pkg/sub/part.py": b"import no_such_e",
        "pkg/sub/other.py": b"import no_such_f",
        "far/logging.py": b"import no_such_g",
        "hydra_app.py": b"import hydra",
        "configs/net.yaml": b"_target_: nets.conv.Net\noptimizer:\n  _target_: 'torch.optim.Adam'\n",
        "nets/conv.py": b"from .parts import Part",
        "nets/parts.py": b"import no_such_h",
        "nets/dense.py": b"import no_such_i",
    }
    assert unresolved(files, reached(files, path)) == lacking


def test_what_will_be_missing_is_said_at_once(tmp_path: Path) -> None:
    part = repository(tmp_path / "part", {"x.py": "x = 1\n"})
    files = {
        "train.py": f"import helper, json\n{TRAINS}",
        "helper.py": "import no_such_package\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import never_needed\n",
        "unused.py": "import another_missing\n",
        "weights.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        ".gitignore": "corpus/\n__pycache__/\n",
        "images/big.dat": "x" * (17 << 20),
        "plain/a.yaml": "lr: 1\n",
    }
    (tmp_path / "repo").mkdir()
    for link, to in {"conf": "images/../plain", "corpora": "/srv/corpora", "latest.yaml": "conf/a.yaml", "loop": "loop"}.items():
        (tmp_path / "repo" / link).symlink_to(to)
    root = repository(tmp_path / "repo", files)
    (root / "corpus").mkdir()
    (root / "corpus" / "data.txt").write_text("1", encoding="utf-8")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("1", encoding="utf-8")
    git(root, "submodule", "add", "-q", str(part), "vendored")
    git(root, "commit", "-qm", "with a submodule")
    said = "\n".join(create_lab(tmp_path / "lab", root, profile="tiny"))
    for words in (
        "git ignores corpus/",
        "vendored is a submodule, so it is not in the lab. --submodules",
        "weights.bin: only a pointer of Git LFS",
        "imports no_such_package,",
        "images/** has 17 MB",
        "corpora is a link to /srv/corpora, which is not in the repository",
        "loop is a link to loop",
    ):
        assert words in said, (words, said)
    assert "conf is a link" not in said and "latest.yaml is a link" not in said
    given = Repo(tmp_path / "lab").other_files("research", settings.load(tmp_path / "lab").training.files)
    assert given["conf/a.yaml"] == given["latest.yaml"] == given["plain/a.yaml"] == b"lr: 1\n" and "corpora" not in given
    assert not (tmp_path / "lab" / "vendored" / "x.py").exists()
    asked: list[list[str]] = []
    whole = Asked(include_submodules=lambda paths: not asked.append(list(paths)))  # type: ignore[func-returns-value]
    assert "vendored was a submodule" in "\n".join(create_lab(tmp_path / "whole", root, profile="tiny", asked=whole))
    assert asked == [["vendored"]] and "vendored/**" in settings.load(tmp_path / "whole").training.files
    assert (
        (tmp_path / "whole" / "vendored" / "x.py").read_text(encoding="utf-8")
        == "x = 1\n"
        == git(tmp_path / "whole", "show", "research:vendored/x.py") + "\n"
    )
    (root / "vendored" / ".git").unlink()
    assert "submodule update --init" in "\n".join(create_lab(tmp_path / "third", root, profile="tiny", asked=whole))
    assert "another_missing" not in said and "never_needed" not in said and "__pycache__" not in said


@pytest.mark.parametrize("kind", ["url", "partial clone", "forbidden protocol"])
def test_a_url_a_partial_clone_and_a_strict_git_can_be_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    root = repository(tmp_path / "repo", {"train.py": "old = 1\n" + TRAINS})
    repository_text = "new = 1\n" + TRAINS
    (root / "train.py").write_text(repository_text, encoding="utf-8")
    git(root, "commit", "-qam", "y")
    source: Path | str = root
    if kind == "url":
        source = f"file://{root}"
    elif kind == "partial clone":
        git(root, "config", "uploadpack.allowFilter", "true")
        git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{root}", "partial")
        source = tmp_path / "partial"
        root.rename(tmp_path / "gone")
    else:
        (tmp_path / "gitconfig").write_text('[protocol "file"]\n\tallow = never\n', encoding="utf-8")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    create_lab(tmp_path / "lab", source, profile="tiny")
    assert (tmp_path / "lab" / "train.py").read_text(encoding="utf-8") == repository_text


def test_a_url_that_git_cannot_fetch_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="file:///nowhere/repo can't be fetched") as error:
        create_lab(tmp_path / "lab", "file:///nowhere/repo")
    assert error.value.code == "not_fetched" and not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--entry", "train.py"], "name that with --from-repo"),
        (["--metric", "loss"], "name that with --from-repo"),
        (["--from-repo", ".", "--entry", "'train.py"], "--entry can't be read"),
        (["--from-repo", ".", "--module", " "], "--module is empty"),
    ],
)
def test_an_option_that_says_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str) -> None:
    assert cli.main(["init", str(tmp_path / "lab"), *options]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "lab").exists()
