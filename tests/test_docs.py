"""The docs against what is there: a room, a setting, a command or a tool that they don't name is one that nobody finds."""

import re
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.clients import CLIENTS
from tests import reference
from tests.attack.registry import ATTACKS, CONTROLS
from tests.bench import gpu_budget

HERE = Path(__file__).parents[1]
PAGES = sorted([*HERE.glob("*.md"), *HERE.glob("docs/**/*.md")])
README = (HERE / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_readme_is_short_and_names_and_counts_the_tools_and_clients() -> None:
    assert len(README.encode()) <= 6_144
    assert f"They are {len(TOOLS)}, with" in README and f"knows {len(CLIENTS)}, from" in README
    assert {tool for tool in TOOLS if f"`{tool}`" not in README} == set()


def test_the_readme_counts_the_cheats_that_make_attack_plays() -> None:
    assert f"plays {len(ATTACKS) - len(CONTROLS)} cheats" in README


def test_the_page_on_clients_names_each_that_install_knows() -> None:
    page = (HERE / "docs" / "clients.md").read_text("utf-8")
    assert {name for name, client in CLIENTS.items() if f"`{name}`" not in page or client.page not in page} == set()


def test_the_page_on_hardware_expects_of_each_card_what_the_arithmetic_gives() -> None:
    page = (HERE / "docs" / "hardware.md").read_text("utf-8")
    _, table = page.split("tokens a second, not measured |\n| --- | --- | --- | --- |\n")
    assert table.partition("\n\n")[0].splitlines() == [f"| {' | '.join(row)} |" for row in gpu_budget.expected()]
    low, high = (f"{100 * share:g}" for share in gpu_budget.USED)
    assert f"{low} to {high} % of the maker's peak, at {gpu_budget.OPERATIONS / 1e6:.0f} million operations" in page


@pytest.mark.parametrize("page", reference.PAGES)
def test_generated_pages_are_current(page: str) -> None:
    if page == "cli.md" and sys.version_info[:2] != (3, 11):
        pytest.skip("argparse lays its help out differently in each version of Python; 3.11 is the reference")
    assert (HERE / "docs" / page).read_text("utf-8") == reference.PAGES[page](), "run `make reference`"


@pytest.mark.parametrize("package", ["server", "trainer"])
def test_the_map_names_every_room(package: str) -> None:
    page = (HERE / "docs" / "architecture.md").read_text("utf-8")
    rooms = {f"{package}/{path.parent.name}/" for path in (HERE / package).glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in page and f"`{room.rstrip('/')}`" not in page} == set()


def test_no_link_leads_nowhere() -> None:
    dead = []
    for page in PAGES:
        for target in LINK.findall(page.read_text("utf-8")):
            path, _, _ = target.partition("#")
            if "://" not in target and path and not (page.parent / path).exists():
                dead.append(f"{page.relative_to(HERE)}: {target}")
    assert dead == []
