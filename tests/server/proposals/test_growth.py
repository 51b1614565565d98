"""A source carries no text and no weights: what it adds is counted, wherever it is put, and capped."""

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.proposals import growth
from autoresearch_mcp.server.proposals.repo import FIRST, Repo
from autoresearch_mcp.trainer import prepare
from tests.server.proposals.helpers import TRAIN, git, refused

STOCK = (Path(prepare.__file__).parent / "train.py").read_text(encoding="utf-8")


def bits(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(1) for _ in range(count)]


def text(size: int, seed: int = 1) -> str:
    """As many bytes that no compressor makes smaller, as text of a source."""
    return base64.b85encode(random.Random(seed).randbytes(size)).decode().replace("\\", "~")


def _names(size: int) -> str:
    digits = random.Random(2).randbytes(size).hex()
    return "".join(f"x{digits[i : i + 60]} = 0\n" for i in range(0, len(digits), 60))


def _operators(size: int) -> str:
    return "".join(f"y = {''.join('x' + '+-'[bit] for bit in bits(400, i))}x\n" for i in range(size * 8 // 400))


STORES: dict[str, Callable[[int], str]] = {
    "a string of compressed text": lambda size: f'TEXT = r"{text(size)}"\n',
    "bytes": lambda size: f"TEXT = {random.Random(3).randbytes(size)!r}\n",
    "weights at 3 bits each": lambda size: f"WEIGHTS = {[random.Random(i).randrange(8) for i in range(size * 8 // 3)]}\n",
    "long names": _names,
    "comments": lambda size: "".join(f"# {text(60, i)}\n" for i in range(size // 60)),
    "a docstring": lambda size: f'def f():\n    r"""{text(size)}"""\n',
    "blank lines": lambda size: "".join("\n" * (1 + bit) + "0\n" for bit in bits(size * 8)),
    "blanks at the ends of lines": lambda size: "".join("0" + " " * bit + "\n" for bit in bits(size * 8)),
    "the order of operators": _operators,
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_in_the_source_is_refused_wherever_it_is(repo: Repo, store: str) -> None:
    room = growth.PROPOSAL * 5 // 4
    message = refused(repo, "too_much_new", files={"train.py": TRAIN.decode() + STORES[store](room)})
    assert "6,144" in message and "Nothing was kept" in message


def test_many_small_files_of_an_editable_folder_count_as_one(repo: Repo) -> None:
    files = {f"model/part_{i}.py": f'x = r"{text(300, i)}"\n' for i in range(20)}
    assert "6,144" in refused(repo, "too_much_new", files=files)
    assert "6,144" in refused(repo, "too_much_new", files={f"model/{text(90, i).encode().hex()}.py": "x = 0\n" for i in range(60)})


def test_a_whole_lot_of_small_steps_is_refused_as_one_large_one_is(repo: Repo) -> None:
    base, code = repo.champion(), TRAIN.decode()
    for step in range(20):
        code += f'T{step} = r"{text(1000, step)}"\n'
        if len(code) > growth.TOTAL * 5 / 4 - 1000:
            break
        base = repo.build(base, "more", "ada", files={"train.py": code}).commit
    repo.advance(repo.champion(), base)
    message = refused(repo, "too_much_new", files={"train.py": code})
    assert "beyond the lab's first one" in message and f"git update-ref {FIRST} research" in message
    assert repo.build(base, "less", "ada", files={"train.py": TRAIN.decode() + "# shorter\n"}), "what makes it smaller is welcome"
    git(repo.root, "update-ref", FIRST, base)
    assert repo.build(base, "more", "ada", files={"train.py": code}), "the owner began the count anew"


def test_a_source_that_is_over_the_cap_already_may_shrink_in_steps(repo: Repo) -> None:
    lines = [f'T{step} = r"{text(1000, step)}"\n' for step in range(17)]
    base = first = repo.champion()
    for count in (5, 9, 13, 17):
        base = repo.build(base, "more", "ada", files={"train.py": TRAIN.decode() + "".join(lines[:count])}).commit
        git(repo.root, "update-ref", FIRST, base)  # the owner lets it grow
    git(repo.root, "update-ref", FIRST, first)
    assert growth.growth({"train.py": TRAIN}, repo.editable_files(base)) > growth.TOTAL
    assert repo.build(base, "less", "ada", files={"train.py": TRAIN.decode() + "".join(lines[1:])})


def test_honest_changes_cost_next_to_nothing() -> None:
    def added(new: str) -> int:
        return growth.growth({"train.py": STOCK.encode()}, {"train.py": new.encode()})

    assert added(STOCK) < 32
    assert added(STOCK.replace("SOFTCAP = 15.0", "SOFTCAP = 0.0")) < 64
    half = len(STOCK) // 2
    cut = STOCK.index("\n", half) + 1
    assert added(STOCK[cut:] + STOCK[:cut]) < 64, "moved code is not new"
    assert added(STOCK[cut:]) < 32, "nor is removed code"
    assert growth.growth({"train.py": STOCK.encode()}, {"train.py": STOCK.encode(), "model/copy.py": STOCK.encode()}) < 96
    renamed = STOCK.replace("self.wte", "self.token_embedding").replace("resid_lambdas", "residual_scales")
    assert added(renamed) < 300


def test_a_lab_of_before_counts_beyond_what_it_began_with(make_lab: Callable[..., Path]) -> None:
    root = make_lab()
    git(root, "update-ref", "-d", FIRST)
    lab = Lab(root)
    lab.propose_patch("no softcap", "ada", edits=[{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": "SOFTCAP = 0.0"}])
    assert git(root, "rev-parse", FIRST) == lab.champion()
    lab.close()


@pytest.mark.parametrize("size", [0, 1, 3_000, 70_000, 250_000])
def test_how_far_the_compressor_looks_back_changes_no_count(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = {"train.py": STOCK.encode()}, {"train.py": f"{STOCK}\nTEXT = '{text(size // 2)}'\n{STOCK[: size // 2]}".encode()}
    counted = growth.growth(before, after)
    monkeypatch.setattr(growth, "_DICTIONARY", (4 << 20, 4 << 20))
    assert growth.growth(before, after) == counted
