"""A failure names its real cause: not what Python, a thread or a library says besides."""

from pathlib import Path

import pytest

from autoresearch_mcp.trainer.failures import of_crash

REAL = 'Traceback (most recent call last):\n  File "/run/train.py", line 3, in <module>\n    fit()\nValueError: no such width\n'
OTHER = 'Traceback (most recent call last):\n  File "/lib/x.py", line 9, in __del__\n    self.y\nAttributeError: y\n'
BOX = "╭─── Traceback (most recent call last) ───╮\n│ /run/train.py:3 in fit │\n╰─────────────────────────────────────────╯\nValueError: no such width\n"
HYDRA = f"Error executing job with overrides: []\n{REAL}\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.\n"


@pytest.mark.parametrize(
    "log",
    [
        REAL,
        f"{REAL}Exception ignored in: <function X.__del__ at 0x7f>\n{OTHER}",
        f"--- Logging error ---\n{OTHER}Call stack:\n{REAL}",
        f"{REAL}Exception in thread Thread-1 (watch):\n{OTHER}",
        f"{OTHER}\nDuring handling of the above exception, another exception occurred:\n\n{REAL}",
        BOX,
        HYDRA,
    ],
    ids=["alone", "ignored", "logging", "thread", "chained", "box", "hydra"],
)
def test_the_error_that_ended_the_run_is_named(log: str) -> None:
    failure = of_crash(log, Path("/run"), [], 1, "train.py")
    assert failure.message == "ValueError: no such width", failure


def test_a_thread_that_died_is_named_where_there_is_nothing_else() -> None:
    assert of_crash(f"Exception in thread Thread-1 (watch):\n{OTHER}", Path("/run"), [], 1, "train.py").message == "AttributeError: y"
    assert "exit code 1" in of_crash(f"Exception ignored in: <X>\n{OTHER}", Path("/run"), [], 1, "train.py").message


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("usage: train.py [-h] config\ntrain.py: error: the following arguments are required: config\n", "arguments are required: config"),
        ("Usage: cli.py [OPTIONS] COMMAND\n\nError: Missing command.\n", "Error: Missing command."),
        ("epoch 3\n", "exit code 2."),
    ],
)
def test_what_a_command_line_lacks_is_in_the_message(log: str, told: str) -> None:
    assert of_crash(log, Path("/run"), [], 2, "train.py").message.endswith(told)
