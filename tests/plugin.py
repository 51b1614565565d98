"""Writes the plugin for Claude Code, and the marketplace that holds it, from the contracts and the tools: `make reference` does it.

A plugin's server is called `plugin_<plugin>_<server>`, so its agents' tools have other names than in a lab's own `.mcp.json`.
Formats: https://code.claude.com/docs/en/plugins-reference and https://code.claude.com/docs/en/plugin-marketplaces
"""

import json
from pathlib import Path
from typing import Any

from autoresearch_mcp.contracts import TOOLS, contract
from autoresearch_mcp.server import __version__

ROOT = Path(__file__).parents[1]
PLUGIN, SERVER = "autoresearch", "lab"
DESCRIPTION = "A machine-learning research lab as tools: propose a change to a training script, train it, and promote what really is better"
TOOL_NAMES = tuple(f"mcp__plugin_{PLUGIN}_{SERVER}__{tool}" for tool in TOOLS)
_HOOK = {"type": "command", "timeout": 30}


def files() -> dict[str, str]:
    """Return the generated files by path."""
    worker = {
        "name": "experiment-worker",
        "description": "Improves the lab's training script by experiment. Give it a direction and a name to sign with; start several at once.",
        "tools": ", ".join(TOOL_NAMES),
    }
    campaign = {
        "description": "Run a research campaign in this lab: what to look for, and with how many workers",
        "argument-hint": "DIRECTION [WORKERS]",
    }
    opening = "Run a campaign in the autoresearch lab by the contract below. The direction, and the number of workers if one is named: $ARGUMENTS\n\n"
    status = {"description": "What the lab is about now: champion, what runs, what was found, what to do next"}
    asked = "Call get_status, and plot_progress where anything was measured. Tell me in a few lines: the champion and its gain, what runs, what "
    asked += "was learned since I last asked (search_memory), what it cost, and what you would do next. Change nothing.\n"
    return {
        ".claude-plugin/marketplace.json": _json(
            {
                "name": PLUGIN,
                "owner": {"name": "autoresearch-mcp"},
                "metadata": {"description": DESCRIPTION},
                "plugins": [{"name": PLUGIN, "source": "./plugin", "description": DESCRIPTION}],
            }
        ),
        "plugin/.claude-plugin/plugin.json": _json(
            {
                "name": PLUGIN,
                "version": __version__,
                "description": DESCRIPTION,
                "author": {"name": "autoresearch-mcp"},
                "license": "MIT",
                "keywords": ["machine-learning", "research", "mcp"],
            }
        ),
        "plugin/.mcp.json": _json({"mcpServers": {SERVER: {"command": "autoresearch-mcp", "args": ["serve"]}}}),
        "plugin/agents/experiment-worker.md": _page(worker, contract("worker")),
        "plugin/commands/campaign.md": _page(campaign, opening + contract("orchestrator")),
        "plugin/commands/status.md": _page(status, asked),
        "plugin/monitors/monitors.json": _json(
            [
                {
                    "name": "lab-news",
                    "command": "autoresearch-mcp hook news",
                    "description": "What happens in the lab: promotions, ended trainings, decisions, the budget",
                    "when": f"on-skill-invoke:{PLUGIN}:campaign",
                }
            ]
        ),
        "plugin/hooks/hooks.json": _json(
            {
                "description": "Wakes a session up in a lab, and lets a campaign go on where its owner said `autoresearch-mcp hook on`",
                "hooks": {
                    event: [{"hooks": [{**_HOOK, "command": f"autoresearch-mcp hook {name}"}]}]
                    for event, name in (("SessionStart", "start"), ("Stop", "stop"))
                },
            }
        ),
    }


def write() -> None:
    """Write them all."""
    for name, text in files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _page(head: dict[str, str], body: str) -> str:
    return "---\n" + "".join(f"{name}: {json.dumps(text, ensure_ascii=False)}\n" for name, text in head.items()) + "---\n\n" + body
