"""The entry points of containers on another machine, where the only ways back are stdout and a mounted folder (fixed).

- `train` runs one experiment up to its submission.
- `score` completes several of those in a row.
- `prepare` lays out a profile's data: what trains in one folder, what measures in another, which no trainer's container ever mounts.
- `compile` has trusted code fill the compile cache that trainings on this kind of GPU begin with.

Every line on stdout is one JSON object, written here. What the agent's code prints travels inside of strings, so it can't
pass for a message. The folder has the last word, and in it `result.json`, which is written last. The score on the hidden split is in
the folder alone, never on stdout.
"""

import argparse
import codecs
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import files, heldout, prepare, profiles, protocol, sandbox

SCORED = "scored.json"  # the completed result, beside the submitted one; the score on the hidden split is in protocol.HIDDEN
SCORER = "scorer.json"  # {"sandbox", "begun", "jobs"} of the container that scores it, then "seconds" too
WHOLE = "compile_cache.json"  # written once the archive beside it is whole: {"bytes", "startup_s", "device_name", "versions"}
LOOK_S = 0.25  # between two looks at what the run wrote
CHUNK_BYTES = 48 << 10  # of text a line
_KEPT = (protocol.SPEC, protocol.LOG, protocol.CURVE)


def train(spec: str, code: Path, out: Path) -> None:
    """Run one experiment up to its submission: mirror it on stdout while it goes, keep it in `out` once it has ended.

    Does nothing if `out` says that it is abandoned.
    """
    if (out / protocol.ABANDONED).exists():
        return
    account = begin(protocol.BEGUN, [out])
    with _directory() as run:
        files.copy_for_all(code, run / protocol.CODE)
        (run / protocol.SPEC).write_text(_with_own_packages(spec), encoding="utf-8")
        launcher = subprocess.Popen(
            [sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run), "--stage", "train"], stdin=subprocess.DEVNULL
        )
        mirror = _Mirror(run)
        while launcher.poll() is None:
            mirror.show()
            time.sleep(LOOK_S)
        mirror.show()
        result = protocol.read_json(run / protocol.RESULT)
        for name in _KEPT:
            if (run / name).exists():
                shutil.copyfile(run / name, out / name)
        shutil.copytree(code, out / protocol.CODE, dirs_exist_ok=True)
        if (run / protocol.SUBMISSION).is_dir():
            shutil.copytree(run / protocol.SUBMISSION, out / protocol.SUBMISSION, dirs_exist_ok=True)
        protocol.write_json(out / protocol.BEGUN, {**account, "ended": time.time()})
        if result is not None:
            protocol.write_json(out / protocol.RESULT, result)
        os.sync()  # commits a mounted volume
    say(result=result, ended=time.time())


def score(data: Path, outs: list[Path], hidden: Path | None = None, scorer: Path | None = None) -> None:
    """Score what `train` left in each of `outs`, one after the other, from one parent that imported once what measures it.

    Args:
        data: the folder with validation and test data.
        outs: the folders that `train` left its results in.
        hidden: the folder with the answers for what scripts left.
        scorer: the folder with the owner's file that scores by them.
    """
    account = begin(SCORER, outs)
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.launch", "--warm", "--stage", "score"]
    if hidden is not None:
        command.append("--scripts" if scorer is not None else "--predictions")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as warm:
        assert warm.stdin is not None and warm.stdout is not None
        for out in outs:
            with _directory() as run:
                began = time.time()
                _fetch(out, run, data, hidden, scorer)
                warm.stdin.write(f"{run}\n")
                warm.stdin.flush()
                supervisor = json.loads(warm.stdout.readline()).get("pid")
                while supervisor is not None and _alive(supervisor):
                    time.sleep(LOOK_S)
                result = protocol.read_json(run / protocol.RESULT) or {}
                seconds = time.time() - began
                if result.get("state") != protocol.SUBMITTED:
                    if (told := protocol.read_json(run / protocol.HIDDEN)) is not None:
                        protocol.write_json(out / protocol.HIDDEN, told)
                    protocol.write_json(out / SCORER, {**account, "seconds": seconds})
                    protocol.write_json(out / SCORED, result)
                    os.sync()
                say(scored=f"{out.parent.name}/{out.name}", result=result, seconds=seconds)
        warm.stdin.close()
    say(ended=time.time())


def prepare_data(profile: str, training: Path, evaluation: Path, secret: Path | None = None, own: str = "null") -> None:
    """Prepare a profile's data and lay it out in two folders. The hashes, which say that it is whole, are written last.

    Args:
        profile: what is prepared.
        training: the folder for what trainings may see.
        evaluation: the folder for all of it.
        secret: the file with the secret of a lab, whose own split is wanted; None for the public one.
        own: what the profile is made of, as JSON, where it is of an owner's own text.
    """
    given = json.loads(own)
    text = protocol.OwnText(**given) if given else None
    if (training / prepare.META).exists() and (evaluation / prepare.META).exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare.prepare(profile, Path(scratch, "data"), text)
        if secret is not None:
            prepared = prepare.draw(profiles.find(profile, text), prepared, heldout.read_secret(secret), Path(scratch, "drawn"))
        held_out = {f"{split}.bin" for split in prepare.SPLITS if split != "train"}
        for name in sorted(path.name for path in prepared.iterdir() if path.name != prepare.META):
            for folder in (evaluation,) if name in held_out else (training, evaluation):
                shutil.copyfile(prepared / name, folder / name)
        os.sync()
        for folder in (evaluation, training):
            shutil.copyfile(prepared / prepare.META, folder / prepare.META)
        os.sync()


def fill_compile_cache(spec: str, code: Path, cache: Path) -> None:
    """Launch trusted code up to start() and leave what it compiled in `cache`. The file that says that it is whole is written last.

    Raises:
        SystemExit: it compiled nothing. The result on stdout tells why.
    """
    if (cache / WHOLE).exists():
        return
    with _directory() as run:
        files.copy_for_all(code, run / protocol.CODE)
        (run / protocol.SPEC).write_text(spec, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run), "--stage", "compile"], stdin=subprocess.DEVNULL, check=False
        )
        result = protocol.read_json(run / protocol.RESULT) or {}
        say(result=result)
        if not (run / protocol.COMPILE_CACHE).exists():
            raise SystemExit(1)
        shutil.copyfile(run / protocol.COMPILE_CACHE, cache / protocol.COMPILE_CACHE)
        os.sync()
        facts = {name: result.get(name) for name in ("device_name", "versions")} | {"startup_s": result["timings"]["startup_s"]}
        protocol.write_json(cache / WHOLE, {"bytes": (cache / protocol.COMPILE_CACHE).stat().st_size, **facts})
        os.sync()


def begin(file: str, outs: list[Path]) -> dict[str, Any]:
    """Report on stdout, and in `file` of each folder, which container this is and since when. Its price follows from that.

    Returns:
        The report.
    """
    account = {"sandbox": os.environ.get("MODAL_SANDBOX_ID", ""), "begun": time.time(), "jobs": len(outs)}
    for out in outs:
        protocol.write_json(out / file, account)
    say(**account)
    return account


def say(**message: Any) -> None:
    """Print a message as one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Mirror:
    """Prints what a run writes as it comes: its log, its loss curve, its progress."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._read = {protocol.LOG: 0, protocol.CURVE: 0}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._read}
        self._progress: dict[str, Any] | None = None

    def show(self) -> None:
        for name in self._read:
            while text := self._more(name):
                say(**{name: text})
        progress = protocol.read_json(self._run / protocol.PROGRESS)
        if progress is not None and progress != self._progress:
            self._progress = progress
            say(progress=progress)

    def _more(self, name: str) -> str:
        try:
            with (self._run / name).open("rb") as file:
                file.seek(self._read[name])
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return ""
        self._read[name] += len(data)
        return self._decoders[name].decode(data)


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a run directory on the container's own disk. Agents' code, which runs as another user, can pass through it, and list nothing."""
    sandbox.seal()
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def _with_own_packages(spec: str) -> str:
    """Return a spec as it is run here. The packages of this container are those of a script, so they belong to its conditions."""
    value = json.loads(spec)
    return json.dumps({**value, "python": sys.executable}) if value.get("metric") else spec


def _fetch(out: Path, run: Path, data: Path, hidden: Path | None, scorer: Path | None) -> None:
    for name in (protocol.CODE, protocol.SUBMISSION):
        if (out / name).is_dir():
            files.copy_for_all(out / name, run / name)
    spec = {**(protocol.read_json(out / protocol.SPEC) or {}), "data": str(data), "python": ""}
    if scoring := spec.get("scoring"):
        spec["scoring"] = _here(scoring, hidden, scorer)
    protocol.write_json(run / protocol.SPEC, spec)
    protocol.write_json(run / protocol.RESULT, protocol.read_json(out / protocol.RESULT) or {})


def _here(scoring: dict[str, Any], hidden: Path | None, scorer: Path | None) -> dict[str, Any]:
    """Say where this container has the answers and the scorer that a run was launched for. Folders of other names are for other runs."""
    file, moved = Path(scoring["file"]), dict(scoring)
    if hidden is not None and hidden.name == Path(scoring["hidden"]).name:
        moved["hidden"] = str(hidden)
    if scorer is not None and scorer.name == file.parent.name:
        moved["file"] = str(scorer / file.name)
    return moved


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m autoresearch_mcp.trainer.remote", description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("train", help="run one experiment up to its submission")
    action.add_argument("spec", help="spec.json, as text")
    action.add_argument("code", type=Path)
    action.add_argument("out", type=Path)
    action = actions.add_parser("score", help="complete the results in these folders")
    action.add_argument("data", type=Path)
    action.add_argument("outs", type=Path, nargs="+")
    action.add_argument("--hidden", type=Path, metavar="FOLDER")
    action.add_argument("--scorer", type=Path, metavar="FOLDER")
    action = actions.add_parser("prepare", help="lay out a profile's data")
    action.add_argument("profile")
    action.add_argument("training", type=Path)
    action.add_argument("evaluation", type=Path)
    action.add_argument("--secret", metavar="FILE", type=Path)
    action.add_argument("--own", metavar="JSON", default="null")
    action = actions.add_parser("compile", help="have trusted code fill the compile cache that trainings begin with")
    action.add_argument("spec", help="spec.json, as text")
    action.add_argument("code", type=Path)
    action.add_argument("cache", type=Path)
    arguments = vars(parser.parse_args())
    os.umask(0o077)  # `copy_for_all` opens what agents' code may read
    match arguments.pop("action"):
        case "train":
            train(**arguments)
        case "score":
            score(**arguments)
        case "prepare":
            prepare_data(**arguments)
        case "compile":
            fill_compile_cache(**arguments)


if __name__ == "__main__":
    main()
