"""Near-copies: edits that change no work keep the canonical hash, and edits of anything that runs change it."""

import ast
import random
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.proposals.fingerprint import canonical
from autoresearch_mcp.trainer import prepare

STOCK = (Path(prepare.__file__).parent / "train.py").read_text(encoding="utf-8")
SMALL = '''
"""A model."""
import math
import json
import torch
from torch import nn

RATE = 0.02
WIDTH = 64
STEPS = 10
if torch.cuda.is_available():
    STEPS = 20

def norm(x):
    return x / math.sqrt(x.size(-1) + 1e-6)

def scaled(x, factor=2.0):
    """Scale."""
    first = norm(x)
    second = first * factor
    return second - first

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        hidden = self.layer(x)
        return scaled(hidden, 3.0) if self.training else norm(hidden)

def build_model(config):
    return Net(config["width"])

def train():
    model = build_model({"width": WIDTH})
    for step in range(STEPS):
        rate = RATE * (1 - step / STEPS)
        if step > 5 and rate > 0.001:
            rate = rate / 2
        model.layer.weight.data -= rate
    return model

if __name__ == "__main__":
    train()
'''


def of(code: str) -> str:
    return canonical({"train.py": code.encode()})


def edited(old: str, new: str, code: str = SMALL) -> str:
    assert old in code
    return code.replace(old, new)


COSMETIC = {
    "comments and layout": lambda: edited("RATE = 0.02", "RATE = (  # tuned\n    0.02\n)"),
    "docstrings": lambda: edited('"""Scale."""', '"""Scale, a lot."""'),
    "annotations": lambda: edited("def norm(x):", "def norm(x: torch.Tensor) -> torch.Tensor:"),
    "an annotated constant": lambda: edited("RATE = 0.02", "RATE: float = 0.02"),
    "a renamed constant": lambda: SMALL.replace("RATE", "LEARNING"),
    "a renamed function": lambda: SMALL.replace("norm", "normalise"),
    "a renamed class": lambda: SMALL.replace("Net", "Network"),
    "a renamed local": lambda: SMALL.replace("hidden", "h"),
    "a renamed parameter": lambda: edited("def norm(x):\n    return x / math.sqrt(x", "def norm(y):\n    return y / math.sqrt(y"),
    "two locals with exchanged names": lambda: SMALL.replace("first", "~").replace("second", "first").replace("~", "second"),
    "another name for an import": lambda: SMALL.replace("import math", "import math as m").replace("math.sqrt", "m.sqrt"),
    "imports in another order": lambda: edited("import math\nimport json\nimport torch", "import torch\nimport json\nimport math"),
    "an import that is not used": lambda: edited("import json\n", "import json\nimport re\n"),
    "a constant spelled otherwise": lambda: edited("0.02", "2e-2"),
    "a folded constant": lambda: edited("RATE = 0.02", "RATE = 0.01 * 2"),
    "a constant of constants": lambda: edited("RATE = 0.02", "HALF = 0.01\nRATE = HALF + HALF"),
    "a constant in its place": lambda: edited("scaled(hidden, 3.0)", "scaled(hidden, FACTOR)").replace(
        "WIDTH = 64", "WIDTH = 64\nFACTOR = 3.0"
    ),
    "times one": lambda: edited("rate = rate / 2", "rate = rate / 2 * 1"),
    "plus nothing": lambda: edited("range(STEPS)", "range(STEPS + 0)"),
    "a number in front": lambda: edited("x.size(-1) + 1e-6", "1e-6 + x.size(-1)"),
    "code after a return": lambda: edited("return second - first", "return second - first\n    return first"),
    "a branch that is never taken": lambda: edited("    train()", "    if False:\n        print(1)\n    train()"),
    "a branch that is always taken": lambda: edited("    train()", "    if 2 > 1:\n        train()"),
    "a loop that never runs": lambda: edited("    train()", "    while 0:\n        print(1)\n    train()"),
    "an unused constant": lambda: edited("WIDTH = 64", "WIDTH = 64\nSPARE = 7"),
    "an unused local": lambda: edited("first = norm(x)", "spare = (1, 2)\n    first = norm(x)"),
    "an unused function": lambda: edited("class Net", "def spare(x):\n    return norm(x) * 5\n\nclass Net"),
    "an unused class": lambda: edited("class Net", "class Spare:\n    size = 3\n\nclass Net"),
    "unused functions that call each other": lambda: edited(
        "class Net", "def a(n):\n    return b(n)\n\ndef b(n):\n    return a(n)\n\nclass Net"
    ),
    "functions in another order": lambda: _moved("def norm", "def scaled"),
    "methods in another order": lambda: _methods_moved(),
    "an assert that always holds": lambda: edited("    train()", "    assert True\n    train()"),
    "a negated test": lambda: edited(
        "scaled(hidden, 3.0) if self.training else norm(hidden)", "norm(hidden) if not self.training else scaled(hidden, 3.0)"
    ),
    "a test negated twice": lambda: edited("if self.training else", "if not not self.training else"),
    "pass": lambda: edited("rate = rate / 2", "pass\n            rate = rate / 2"),
}


def _moved(first: str, second: str) -> str:
    before, rest = SMALL.split(first)
    body, after = rest.split(second)
    end = after.index("class Net")
    return before + second + after[:end] + first + body + after[end:]


def _methods_moved() -> str:
    init = "    def __init__(self, width):\n        super().__init__()\n        self.layer = nn.Linear(width, width)\n\n"
    return edited(init, "").replace("else norm(hidden)\n", "else norm(hidden)\n\n" + init.rstrip("\n") + "\n")


@pytest.mark.parametrize("edit", COSMETIC)
def test_an_edit_that_changes_no_work_keeps_the_hash(edit: str) -> None:
    code = COSMETIC[edit]()
    assert code != SMALL
    assert of(code) == of(SMALL)


def test_the_branches_of_an_if_that_is_negated_twice_are_where_they_were() -> None:
    once, twice, plain = (of(f"if {negated}ready():\n    begin()\nelse:\n    wait()\n") for negated in ("not ", "not not ", ""))
    assert once != twice == plain


REAL = {
    "a number": ("RATE = 0.02", "RATE = 0.020000001"),
    "an integer that was a float": ("factor=2.0", "factor=2"),
    "a default": ("factor=2.0", "factor=2.5"),
    "a number under a condition": ("STEPS = 20", "STEPS = 21"),
    "the other condition": ("if torch.cuda.is_available()", "if not torch.cuda.is_available()"),
    "an operator": ("second - first", "second + first"),
    "operands that don't commute": ("second - first", "first - second"),
    "a comparison": ("rate > 0.001", "rate >= 0.001"),
    "and for or": ("step > 5 and", "step > 5 or"),
    "another function": ("else norm(hidden)", "else scaled(hidden)"),
    "the other local": ("return second - first", "return second - second"),
    "an argument's name": ('config["width"]', 'config["size"]'),
    "a method's name, which libraries call": ("def forward", "def forwards"),
    "an attribute's name, which libraries read": ("self.training", "self.layer"),
    "the contract's name": ("def build_model", "def build"),
    "one more call": ("first = norm(x)", "first = norm(norm(x))"),
    "a result that nobody reads": ("first = norm(x)", "wasted = norm(x)\n    first = norm(x)"),
    "work in an unused class": ("class Net", "class Spare:\n    torch.set_num_threads(2)\n\nclass Net"),
    "work in a decorator": ("class Net", "@torch.cuda.empty_cache()\ndef spare():\n    pass\n\nclass Net".replace("@torch", "@print")),
    "an import with effects": ("import json", "import json\nimport helpers"),
    "the order of statements": (
        "super().__init__()\n        self.layer = nn.Linear(width, width)",
        "self.layer = nn.Linear(width, width)\n        super().__init__()",
    ),
    "a statement after a return, in a generator": ("    return second - first", "    return second - first\n    yield"),
    "names read by the code": ("if __name__", 'print(globals()["RATE"])\nif __name__'),
}


@pytest.mark.parametrize("edit", REAL)
def test_an_edit_of_what_runs_changes_the_hash(edit: str) -> None:
    assert of(edited(*REAL[edit])) != of(SMALL)


def test_every_number_and_operator_of_the_stock_code_counts() -> None:
    """Fifty places, drawn anew from a fixed seed: numbers are moved a little, operators and comparisons exchanged."""
    tree = ast.parse(STOCK)
    places = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp | ast.Compare) or _is_number(node)]
    stock = of(STOCK)
    for number in random.Random(7).sample(range(len(places)), 50):
        changed = ast.parse(STOCK)
        node = [node for node in ast.walk(changed) if isinstance(node, ast.BinOp | ast.Compare) or _is_number(node)][number]
        if isinstance(node, ast.Constant):
            node.value = node.value + (1 if isinstance(node.value, int) else node.value * 1e-9 + 1e-12)
        elif isinstance(node, ast.BinOp):
            node.op = ast.Sub() if isinstance(node.op, ast.Mult) else ast.Mult()
        elif isinstance(node, ast.Compare):
            node.ops[0] = ast.NotEq() if not isinstance(node.ops[0], ast.NotEq) else ast.Eq()
        assert of(ast.unparse(changed)) != stock, ast.unparse(node)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def test_the_stock_code_under_new_names_is_the_same() -> None:
    """All own functions, classes, constants and locals are renamed at once, but for methods and arguments that are passed by name."""
    tree = ast.parse(STOCK)
    passed = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)} | {"build_model", "self"}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    fields = {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    own -= passed | strings | fields | {"CHUNK", "GATE_CHANNELS"}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} - passed - strings - fields
    assert len(own) > 100
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = f"renamed_{node.id}"
        elif isinstance(node, ast.arg) and node.arg in own:
            node.arg = f"renamed_{node.arg}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in own and node in tree.body:
            node.name = f"renamed_{node.name}"
    assert of(ast.unparse(tree)) == of(STOCK)


def test_an_else_behind_a_return_is_no_difference() -> None:
    assert of("def build_model(c):\n    if c:\n        return 1\n    else:\n        return 2\n") == of(
        "def build_model(c):\n    if c:\n        return 1\n    return 2\n"
    )


def test_other_files_may_import_what_a_file_defines_so_its_globals_keep_their_names() -> None:
    parts = {"model.py": b"WIDTH = 8\n\ndef net():\n    size = 2\n    return size\n", "train.py": SMALL.encode()}
    same = parts | {"model.py": b"WIDTH = 4 * 2\n\ndef net():\n    return 1 + 1\n"}
    assert canonical(parts) == canonical(same)
    for other in (
        b"WIDTH = 9\n\ndef net():\n    return 2\n",
        b"W = 8\n\ndef net():\n    return 2\n",
        b"WIDTH = 8\n\ndef mesh():\n    return 2\n",
    ):
        assert canonical(parts) != canonical(parts | {"model.py": other})
    assert canonical(parts | {"notes.txt": b"a"}) != canonical(parts | {"notes.txt": b"b"})


@pytest.mark.parametrize(
    "code",
    [
        "x = " + "(" * 90 + "1" + ")" * 90,
        "-" * 4000 + "1",
        "x = 9 ** 9 ** 9 ** 9",
        "x = 'a' * 10 ** 12",
        "x = 1 << 10 ** 9",
        "x = 1 / 0 + 0 % 0",
        "def",
        "x = '\\ud800'",
        "x = 10 ** 400 * 1.5",
    ],
    ids=range(9),
)
def test_hostile_code_is_hashed_quickly_and_never_run(code: str) -> None:
    assert of(code) == of(code)


def test_code_that_would_cost_much_to_simplify_counts_by_its_syntax() -> None:
    many = "".join(f"def f{n}(x):\n    return f{n + 1}(x) + {n}\n" for n in range(6_000))
    assert of(many) == of("# a comment\n" + many) != of(many.replace("5999", "5998"))


def test_the_hash_is_the_same_in_every_process() -> None:
    script = f"import sys; from {canonical.__module__} import canonical; print(canonical({{'train.py': open(sys.argv[1], 'rb').read()}}))"
    path = Path(prepare.__file__).parent / "train.py"
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", script, path], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == of(STOCK)
