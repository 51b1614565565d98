"""`autoresearch-mcp hook`: what a coding client's hooks ask of a lab, so that a session wakes up informed and a campaign goes on overnight.

`start` answers a session's beginning with what the lab is about now. `stop` answers the end of a turn: where the owner said `hook on`, it
has the client go on, a bounded number of times, while there is budget and no goal was reached. `news` stays, and prints a line for each thing
that happens in the lab. All are silent where there is no lab, and never fail: a hook that breaks would break the client. They are what Claude
Code asks of hooks (https://code.claude.com/docs/en/hooks) and monitors (https://code.claude.com/docs/en/plugins-reference#monitors).
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, nearest_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths

EXAMPLES = ("autoresearch-mcp hook on --turns 40 --goal 1.30", "autoresearch-mcp hook off")
TURNS = 25  # that a client goes on by itself, unless the owner says another number
NEWS_S = 30.0  # between two tellings: each of them makes an agent think
_LOOK_S = 2.0
_MOST_INPUT = 1 << 20
_MOST_TEXT = 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "event",
        choices=("on", "off", "start", "stop", "news"),
        help="on and off: yours; start, stop and news: what the client's hooks and monitors call",
    )
    add_lab(parser)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"with on: how often a client goes on by itself (default: {TURNS})")
    parser.add_argument("--goal", type=float, help="with on: stop once the champion's metric has reached this")


def run(arguments: argparse.Namespace) -> int:
    """Answer one event; with `news`, each that comes."""
    if arguments.event == "news":
        _tell_news(_lab(arguments.dir, {}))
        return 0
    if arguments.event in ("start", "stop"):
        with contextlib.suppress(LabError, OSError, ValueError):
            if answer := _answer(arguments.event, arguments.dir):
                say(json.dumps(answer))
        return 0
    permission = LabPaths(existing_lab(arguments.dir)).keep_going
    if arguments.event == "off":
        permission.unlink(missing_ok=True)
        say("Clients of this lab end their turns as they like.")
        return 0
    if not 1 <= arguments.turns <= 10_000:
        raise LabError(f"--turns must be from 1 to 10000, got {arguments.turns}. Nothing was changed.", "bad_arguments")
    _write(permission, {"turns": arguments.turns, "left": arguments.turns, "goal": arguments.goal})
    goal = f", or until the champion reaches {arguments.goal:g}" if arguments.goal is not None else ""
    say(
        f"A client with the plugin's hooks goes on by itself {arguments.turns} times, while there is budget{goal}. `autoresearch-mcp hook off` ends it."
    )
    return 0


def _answer(event: str, given: Path | None) -> dict[str, Any] | None:
    """Return what a client's hook is told; None where there is nothing to say."""
    asked = json.loads(sys.stdin.read(_MOST_INPUT) or "{}") if not sys.stdin.isatty() else {}
    root = _lab(given, asked if isinstance(asked, dict) else {})
    if root is None:
        return None
    return _wake_up(root) if event == "start" else _go_on(LabPaths(root))


def _lab(given: Path | None, asked: dict[str, Any]) -> Path | None:
    """Return the lab that a client is in; None where it is in none."""
    where = given or os.environ.get("AUTORESEARCH_LAB") or os.environ.get("CLAUDE_PROJECT_DIR") or asked.get("cwd") or "."
    return nearest_lab(Path(str(where)).expanduser().absolute())


def _tell_news(root: Path | None) -> None:
    """Print what happens in a lab until the client that started this is gone."""
    parent = os.getppid()
    with contextlib.suppress(LabError, OSError):
        for line in news(root, lambda: os.getppid() == parent) if root else ():
            say(line)
            sys.stdout.flush()  # a monitor reads a pipe


def news(root: Path, is_wanted: Callable[[], bool], look_s: float = _LOOK_S, pause_s: float = NEWS_S) -> Iterator[str]:
    """Yield what happens in a lab, a line each, as long as it is wanted. Nobody's own news counts as heard.

    Args:
        root: of the lab.
        is_wanted: asked before each look.
        look_s: between two looks.
        pause_s: between two tellings.
    """
    from autoresearch_mcp.server.lab.lab import Lab
    from autoresearch_mcp.server.untrusted import one_line

    with contextlib.closing(Lab(root)) as lab:
        cursor, spent, paused, seen, told_at = lab.cursor(), lab.awaited(""), lab.paused_at(), lab.changes(), -pause_s
        while is_wanted():
            time.sleep(look_s)
            if lab.changes() == seen or time.monotonic() < told_at + pause_s:
                continue
            # Before what happened is read: what happens meanwhile is told again, never missed
            seen, now, awaited, at = lab.changes(), lab.cursor(), lab.awaited(""), lab.paused_at()
            lines = [*lab.told_to_all(cursor), *awaited.since(spent)]
            if at != paused:
                lines.append("The lab's owner paused it." if at else "The lab's owner let it go on.")
            cursor, spent, paused = now, awaited, at
            if lines:
                told_at = time.monotonic()
            yield from (one_line(line, 400) for line in lines)


def _wake_up(root: Path) -> dict[str, Any]:
    from autoresearch_mcp.server.lab.continuing import wake_up
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(root)) as lab:
        status = lab.status()
    return {"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": _text(wake_up(status))}}


def _go_on(paths: LabPaths) -> dict[str, Any] | None:
    """Have the client go on, and count it; or let it end, and say why."""
    try:
        permission = json.loads(paths.keep_going.read_text(encoding="utf-8"))
        left, turns, goal = int(permission["left"]), int(permission["turns"]), permission.get("goal")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    from autoresearch_mcp.server.lab.continuing import end
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(paths.root)) as lab:
        status = lab.status()
        settings = lab.settings
        paused = lab.paused_at() is not None
    why = end(status, settings, goal, paused) or ("" if left > 0 else f"it went on {turns} times")
    if why:
        paths.keep_going.unlink(missing_ok=True)
        return {"systemMessage": f"autoresearch: the campaign ends here, because {why}. `autoresearch-mcp hook on` lets it go on."}
    _write(paths.keep_going, {**permission, "left": left - 1})
    lines = [f"The campaign goes on by itself: {turns - left + 1} of at most {turns} times (`autoresearch-mcp hook off` ends it)."]
    return {"decision": "block", "reason": _text([*lines, *status.next, "Call get_status, and follow your contract."])}


def _text(lines: list[str]) -> str:
    from autoresearch_mcp.server.untrusted import one_line

    return "\n".join(one_line(line, 400) for line in lines)[:_MOST_TEXT]


def _write(path: Path, values: dict[str, Any]) -> None:
    half = path.with_suffix(".part")
    half.write_text(json.dumps(values), encoding="utf-8")
    half.replace(path)
