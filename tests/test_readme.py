"""README against what is there: a file, a setting, a command or a tool that it doesn't name is one that nobody finds."""

import argparse
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from autoresearch_mcp.server import cli, settings
from tests.server.mcp.test_surface import TOOLS

HERE = Path(__file__).parents[1]
README = (HERE / "README.md").read_text(encoding="utf-8")
FOUNDATIONS = {"__init__", "errors"}
COMMANDS = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)).choices


def part(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("package", ["server", "trainer"])
def test_the_map_names_every_room(package: str) -> None:
    rooms = {path.name for path in (HERE / package).glob("*.py") if path.stem not in FOUNDATIONS}
    rooms |= {f"{path.parent.name}/" for path in (HERE / package).glob("*/__init__.py")}
    assert {room for room in rooms if room not in part("The map of the house")} == set()


def test_every_setting_is_in_the_table() -> None:
    missing = []
    for section, field in settings.Settings.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        rows = "\n".join(row for row in part("lab.toml").splitlines() if row.startswith(f"| `[{section}]"))
        keys = set(field.annotation.model_fields) - {"schema_version"}
        missing += [f"[{section}] {key}" for key in keys if not re.search(rf"[` ]{key}`", rows)]
    assert missing == []


def test_every_tool_and_every_command_is_named() -> None:
    assert {tool for tool in TOOLS if f"`{tool}`" not in part("The tools")} == set()
    assert {command for command in COMMANDS if f"`{command}" not in README and f"autoresearch-mcp {command}" not in README} == set()
