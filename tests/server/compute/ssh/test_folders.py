"""Folders of the lab's owner on a host: sent once, whole or not at all, compared before each launch, and read by whom they are for."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.folders import Folder, look
from autoresearch_mcp.server.compute.line import sending
from autoresearch_mcp.server.compute.line.transport import HostAway
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.compute.ssh.there import answer
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.trainer import prepare, protocol
from tests.server.compute.jobs import ENDS, see
from tests.server.harness import LabHarness
from tests.server.lab.test_scorer import LAB, TRAIN, make
from tests.standins.sshd import Hosts

DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"
SNOOP = """
data = os.environ["AUTORESEARCH_DATA"]
for top in (data, data + "/../../../.."):
    for above, folders, names in os.walk(top):
        for name in names:
            try:
                open(os.path.join(above, name)).read()
                print("READ", os.path.join(above, name))
            except OSError:
                print("DENIED")
"""
HOME = """
print("HOME", os.listdir(os.path.expanduser("~/digits")))
"""


def ssh_lab(names: str, more: str = "") -> str:
    machines = "".join(f"\n[compute.ssh.{name}]\npython = '{sys.executable}'\n{more}" for name in ("box", "other"))
    return f'[compute]\nbackend = "ssh"\nhosts = {names}\n{machines}'


def given(hosts: Hosts, name: str, key: str, labs: str = ".autoresearch-mcp/labs") -> list[Path]:
    return [*hosts.home(name).glob(f"{labs}/lab-*/given/{key}/*")]


def test_answers_and_data_go_to_two_hosts_where_no_training_reads_the_answers_and_results_are_comparable_with_those_here(
    ssh_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "digits"
    repository = make(own)
    (repository / "train.py").write_text(TRAIN + SNOOP + HOME, encoding="utf-8")
    git = f"git -C '{repository}' -c user.name=a -c user.email=a@example.org commit -qam Look"
    assert os.system(git) == 0
    create_lab(tmp_path / "lab", repository, "tiny")
    text = LAB.format(folder=own)
    (tmp_path / "lab" / "lab.toml").write_text(text + ssh_lab('["box:0", "other:0"]') + "[promotion]\nunsandboxed = 'allow'\n", "utf-8")
    harness = LabHarness(tmp_path / "lab")

    def run(count: int, place: Callable[[], Any] | None) -> list[dict[str, Any]]:
        with runner_lock(harness.state):
            ids = harness.lab.launch_training("champion", "ada", count).experiments
        harness.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"), compute=place and place())
        query = ExperimentQuery(commit="champion", columns=["id", "state", "val_bpb", "conditions", "failure"])
        return [row for row in harness.lab.query_experiments(query).rows if row["id"] in ids]

    def hosts() -> Any:
        return open_compute(settings.load(harness.root), harness.state, harness.state / "runner.log")

    far, (here,) = run(2, hosts), run(1, None)
    assert {each["state"] for each in (*far, here)} == {"finished"}, far
    assert {each["conditions"] for each in far} == {here["conditions"]} and all(0.3 < each["val_bpb"] < 0.7 for each in far)
    for each in far:
        log = (harness.state / "runs" / each["id"] / "1" / protocol.LOG).read_text(encoding="utf-8")
        read = [line for line in log.splitlines() if line.startswith("READ")]
        assert read and all("/given/data/" in line for line in read) and "HOME ['public']" in log, log
    used = {str((protocol.read_json(harness.state / "runs" / each["id"] / "1" / "ssh.json") or {})["host"]) for each in far}
    assert used == {"box", "other"}

    (there,) = given(ssh_hosts, "box", "hidden")
    (there / "test" / "answers.csv").write_text("label\n" + "1\n" * 97, encoding="utf-8")  # somebody else's hand
    answers = own / "hidden" / "validation" / "answers.csv"
    text = (tmp_path / "lab" / "lab.toml").read_text(encoding="utf-8")
    (tmp_path / "lab" / "lab.toml").write_text(text.replace(', "other:0"]', "]"), encoding="utf-8")
    (mended,) = run(1, hosts)
    assert mended["conditions"] == here["conditions"] and "1\n1\n1\n1\n1\n1" not in (there / "test" / "answers.csv").read_text(
        encoding="utf-8"
    )
    answers.write_text(answers.read_text(encoding="utf-8").replace("0", "1", 1), encoding="utf-8")
    (other,) = run(1, hosts)
    assert other["state"] == "finished" and other["conditions"] != here["conditions"]
    assert [folder.name for folder in given(ssh_hosts, "box", "hidden")] != [there.name]  # and the former one is gone
    harness.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_owners_text_is_prepared_on_a_host_as_it_is_here(
    ssh_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    text = tmp_path / "text" / "a.txt"
    text.write_text("\n\n".join(f"Line {n} says {n * n} of {n % 7}." * 20 for n in range(200)), encoding="utf-8")
    profile = f"[profile.mine]\ntext = '{tmp_path}/text'\nvocab_size = 300\nseq_len = 32\neval_bytes = 10000\n"
    before = """nice = 7\nfolder = "~/a scratch"\nbefore = ['cat "$HOME/a scratch"/*/runs/e-text/1/spec.json > "$HOME/spec"', """
    before += f"""'nice() {{ echo "$1 $2" > "$HOME/nice"; "{sys.executable}" "{DRAWING}" 0 0.5 "$6"; }}']"""
    lab = "[lab]\nname = 'x'\n[training]\nprofile = 'mine'\nheldout = 'public'\n" + profile + ssh_lab('["box"]', before)
    (tmp_path / "lab.toml").write_text(lab, encoding="utf-8")
    loaded = settings.load(tmp_path)
    compute = open_compute(loaded, tmp_path / "state", tmp_path / "log")
    data = await compute.prepare()
    spec = spec_of(loaded.launch(), "e-text", data)
    job = Job("e-text", 1, tmp_path / "e-text" / "1", spec, {"train.py": b""})
    await compute.submit(job)
    seen = await see(compute, job, *ENDS)
    assert seen.result is not None, seen
    await compute.close()
    there = protocol.read_json(ssh_hosts.home("box") / "spec") or {}
    (folder,) = given(ssh_hosts, "box", "text", "a scratch")
    assert (ssh_hosts.home("box") / "nice").read_text(encoding="ascii") == "-n 7\n"
    assert there["own_text"]["text"] == str(folder) and (folder / "a.txt").read_bytes() == text.read_bytes()
    here = prepare.prepare("mine", own=loaded.training.limits.own)
    assert prepare.data_hashes(Path(there["data"])) == prepare.data_hashes(here)
    text.unlink()
    with pytest.raises(ComputeError, match="holds no file"):
        await open_compute(loaded, tmp_path / "state", tmp_path / "log").prepare()


@pytest.mark.anyio
async def test_a_folder_arrives_whole_over_a_line_that_breaks_and_one_that_changes_or_leads_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PIECE", 1000)
    folder = tmp_path / "hidden ü"
    for name, size in {"a/large.bin": 3500, "b.txt": 1, "empty": 0, "deep/er/c": 999}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    (folder / "deep" / "link").symlink_to(folder / "b.txt")
    requests = list[str]()

    async def ask(request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        common = {"lab": "l", "folder": str(tmp_path / "there"), "fixed": prepare.fixed_hash()}
        requests.append("")
        if len(requests) % 3 == 0:
            raise HostAway("before it arrived")
        done = answer({**common, **request})
        if len(requests) % 5 == 0:
            raise HostAway("before its answer arrived")
        return done

    async def send(folder: Folder) -> Path:
        while True:
            with contextlib.suppress(HostAway):
                await sending.send(ask, folder)
                return tmp_path / "there" / "lab-l" / "given" / folder.key / folder.name

    for key in ("hidden", "data"):
        arrived = await send(look(key, folder))
        assert {path.relative_to(arrived) for path in arrived.rglob("*")} == {path.relative_to(folder) for path in folder.rglob("*")}
        assert all((arrived / path).read_bytes() == (folder / path).read_bytes() for path in ("a/large.bin", "b.txt", "empty", "deep/link"))
        assert not (arrived / "deep" / "link").readlink().is_absolute()
    assert len(requests) < 60, "what had come was sent again"

    (folder / "b.txt").write_bytes(b"??")
    old = look("hidden", folder)
    (folder / "b.txt").write_bytes(b"!!")
    with pytest.raises(ComputeError, match="changed while it was sent"):
        await send(old)
    (folder / "deep" / "out").symlink_to(tmp_path)
    with pytest.raises(ComputeError, match=r"deep/out in .* is a link that leads out of it"):
        look("hidden", folder)
    with pytest.raises(ComputeError, match="none can't be read: No such file"):
        look("data", tmp_path / "none")
