"""Where a container of our own has no Landlock, as rented ones may: each child is a user of its own. Real launches in a real container."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import protocol
from tests.trainer.conftest import BIGRAM
from tests.trainer.containers import PRIVATE, Container, missing
from tests.trainer.test_score import bigram_bpb

# What each attempt of `probe` came to, but for those that were refused as they should be
PROBES = """
import errno, json, os
def descriptors(pid):
    targets = set()
    for number in range(64):
        try:
            open(f"/proc/{pid}/fd/{number}", "rb", buffering=0)
            targets.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            pass
    if not targets - {"/dev/null"}:
        raise PermissionError(errno.EPERM, "none that leads anywhere")
def attempts(run, text, supervisor):
    yield "text", lambda: open(text, "rb").read(1)
    yield "folder", lambda: os.listdir(os.path.dirname(text))
    yield "through another", lambda: os.listdir(f"/proc/{supervisor}/root{os.path.dirname(text)}")
    yield "memory", lambda: open(f"/proc/{supervisor}/mem", "rb")
    yield "descriptors", lambda: descriptors(supervisor)
    yield "signal", lambda: os.kill(supervisor, 0)
    yield "run", lambda: os.listdir(run)
    yield "spec", lambda: open(run + "/spec.json").read()
    yield "lock", lambda: open(run + "/launcher.lock").read()
    yield "code", lambda: open(run + "/code/train.py", "a")
    yield "shared memory", lambda: open("/dev/shm/x", "w")
    yield "temporary", lambda: open("/mnt/tmp/x", "w")
    yield "usual temporary", lambda: open("/tmp/x", "w")
    yield "root again", lambda: os.setuid(0)
    yield "own directory", lambda: open("x", "w").write("x")
    yield "own code", lambda: open(run + "/code/train.py").read(1)
def probe(up):
    outcomes = {"user": os.getuid()}
    for name, attempt in attempts(os.path.normpath(os.path.join(os.getcwd(), up)), "/mnt/private/data/val.bin", os.getppid()):
        try:
            attempt()
            outcomes[name] = "worked"
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                outcomes[name] = str(error)
    return "PROBED" + json.dumps(outcomes)
"""
GIVEN = {"own directory": "worked", "own code": "worked"}


@pytest.fixture(params=["namespace", pytest.param("gvisor", marks=pytest.mark.slow)])
def container(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> Container:
    if reason := missing(request.param):
        pytest.skip(reason)
    return Container(request.param, data, tmp_path)


def train(container: Container, code: str, hide: bool = True) -> dict[str, Any]:
    (container.code / "train.py").write_text(code, encoding="utf-8")
    (container.code / "train.py").chmod(0o600)  # as a careful user's files are
    spec = protocol.Spec("x-1", 0, "tiny", 5.0, 1, f"{PRIVATE}/data")
    container.run("train", json.dumps(vars(spec)), "/mnt/code", f"{PRIVATE}/out", hide=hide)
    return protocol.read_json(container.out / protocol.RESULT) or {}


def score(container: Container) -> dict[str, Any]:
    printed = container.run("score", f"{PRIVATE}/data", f"{PRIVATE}/out")
    assert "test_bpb" not in printed and str(protocol.read_hidden(container.out)) not in printed
    return protocol.read_json(container.out / "scored.json") or {}


def probed(text: str) -> dict[str, Any]:
    probed: dict[str, Any] = json.JSONDecoder().raw_decode(text.partition("PROBED")[2])[0]
    return probed


def test_without_landlock_each_child_is_a_user_that_can_read_nothing_hidden(container: Container, data: Path) -> None:
    trained = train(container, PROBES + BIGRAM.replace("# before submit", "print(probe('../..'))"))
    assert (trained["state"], trained["sandbox"]) == (protocol.SUBMITTED, "user+seccomp"), trained
    outcomes = probed((container.out / protocol.LOG).read_text(encoding="utf-8"))
    assert outcomes.pop("user") >= 1 << 16 and outcomes == GIVEN
    scored = score(container)
    assert (scored["state"], scored["sandbox"]) == ("finished", "user+seccomp"), scored
    assert scored["val_bpb"] == round(bigram_bpb(data), 4)
    assert protocol.read_hidden(container.out) == pytest.approx(bigram_bpb(data, "test"), abs=1e-5)


def test_a_model_server_is_another_user_that_can_read_nothing_hidden(container: Container) -> None:
    """It can report what worked by failing on the random tokens of its rehearsal."""
    code = BIGRAM.replace("return self.table(idx)", "raise KeyError(probe('../../..'))")
    assert train(container, PROBES + code)["state"] == protocol.SUBMITTED
    outcomes = probed(score(container)["failure"]["message"])
    assert outcomes.pop("user") >= 1 << 16 and outcomes == GIVEN


LEAVES_A_FILE = """
import os, pathlib
from autoresearch_mcp.trainer import client
run = client.connect()
graph = pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "graph.py")
print("found", graph.read_text() if graph.exists() else "nothing", flush=True)
graph.write_text("a graph")
run.start()
raise KeyError("enough")
"""


@pytest.mark.parametrize("container", ["namespace"], indirect=True)
def test_another_user_gets_a_compile_cache_of_its_own_to_read_and_write(container: Container) -> None:
    (container.code / "train.py").write_text(LEAVES_A_FILE, encoding="utf-8")
    spec = protocol.Spec("x-1", 0, "tiny", 5.0, 1, f"{PRIVATE}/data", "h100")
    container.run("compile", json.dumps(vars(spec)), "/mnt/code", f"{PRIVATE}/out")
    archive = container.out / protocol.COMPILE_CACHE
    before = archive.read_bytes()
    restoring = {**vars(spec), "compile_cache": f"{PRIVATE}/out/{protocol.COMPILE_CACHE}"}
    container.run("train", json.dumps(restoring), "/mnt/code", f"{PRIVATE}/out")
    result = protocol.read_json(container.out / protocol.RESULT) or {}
    assert result["sandbox"] == "user+seccomp" and "enough" in result["failure"]["message"], result
    assert "found a graph" in (container.out / protocol.LOG).read_text(encoding="utf-8") and archive.read_bytes() == before


@pytest.mark.parametrize("container", ["namespace"], indirect=True)
def test_what_every_user_could_read_keeps_a_child_from_starting(container: Container) -> None:
    result = train(container, BIGRAM, hide=False)
    assert result["state"] == "crashed" and "every user can read" in str(result["failure"]), result


LOOKS = """
import os
def tried(name, attempt):
    try:
        attempt()
        print(name, "worked")
    except OSError:
        print(name, "refused")
tried("its data", lambda: open(os.environ["AUTORESEARCH_DATA"] + "/x").read())
tried("what is hidden", lambda: open("/mnt/known/answers").read())
tried("the private folder", lambda: os.listdir("/mnt/private"))
tried("the answers", lambda: open("/mnt/private/hidden/h-1/test/answer").read())
os.mkdir("submission")
open("submission/guess", "w").write("4")
"""
SCORES = """
import json, os, sys
submitted, answers = sys.argv[1:]
reached = []
other = "test" if answers.endswith("validation") else "validation"
for path in (f"/mnt/private/hidden/h-1/{other}/answer", f"{answers}/../{other}/answer"):
    try:
        reached.append(open(path).read())
    except OSError:
        pass
for path in (submitted + "/x", answers + "/x", os.path.dirname(__file__) + "/x"):
    try:
        reached.append(open(path, "w"))
    except OSError:
        pass
off = abs(int(open(submitted + "/guess").read()) - int(open(answers + "/answer").read()))
print(json.dumps({"off": off, "reached": len(reached), "user": os.getuid()}))
"""


@pytest.mark.parametrize("container", ["namespace"], indirect=True)
def test_a_script_and_the_owners_file_that_scores_it_are_users_that_read_what_is_theirs_alone(container: Container, tmp_path: Path) -> None:
    for file, text in {
        "public/x": "",
        "known/answers": "",
        "hidden/validation/answer": "5",
        "hidden/test/answer": "9",
        "scorer/s.py": SCORES,
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        (tmp_path / file).write_text(text, encoding="utf-8")
        (tmp_path / file).chmod(0o644)
    (tmp_path / "hidden").chmod(0o700)
    hidden, scorer = f"{PRIVATE}/hidden/h-1", f"{PRIVATE}/scorer/s-1"
    container.more = {"/mnt/public": tmp_path / "public", "/mnt/known": tmp_path / "known"}
    (container.code / "train.py").write_text(LOOKS, encoding="utf-8")
    scoring = protocol.Scoring("command", hidden, file=f"{scorer}/s.py", hide=("/mnt/known",))
    spec = protocol.Spec("x-1", 0, "tiny", 10.0, 1, "", metric="off", readable="/mnt/public", scoring=scoring)
    container.run("train", json.dumps(asdict(spec)), "/mnt/code", f"{PRIVATE}/out")
    trained = protocol.read_json(container.out / protocol.RESULT) or {}
    assert (trained["state"], trained["sandbox"]) == (protocol.SUBMITTED, "user+seccomp"), trained
    lines = (container.out / protocol.LOG).read_text(encoding="utf-8").splitlines()
    assert lines == ["its data worked", "what is hidden refused", "the private folder refused", "the answers refused"]

    container.more = {hidden: tmp_path / "hidden", scorer: tmp_path / "scorer"}
    arguments = ("score", f"{PRIVATE}/data", f"{PRIVATE}/out", "--hidden", hidden, "--scorer", scorer)
    assert "test_bpb" not in container.run(*arguments)
    scored = protocol.read_json(container.out / "scored.json") or {}
    assert (scored["state"], scored["val_bpb"], protocol.read_hidden(container.out)) == ("finished", 1.0, 5.0), scored
    assert scored["metrics"].pop("user") >= 1 << 16 and scored["metrics"] == {"off": 1.0, "reached": 0.0}
    assert scored["hashes"].keys() >= {"packages", "weights", "data", "scorer", "answers"}
