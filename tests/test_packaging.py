"""What gets installed: the lock and the pins say the same, and cover what the project depends on."""

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def pins(file: str) -> dict[str, str]:
    return {_canonical(name): version for name, version in PIN.findall((HERE / file).read_text("utf-8"))}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_every_dependency_of_the_server_to_the_version_that_ci_tests() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {_canonical(re.split(r"[<>=\[ ]", requirement)[0]) for requirement in project["dependencies"]}
    locked, tested = pins("requirements.lock"), pins("constraints.txt")
    assert needed - locked.keys() == set(), "run `make lock`"
    assert {name: (locked[name], tested[name]) for name in locked.keys() & tested.keys() if locked[name] != tested[name]} == {}


def test_every_pin_of_the_lock_has_a_hash() -> None:
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9._-]+==)", (HERE / "requirements.lock").read_text("utf-8"))[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
