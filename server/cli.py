"""The command line, `autoresearch-mcp`. Imports next to nothing before it knows the command: a client waits for `serve`.

Exit status: 0 for done, 1 for a promotion that the gate refused, a result that did not come again, or a fault that `doctor` found,
2 for a request that cannot be carried out, 130 after Ctrl-C.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.errors import LabError

_HOME = "AUTORESEARCH_LAB"
_OWN = "autoresearch_mcp"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments, rest = _parser().parse_known_args(argv)
    if rest and not rest[0].startswith("-") and getattr(arguments, "dir", rest) is None:
        arguments.dir = Path(rest.pop(0))  # after an option, as in `setup modal --dry-run DIR`: argparse has settled DIR by then
    if rest and arguments.run is not _demo:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except LabError as error:
        print(f"autoresearch-mcp: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == _OWN:
            raise
        print(f"autoresearch-mcp: the package {package} is missing. Install it: pip install {package}", file=sys.stderr)  # noqa: T201
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoresearch-mcp",
        description="A research lab for agents: propose, train, measure and promote changes to a training script, over MCP.",
        epilog="example:\n  autoresearch-mcp init my-lab && cd my-lab && claude",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, *examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            help=text,
        )
        made.set_defaults(run=run, parser=made)
        return made

    init = command(
        "init",
        _init,
        "make a lab",
        "autoresearch-mcp init my-lab",
        "autoresearch-mcp init my-lab --from-repo ~/src/model",
        "autoresearch-mcp init big --profile h100",
    )
    init.add_argument("dir", metavar="DIR", type=Path, help="a new or empty directory")
    init.add_argument(
        "--from-repo", metavar="REPO", type=Path, help="start from the last commit of this git repository, which has a train.py"
    )
    init.add_argument("--profile", default="cpu", help="what is trained on what: cpu, or h100 for a GPU (default: cpu)")
    init.add_argument("--budget", metavar="SECONDS", type=float, help="budget of one experiment (default: the profile's)")

    serve = command(
        "serve",
        _serve,
        "serve a lab to MCP clients: one over stdio, or many over HTTP",
        "autoresearch-mcp serve my-lab",
        "AUTORESEARCH_TOKEN=... autoresearch-mcp serve my-lab --http 0.0.0.0:8765",
    )
    serve.add_argument(
        "--http", metavar="HOST:PORT", help="Streamable HTTP instead of stdio; beyond this machine $AUTORESEARCH_TOKEN must be set"
    )
    install = command(
        "install",
        _install,
        "add the lab to an MCP client's configuration",
        "autoresearch-mcp install claude-desktop my-lab --dry-run",
        "autoresearch-mcp install vscode",
    )
    install.add_argument("client", choices=("claude-code", "claude-desktop", "cursor", "vscode"))
    status = command(
        "status", _status, "show a lab once", "autoresearch-mcp status my-lab", "autoresearch-mcp status --json | jq .champion"
    )
    watch = command("watch", _watch, "show a lab live; Ctrl-C ends it", "autoresearch-mcp watch my-lab")
    approve = command(
        "approve",
        _approve,
        "say yes, as a person, to a promotion (the gate still has to agree)",
        "autoresearch-mcp approve 3f2a91c my-lab",
    )
    approve.add_argument("commit", metavar="COMMIT", help="a proposal's commit, or 7 or more of its first characters")
    reproduce = command(
        "reproduce",
        _reproduce,
        "train an experiment again with its seed, and compare; status 1 if it comes out otherwise",
        "autoresearch-mcp reproduce e-01h2xk3m4n5p6q7 my-lab",
        "autoresearch-mcp reproduce e-01h2xk8v2w4r6t9        # the second run: waits for it, and compares",
    )
    reproduce.add_argument("id", metavar="ID", help="an experiment that has ended, or a reproduction that this command started")
    scores = command(
        "scores",
        _scores,
        "show what the gate knows of the hidden split, for the lab's owner alone",
        "autoresearch-mcp scores my-lab",
        "autoresearch-mcp scores --json | jq '.[0]'",
    )
    doctor = command("doctor", _doctor, "check all that a lab needs, and say what to do about each fault", "autoresearch-mcp doctor my-lab")
    repair = command("repair", _repair, "rebuild what is damaged of the log; sets the old files aside", "autoresearch-mcp repair my-lab")
    export = command(
        "export", _export, "write the log as Parquet and results.tsv", "autoresearch-mcp export out", "autoresearch-mcp export out my-lab"
    )
    export.add_argument("out", metavar="FOLDER", type=Path, help="made if it is missing")
    import_ = command(
        "import",
        _import,
        "add another lab's export, or a results.tsv, to the log",
        "autoresearch-mcp import ../other/out",
        "autoresearch-mcp import results.tsv my-lab",
    )
    import_.add_argument("source", metavar="SOURCE", type=Path, help="a results.tsv, a Parquet file of an export, or a folder with them")
    setup = command(
        "setup",
        _setup,
        "make ready what trainings on rented GPUs share, once; says first what it costs",
        "autoresearch-mcp setup modal --dry-run",
        "autoresearch-mcp setup modal my-lab --gpu H100",
    )
    setup.add_argument("where", choices=("modal",), help="who rents the GPUs out")
    setup.add_argument("--gpu", metavar="KIND", help="the kind to tell the cost of, and to compile for (default: all of the lab's)")
    reap = command("reap", _reap, "end this lab's sandboxes that no experiment needs", "autoresearch-mcp reap --dry-run")
    runner = command("runner", _runner, "drive a lab's experiments; the server starts it on demand", "autoresearch-mcp runner my-lab")
    for parser_ in (serve, install, status, watch, approve, reproduce, scores, doctor, repair, export, import_, runner, setup, reap):
        parser_.add_argument("dir", metavar="DIR", type=Path, nargs="?", help=f"the lab (default: ${_HOME}, else the nearest lab upwards)")
    install.add_argument("--dry-run", action="store_true", help="print what would be added, and write nothing")
    setup.add_argument("--dry-run", action="store_true", help="print what would be made and what it costs, and make nothing")
    reap.add_argument("--dry-run", action="store_true", help="print what would be ended, and end nothing")
    install.add_argument("--config", metavar="FILE", type=Path, help="the configuration file, where it is not at its usual place")
    install.add_argument("--name", default="autoresearch", help="the server's name there (default: autoresearch)")
    for parser_ in (status, scores):
        parser_.add_argument("--json", action="store_true", help="as JSON")
    watch.add_argument("--once", action="store_true", help="one frame, then end")
    approve.add_argument("--by", metavar="NAME", help="who says yes (default: you)")
    command("demo", _demo, "run a small campaign on this machine, through MCP", "autoresearch-mcp demo")
    return parser


def find_lab(given: Path | None) -> Path:
    """The lab that a command is about: as given, else `$AUTORESEARCH_LAB`, else the nearest directory upwards with a `lab.toml`.

    Raises:
        LabError: `not_a_lab`.
    """
    if given is None and os.environ.get(_HOME):
        given = Path(os.environ[_HOME])
    if given is not None:
        return given.expanduser().absolute()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / "lab.toml").is_file():
            return directory
    raise LabError(
        f"No lab here: neither {here} nor a directory above it has a lab.toml. Name one, or make it: `autoresearch-mcp init DIR`.",
        "not_a_lab",
    )


def _init(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.init import create_lab

    lines = create_lab(arguments.dir, arguments.from_repo, arguments.profile, arguments.budget)
    _say(f"Made the lab {arguments.dir}", *(f"  {line}" for line in lines), "", "Next:")
    _say(f"  cd {arguments.dir} && claude              # then: read orchestrator.md and start the campaign")
    _say(f"  autoresearch-mcp install claude-desktop {arguments.dir}", f"  autoresearch-mcp watch {arguments.dir}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.http is None:
        from autoresearch_mcp.server.mcp.stdio import serve_stdio

        serve_stdio(find_lab(arguments.dir))
    else:
        from autoresearch_mcp.server.mcp.http import serve_http

        serve_http(find_lab(arguments.dir), arguments.http)
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.install import install

    _say(install(arguments.client, find_lab(arguments.dir), arguments.config, arguments.name, arguments.dry_run))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        status = lab.status()
    if arguments.json:
        _say(status.model_dump_json(indent=2))
        return 0
    from rich.console import Console

    from autoresearch_mcp.server.commands.status import frame

    Console(highlight=False).print(frame(status))
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    if arguments.once or not sys.stdout.isatty():
        arguments.json = False
        return _status(arguments)
    from rich.console import Console

    from autoresearch_mcp.server.commands.status import watch
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        watch(lab, Console(highlight=False))
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    import getpass

    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        answer = lab.promote_commit(
            arguments.commit, author="owner", approved_by=f"{arguments.by or getpass.getuser()} on the command line"
        )
    _say(answer.note)
    return 0 if answer.promoted else 1


def _reproduce(arguments: argparse.Namespace) -> int:
    import getpass
    import time

    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        id = arguments.id if lab.is_reproduction(arguments.id) else lab.reproduce(arguments.id, getpass.getuser())
        _say(f"{id} is queued or runs; Ctrl-C leaves it running, and `autoresearch-mcp reproduce {id}` comes back to it.")
        sys.stdout.flush()
        while (found := lab.reproduction(id)) is None:
            lab.states([id])  # wakes the runner if it is gone
            time.sleep(1)
    _say(*found.lines())
    return 1 if found.holds is False else 0


def _scores(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from autoresearch_mcp.server.commands.hidden_scores import hidden_scores, table

    scores = hidden_scores(find_lab(arguments.dir))
    if arguments.json:
        _say(json.dumps([asdict(row) for row in scores], indent=2))
    elif not scores:
        _say("Nothing was scored on the hidden split yet.")
    else:
        from rich.console import Console

        Console(highlight=False).print(table(scores))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.doctor import examine

    findings = examine(find_lab(arguments.dir))
    for finding in findings:
        _say(f"{finding.mark}  {finding.name}: {finding.said}", *([f"      {finding.cure}"] if finding.cure else []))
    return 1 if any(finding.bad for finding in findings) else 0


def _repair(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server import settings
    from autoresearch_mcp.server.lake.embedded.repair import repair
    from autoresearch_mcp.server.ledger import Ledger
    from autoresearch_mcp.server.paths import LabPaths
    from autoresearch_mcp.server.runner.process import stop_runner

    root = find_lab(arguments.dir)
    settings.load(root)
    paths = LabPaths(root)
    if paths.runner_lock.exists():
        stop_runner(paths.state)  # trainings go on; the next runner adopts them
    with contextlib.closing(Ledger(paths.ledger)) as ledger:
        for each in repair(paths.lake, {"promotions": ledger.promotions()}):
            _say(f"{each.table}: {each.rows} records" + (f", rebuilt; the old files are in {each.set_aside}" if each.fault else ", sound"))
            if each.fault:
                _say(f"  {each.fault}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.transfer import export
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        _say(*export(lab, arguments.out))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.transfer import import_
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        _say(*import_(lab, arguments.source))
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.modal import set_up

    set_up(find_lab(arguments.dir), arguments.gpu, arguments.dry_run, _say)
    return 0


def _reap(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.modal import reap

    _say(*reap(find_lab(arguments.dir), arguments.dry_run) or ["Nothing runs that no experiment needs."])
    return 0


def _runner(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.runner.process import main as run

    return run(find_lab(arguments.dir))


def _demo(arguments: argparse.Namespace) -> int:
    from autoresearch_mcp.server.commands.demo import main as run

    return run(arguments.rest)


def _say(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
