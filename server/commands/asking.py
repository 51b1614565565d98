"""Asks the person at the terminal what `init` can't know."""

from collections.abc import Sequence

from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.commands.candidates import Candidate
from autoresearch_mcp.server.goal import Goal


def yes(question: str) -> bool:
    """Ask a question; Enter is a yes."""
    return not input(f"{question} [Y/n] ").strip().lower().startswith("n")


def metric(path: str) -> str:
    """Ask what code prints; Enter says that it will submit its model instead."""
    question = f"Which metric does {path} print, by its name there, such as val_loss? [none: it is going to be rewritten to call submit()] "
    return input(question).strip()


def arguments(command: str) -> bool:
    """Ask whether code is to run with the arguments that its README gives it."""
    return yes(f"Run it as its README does, as `{command}`?")


def submodules(paths: Sequence[str]) -> bool:
    """Ask whether the lab is to hold the files of submodules."""
    return yes(f"Copy the files of the submodules into the lab ({', '.join(paths[:5])})?")


def goal(metric: str) -> Goal:
    """Ask the person at the terminal which way the metric is better; Enter takes higher."""
    return "max" if yes(f"Is a higher {metric} better?") else "min"


def candidate(choices: Sequence[Candidate]) -> Candidate:
    """Let the person at the terminal choose what trains; Enter takes the first."""
    say("Which of these trains?", *(f"  {n}  {choice.name}  ({choice.why})" for n, choice in enumerate(choices[:9], 1)))
    while True:
        answer = input("[1] ").strip() or "1"
        if answer.isdecimal() and 1 <= int(answer) <= min(9, len(choices)):
            return choices[int(answer) - 1]
