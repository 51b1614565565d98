"""How a repository runs its own code is read from its README, its tools and its commands, and from what the owner types."""

import pytest

from autoresearch_mcp.server.commands.candidates import candidates
from autoresearch_mcp.server.commands.typed import Typed, typed_entry, typed_module

TRAINS = "import json\n\nloss.backward()\nprint(f'val_loss: {loss}')\n"
LIBRARY = "import torch\n\n\ndef train(model):\n    model.loss().backward()\n"
COMMAND = "def main():\n    model.fit(1)\n"
NEEDS = "import argparse\nparser.add_argument('config')\n" + TRAINS
SCRIPTS = '[project]\nname = "own"\n[project.scripts]\nown-train = "own.cli:main"\n'
GROUP = "import typer\napp = typer.Typer()\n@app.command()\ndef fit():\n    model.fit(1)\n"


@pytest.mark.parametrize(
    ("files", "runs", "cwd"),
    [
        ({"train.py": LIBRARY, "main.py": f"from train import train\n{TRAINS}"}, "python main.py", ""),
        ({"train.py": f"{LIBRARY}\n\nif __name__ == '__main__':\n    train(1)\n", "main.py": TRAINS}, "python train.py", ""),
        ({"own/__init__.py": "", "own/cli.py": COMMAND, "pyproject.toml": SCRIPTS}, "own.cli:main()", ""),
        ({"own/cli.py": f"{COMMAND}if __name__ == '__main__':\n    main()\n", "pyproject.toml": SCRIPTS}, "python own/cli.py", ""),
        (
            {"src/own/cli.py": GROUP, "pyproject.toml": SCRIPTS.replace("main", "app"), "README.md": "```\nuv run own-train fit --epochs 1\n```"},
            "own.cli:app() fit --epochs 1",
            "",
        ),
        ({"ns/go.py": f"from .net import Net\n{TRAINS}", "README.md": "`python -m ns.go`"}, "python -m ns.go", ""),
        ({"ns/train.py": f"from .net import Net\n{TRAINS}"}, "python -m ns.train", ""),
        ({"src/own/train.py": f"from .net import Net\n{TRAINS}"}, "python -m own.train", ""),
        ({"src/__init__.py": "", "src/train.py": f"from .net import Net\n{TRAINS}", "README.md": "`python src/train.py`"}, "python -m src.train", ""),
        ({"own/exp/__init__.py": "", "own/exp/train.py": f"from ..net import Net\n{TRAINS}"}, "python -m own.exp.train", ""),
        ({"part/own/__init__.py": "", "part/own/train.py": TRAINS, "README.md": "cd part && python -m own.train"}, "python -m own.train", "part"),
        ({"my-code/own/__init__.py": "", "my-code/own/train.py": f"from .net import Net\n{TRAINS}"}, "python -m own.train", "my-code"),
        ({"main.py": NEEDS, "README.md": "Run `python main.py conf/a.yaml --gpu 0`."}, "python main.py conf/a.yaml --gpu 0", ""),
        ({"main.py": NEEDS, "README.md": "```\npython main.py <config>\n```"}, "python main.py", ""),
        ({"main.py": NEEDS, "README.md": "Now run python main.py to start it."}, "python main.py", ""),
        ({"main.py": TRAINS, "README.md": "```\npython main.py --gpu 0\n```"}, "python main.py", ""),
        ({"train.py": NEEDS, "README.md": "$ python train.py conf/a.yaml  # on a CPU"}, "python train.py conf/a.yaml", ""),
        ({"a/b.py": NEEDS, "Makefile": "PYTHON = python3\nfit:\n\t$(PYTHON) a/b.py conf.yaml\n"}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "dvc.yaml": "stages:\n  fit:\n    cmd: python a/b.py params.yaml\n"}, "python a/b.py params.yaml", ""),
        ({"a/b.py": NEEDS, "MLproject": 'command: "python a/b.py {alpha}"\n'}, "python a/b.py", ""),
        ({"a/b.py": NEEDS, "Dockerfile": 'CMD ["python", "-u", "a/b.py", "conf.yaml"]\n'}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "justfile": "fit:\n    uv run a/b.py conf.yaml\n"}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "pyproject.toml": '[tool.poe.tasks]\nfit = "python a/b.py conf.yaml"\n'}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "jobs/go.sbatch": "srun python a/b.py conf.yaml\n"}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "README.md": "accelerate launch \\\r\n  a/b.py conf.yaml\r\n"}, "python a/b.py conf.yaml", ""),
        ({"a/b.py": NEEDS, "README.md": "python a/b.py -m lr=0.1,0.2\n"}, "python a/b.py", ""),
        ({"a/main.py": NEEDS, "b/main.py": NEEDS, "a/README.md": "`python main.py conf.yaml`"}, "python a/main.py conf.yaml", ""),
        ({"train.py": NEEDS, "scripts/train.py": LIBRARY, "scripts/go.sh": "python train.py conf.yaml\n"}, "python train.py conf.yaml", ""),
        ({"main.py": f"flags.mark_flags_as_required(['config'])\n{TRAINS}", "README.md": "`python main.py --config=c.py`"}, "python main.py --config=c.py", ""),
        ({"main.py": "LightningCLI(Net)\n", "README.md": "```\npython main.py fit --config c.yaml\n```"}, "python main.py fit --config c.yaml", ""),
        (
            {"packages/fit/pyproject.toml": SCRIPTS, "packages/fit/src/own/cli.py": COMMAND, "packages/core/own/cli.py": LIBRARY},
            "own.cli:main()",
            "packages/fit/src",
        ),
        ({"app.py": f"app = Flask('x')\n{TRAINS}", "src/fit_it.py": TRAINS}, "python src/fit_it.py", ""),
        ({"my-net/__init__.py": "", "my-net/__main__.py": TRAINS}, "python my-net/__main__.py", ""),
        ({"go.py": TRAINS, "main.py": TRAINS, "part/go.py": TRAINS, "part/README.md": "`python go.py`"}, "python main.py", ""),
        ({"{{ x }}/train.py": TRAINS, "fit_it.py": TRAINS, "{{ x }}/README.md": "`python train.py`"}, "python fit_it.py", ""),
        ({"a/train_it.py": TRAINS, "b/train.py": TRAINS}, "python b/train.py", ""),
        ({"examples/mnist.py": TRAINS, "lib/__init__.py": "", "lib/net.py": LIBRARY}, "python examples/mnist.py", ""),
    ],
)  # fmt: skip
def test_code_is_run_as_its_repository_runs_it(files: dict[str, str], runs: str, cwd: str) -> None:
    (first, *_) = candidates(list(files), lambda path: files[path].encode())
    assert (first.name, first.cwd) == (runs, cwd)


@pytest.mark.parametrize(
    "files",
    [
        {"main.py": TRAINS, "README.md": "```\npython main.py --gpu 0\n```"},
        {"own/cli.py": f"from .net import Net\n{TRAINS}", "pyproject.toml": SCRIPTS, "README.md": "```\nown-train --gpu 0\n```"},
    ],
)
def test_arguments_that_it_does_without_are_offered(files: dict[str, str]) -> None:
    (first,) = candidates(list(files), lambda path: files[path].encode())
    assert (first.arguments, first.offered) == ("", "--gpu 0")


REPOSITORY = {
    "train.py": TRAINS,
    "sub/go.py": TRAINS,
    "pkg/__init__.py": "",
    "pkg/train.py": TRAINS,
    "own/cli.py": COMMAND,
    "pyproject.toml": SCRIPTS,
    "python/lib/fit.py": TRAINS,
    "run.sh": "python train.py --x 1\n",
    "Makefile": "fit:\n\tpython -m pkg.train --y 2\n",
}


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("torchrun --nproc_per_node=2 train.py --s $AUTORESEARCH_SEED", Typed("train.py", "train.py --s $AUTORESEARCH_SEED")),
        ("accelerate launch --config_file c.yaml train.py --q", Typed("train.py", "train.py --q")),
        ("PYTHONPATH=. CUDA_VISIBLE_DEVICES=0 python train.py", Typed("train.py", "train.py", env={"PYTHONPATH": "."})),
        ("cd sub && python go.py --x", Typed("sub/go.py", "sub/go.py --x", cwd="sub")),
        ("own-train --epochs 1", Typed("own/cli.py", module="own.cli:main --epochs 1")),
        ("uv run own-train", Typed("own/cli.py", module="own.cli:main")),
        ("bash run.sh", Typed("", hint="A run starts Python itself: name what run.sh runs: `--entry 'train.py --x 1'`.")),
        ("make fit", Typed("", hint="A run starts Python itself: name what Makefile runs: `--module 'pkg.train --y 2'`.")),
        ("nothing.py", Typed("")),
    ],
)
def test_the_owner_may_type_what_a_shell_would_run(line: str, typed: Typed) -> None:
    assert typed_entry(line, list(REPOSITORY), lambda path: REPOSITORY[path].encode(), "/repo") == typed


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("own.cli:main --x", Typed("own/cli.py", module="own.cli:main --x")),
        ("lib.fit", Typed("python/lib/fit.py", module="lib.fit", cwd="python")),
        ("no.such", Typed("", module="no.such")),
    ],
)
def test_a_module_may_be_a_function_or_lie_anywhere(text: str, typed: Typed) -> None:
    assert typed_module(text, list(REPOSITORY)) == typed
