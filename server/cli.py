"""The command line, `autoresearch-mcp`. Imports next to nothing before it knows the command: a client waits for `serve`.

Exit status: 0 for done, 1 for a promotion that the gate refused, a result that did not come again, a fault that `doctor` found, or a test
that `alerts` could not send,
2 for a request that cannot be carried out, 130 after Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.errors import LabError

_PACKAGE = "autoresearch_mcp"
_MODULES = {"import": "import_", "try": "try_"}  # of commands that can't be a module's name
COMMANDS = {
    "init": "make a lab",
    "serve": "serve a lab to MCP clients: one over stdio, or many over HTTP",
    "install": "add the lab to an MCP client's configuration",
    "uninstall": "take the lab out of an MCP client's configuration",
    "campaign": "keep an orchestrator and workers going by a client's own command, until the budget or the goal ends",
    "hook": "let a coding client go on with a campaign by itself, or not; and what its hooks call",
    "checkout": "make a work tree in which an agent edits files, on a branch that it proposes by name",
    "try": "train a work tree for a few seconds in the lab's sandbox, before it is proposed",
    "status": "show a lab once",
    "ui": "show a lab live in a browser, on this machine; Ctrl-C ends it",
    "watch": "show a lab live; Ctrl-C ends it",
    "approve": "say yes, as a person, to a promotion (the gate still has to agree)",
    "adopt": "make a commit of your own the champion, without the gate",
    "demote": "take the last promotion back: the champion of before is the champion again",
    "cancel": "stop a queued or running experiment, whoever launched it",
    "withdraw": "take a proposal out of all lists, or correct its text, whoever made it; the record keeps everything",
    "pause": "let no training start until `resume`; what runs goes on, or waits again with --now",
    "resume": "let trainings start again after `pause`",
    "reproduce": "train an experiment again with its seed, and compare; status 1 if it comes out otherwise",
    "token": "make, list, rotate or revoke the tokens by which agents and people call the lab over HTTP",
    "alerts": "show where alerts go by webhook, and send a test",
    "changes": "show who changed what, how, and from where",
    "scores": "show what the gate knows of the hidden split, for the lab's owner alone",
    "audit": "check the gate on this lab: the champion against itself, the noise, its drift, and what would be found",
    "secret": "show, export or import the secret that draws the lab's held-out split",
    "check": "train the champion for a few seconds in the sandbox, and say what an agent would hit",
    "doctor": "check all that a lab needs, and say what to do about each fault",
    "repair": "rebuild what is damaged of the log, and the ledger's sums; sets the old files aside",
    "report": "write a campaign's report: one HTML file, and the same in Markdown",
    "branch": "make a clean branch of the promotions: one commit each, with its evidence",
    "export": "write the log as Parquet and results.tsv",
    "import": "add another lab's export, or a results.tsv, to the log",
    "setup": "make ready, once, what trainings on rented GPUs share, or an account of the lab's own",
    "reap": "end this lab's sandboxes that no experiment needs",
    "runner": "drive a lab's experiments; the server starts it on demand",
    "demo": "run a small campaign on this machine, through MCP",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parse(given)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except LabError as error:
        from autoresearch_mcp.server.untrusted import clean

        print(f"autoresearch-mcp: {clean(str(error))}", file=sys.stderr)  # noqa: T201
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == _PACKAGE:
            raise
        print(f"autoresearch-mcp: the package {package} is missing. Install it: pip install {package}", file=sys.stderr)  # noqa: T201
        return 2
    except BrokenPipeError:  # the reader, such as `head`, wants no more; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def build_parser(*names: str) -> argparse.ArgumentParser:
    """Return the parser, in which the named commands have their arguments. Their modules are imported, and no others.

    Raises:
        ModuleNotFoundError: a package that such a module needs is missing.
    """
    parser = argparse.ArgumentParser(
        prog="autoresearch-mcp",
        description="A research lab for agents: propose, train, measure and promote changes to a training script, over MCP.",
        epilog="example:\n  autoresearch-mcp init my-lab && cd my-lab && claude",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in names:
            module = import_module(f"{_PACKAGE}.server.commands.{_MODULES.get(name, name)}")
            command.epilog = "examples:\n" + "\n".join(f"  {example}" for example in module.EXAMPLES)
            command.set_defaults(run=module.run, parser=command)
            module.add_arguments(command)
    return parser


def _parse(given: Sequence[str]) -> argparse.Namespace:
    name = next((word for word in given if not word.startswith("-")), "")
    arguments, rest = build_parser(name).parse_known_args(given)
    if rest and not rest[0].startswith("-") and getattr(arguments, "dir", rest) is None:
        arguments.dir = Path(rest.pop(0))  # after an option, as in `setup modal --dry-run DIR`: argparse has settled DIR by then
    if rest:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
