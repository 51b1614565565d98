"""Code without the contract runs as `python train.py` would: its folder, interpreter, environment and modules are its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.trainer import entry, protocol, sandbox, script
from autoresearch_mcp.trainer.failures import Failure
from tests.trainer.conftest import Launched, Warm


def launch(warm: Warm, files: dict[str, str], budget_s: float = 30.0, **spec: Any) -> Launched:
    run = warm.directory("", budget_s, files={})
    for path, text in files.items():
        (run / "code" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "code" / path).write_text(text, encoding="utf-8")
    protocol.write_json(run / protocol.SPEC, {**(protocol.read_json(run / protocol.SPEC) or {}), "metric": "loss", **spec})
    return Launched(run, warm.ask(run)["pid"])


def finished(warm: Warm, files: dict[str, str], **spec: Any) -> str:
    """Train to the end, and return what the script printed."""
    launched = launch(warm, files, **spec)
    result = launched.wait()
    assert result["state"] == "finished", f"{result['failure']}\n{launched.log}"
    return launched.log


LAYOUT = {
    "src/own/__init__.py": "",
    "src/own/model.py": "LOSS = 0.25\n",
    "src/own/train.py": "import sys, os\nfrom own import model\nprint('loss:', model.LOSS, '|', *sys.argv[1:], os.environ['NAME'])\n",
    "exp/helper.py": "WHERE = 'beside the entry'\n",
    "exp/train.py": "import helper, own.model, os\nprint(helper.WHERE, os.path.basename(os.getcwd()))\nprint('loss:', own.model.LOSS)\n",
}


def test_a_module_runs_as_with_python_m_with_the_runs_seed_filled_in(warm: Warm) -> None:
    log = finished(
        warm,
        LAYOUT,
        module="own.train",
        arguments=["--seed=$AUTORESEARCH_SEED", "$OTHER"],
        env={"NAME": "n-${AUTORESEARCH_BUDGET_S}"},
        seed=7,
    )
    assert "loss: 0.25 | --seed=7 $OTHER n-30" in log


FUNCTION = {
    "python/own/__init__.py": "",
    "python/own/cli.py": "import subprocess, sys\n\ndef main():\n    print('loss:', 0.5, sys.argv[1:])\n    return {'loss': 0.5}\n\n"
    "def refuse():\n    print('loss: 0.5')\n    subprocess.run([sys.executable, '-c', 'import lib; print(lib.NAME)'], cwd='/tmp')\n    return 3\n",
    "lib/__init__.py": "NAME = 'found by a helper'\n",
}


def test_a_function_is_called_as_an_installed_command_does_it_and_packages_are_found_where_they_lie(warm: Warm) -> None:
    assert "loss: 0.5 ['--x']" in finished(warm, FUNCTION, module="own.cli:main", arguments=["--x"])
    refused = launch(warm, FUNCTION, module="own.cli:refuse")
    assert "exit code 3" in refused.wait()["failure"]["message"] and "found by a helper" in refused.log


def test_a_file_in_a_folder_finds_what_lies_beside_it_and_what_src_holds(warm: Warm) -> None:
    assert "beside the entry exp" in finished(warm, LAYOUT, entry="exp/train.py", cwd="exp")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a virtual environment with a package `own`, version 1, as `pip install .` leaves it."""
    root = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    packages = next(root.glob("lib/python3*/site-packages"))
    (packages / "own").mkdir()
    (packages / "own" / "__init__.py").write_text("", encoding="utf-8")
    (packages / "own" / "model.py").write_text("LOSS = 0.9\n", encoding="utf-8")
    facts = packages / "own_project-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: own-project\nVersion: 1.0\n", encoding="utf-8")
    (facts / "RECORD").write_text("own/__init__.py,,\nown/model.py,,\n", encoding="utf-8")
    return root


PROJECT = {"pyproject.toml": '[project]\nname = "own-project"\n'}
PRINTS = {"train.py": "import sys, own.model\nprint(sys.prefix)\nprint('loss:', own.model.LOSS)\n"}


def test_another_interpreter_runs_the_code_and_its_packages_belong_to_the_conditions(warm: Warm, environment: Path) -> None:
    python = str(environment / "bin" / "python")
    other = launch(warm, PRINTS, python=python).wait()
    assert other["state"] == "finished" and other["reported_bpb"] == 0.9
    packages = next(environment.glob("lib/python3*/site-packages"))
    (packages / "new-2.0.dist-info").mkdir(exist_ok=True)
    (packages / "new-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: new\nVersion: 2.0\n", encoding="utf-8")
    later = launch(warm, PRINTS, python=python).wait()
    spec = {"profile": "tiny", "device": "cpu", "budget_s": 30.0, "threads": 1, "python": python}
    before, after = (protocol.conditions(protocol.parse_result(result), spec) for result in (other, later))
    assert before != after


def test_the_repositorys_own_package_comes_before_an_installed_copy_or_the_run_is_refused(warm: Warm, environment: Path) -> None:
    python = str(environment / "bin" / "python")
    assert "loss: 0.25" in finished(warm, {**LAYOUT, **PROJECT, **PRINTS}, python=python)
    hidden = {path.replace("src/", "python/"): text for path, text in LAYOUT.items()}
    refused = launch(warm, {**hidden, **PROJECT, **PRINTS}, python=python).wait()
    assert refused["state"] == "crashed" and refused["failure"]["kind"] == "import_error"
    assert "pip uninstall own-project" in refused["failure"]["message"] and "python/own/" in refused["failure"]["message"]
    mended = {"PYTHONPATH": "$HOME/python"}
    assert "loss: 0.25" in finished(warm, {**hidden, **PROJECT, **PRINTS}, python=python, env=mended)
    assert "loss: 0.25" in finished(warm, {**hidden, **PROJECT, **PRINTS}, env=mended)


def test_a_package_that_pip_left_where_its_sources_are_is_the_runs_own_or_refused(warm: Warm, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    packages = next(tmp_path.glob("venv/lib/python3*/site-packages"))
    sources = tmp_path / "checkout" / "python"
    (sources / "own").mkdir(parents=True)
    for name, text in {"__init__.py": "", "model.py": "LOSS = 0.9\n"}.items():
        (sources / "own" / name).write_text(text, encoding="utf-8")
    (packages / "__editable__.own_project.pth").write_text(f"{sources}\n", encoding="utf-8")
    facts = packages / "own_project-1.0.dist-info"
    facts.mkdir()
    origin = {"url": sources.parent.as_uri(), "dir_info": {"editable": True}}
    for name, text in {
        "METADATA": "Metadata-Version: 2.1\nName: own-project\nVersion: 1.0\n",
        "RECORD": "__editable__.own_project.pth,,\n",
        "top_level.txt": "own\n",
        "direct_url.json": json.dumps(origin, separators=(",", ":")),  # as uv writes it; pip has blanks
    }.items():
        (facts / name).write_text(text, encoding="utf-8")
    python = str(tmp_path / "venv" / "bin" / "python")
    assert "loss: 0.25" in finished(warm, {**LAYOUT, **PROJECT, **PRINTS}, python=python)
    hidden = {path.replace("src/", "python/"): text for path, text in LAYOUT.items()}
    if sandbox.has_world():  # no run can read those sources, so Python goes on to the run's own
        assert "loss: 0.25" in finished(warm, {**hidden, **PROJECT, **PRINTS}, python=python)
    for path, text in {**hidden, **PROJECT, **PRINTS}.items():
        (tmp_path / "run" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / path).write_text(text, encoding="utf-8")
    what = json.dumps({"root": str(tmp_path / "run"), "entry": "train.py", "module": "", "arguments": []})
    refused, mended = (  # where it can read them
        subprocess.run([python, entry.__file__, what], env=env, capture_output=True, text=True, check=False)
        for env in ({}, {"PYTHONPATH": str(tmp_path / "run" / "python")})
    )
    assert "ImportError: the package own" in refused.stderr and "pip uninstall own-project" in refused.stderr, refused.stderr
    assert "loss: 0.25" in mended.stdout


def test_an_interpreter_that_is_not_there_and_a_folder_that_is_not_copied_are_named(warm: Warm) -> None:
    for spec, words in (({"python": "/nowhere/bin/python"}, "/nowhere/bin/python"), ({"cwd": "conf"}, "[training] files")):
        result = launch(warm, PRINTS, **spec).wait()
        assert result["fault"] == "machine" and words in result["failure"]["message"], result["failure"]


def test_limits_of_a_script_are_the_labs_and_named_with_their_key(warm: Warm) -> None:
    fills = "x = bytearray(300 << 20)\nimport time\ntime.sleep(30)\n"
    many = "import time\nfor n in range(30):\n    open(f'f{n}', 'w').close()\ntime.sleep(30)\n"
    big = "import time\nopen('big', 'wb').write(b'x' * (3 << 20))\ntime.sleep(30)\n"
    for code, spec, key in (
        (fills, {"memory_mb": 200}, "memory_mb"),
        (many, {"max_files": 20}, "max_files"),
        (big, {"disk_mb": 2}, "max_file_mb"),
    ):
        result = launch(warm, {"train.py": code}, **spec).wait()
        assert result["state"] == "crashed" and f"[training] {key}" in json.dumps(result["failure"]), (key, result["failure"])


def test_code_that_looks_for_a_network_is_told_that_there_is_none(warm: Warm) -> None:
    code = "import os\nprint(*(os.environ[name] for name in ('HF_HUB_OFFLINE', 'WANDB_MODE', 'MPLBACKEND')))\nprint('loss: 1')\n"
    assert "1 offline Agg" in finished(warm, {"train.py": code})


FREEDOMS = {
    "train.py": """
import ctypes, multiprocessing as mp, os, resource, signal, socket, sqlite3, subprocess, sys, threading, time
from multiprocessing import shared_memory
import torch
from torch.utils.data import DataLoader, TensorDataset

def double(x):
    return 2 * x

own_ids = os.environ['OWN_IDS'] == 'True'

def family(process):
    return {1, process.pid, *(each.pid for each in process.children(recursive=True))}

def gather(rank, port):
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    assert total.item() == 3.0

if __name__ == "__main__":
    batches = [x for (x,) in DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2, num_workers=2)]
    print("loader", sum(x.sum().item() for x in batches))
    with mp.Pool(2) as pool:
        print("pool", pool.map(double, [1, 2]))
    queue = mp.Queue()
    worker = mp.Process(target=queue.put, args=("sent",))
    worker.start()
    print("queue", queue.get(timeout=20))
    worker.join()
    with mp.get_context("spawn").Pool(1) as pool:
        print("spawned", pool.map(double, [3]))
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.close()
    block.unlink()
    ended = []
    signal.signal(signal.SIGCHLD, lambda *_: ended.append(1))
    subprocess.run(["true"], start_new_session=True)
    print("handler", ended != [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
    print("nice", -os.nice(0) + os.nice(3))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(gather, (port,), nprocs=2, start_method="fork")
    print("head", subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip())
    import psutil
    print("psutil", psutil.Process().memory_info().rss > 0, psutil.virtual_memory().total > 0, psutil.cpu_count() > 0)
    base = sqlite3.connect("base.db")
    print("log", base.execute("pragma journal_mode = wal").fetchone(), base.execute("create table t (x)").fetchall(), base.commit())
    print("log", sqlite3.connect("base.db").execute("select count(*) from t").fetchall())
    if own_ids:
        helper = subprocess.Popen(["sleep", "9"], start_new_session=True)
        print("helpers", {each.name() for each in psutil.Process().children(recursive=True)} >= {"sleep"}, psutil.Process(helper.pid).nice() == os.nice(0))
        print("others", [each.pid for each in psutil.process_iter() if each.pid not in family(psutil.Process())])
        from joblib import Parallel, delayed  # whose workers ask psutil of themselves
        print("joblib", Parallel(n_jobs=2)(delayed(double)(n) for n in (4, 5)))
    os.chmod("train.py", 0o755)
    print("mode", oct(os.stat("train.py").st_mode & 0o777))
    print("loss: 1")
""",
}


@pytest.mark.skipif(not sandbox.has_world(), reason="needs namespaces for users")
def test_workers_pools_queues_handlers_and_a_group_on_loopback_work(warm: Warm) -> None:
    own_ids = sandbox.counts_its_own()
    log = finished(warm, FREEDOMS, commit="c0ffee" + "0" * 34, env={"OWN_IDS": str(own_ids)})
    for line in (
        "spawned [6]",
        "log ('wal',) [] None",
        "log [(0,)]",
        *(("helpers True True", "others []", "joblib [8, 10]") if own_ids else ()),
        "loader 28.0",
        "pool [2, 4]",
        "queue sent",
        "handler True",
        "nice 3",
        "head c0ffee" + "0" * 34,
        "psutil True True True",
        "mode 0o755",
    ):
        assert line in log.splitlines(), (line, log)


LINKED = """
import os, sys
data = sys.argv[1]
own = os.environ["AUTORESEARCH_DATA"]
print(*(open(path).read() for path in (f"{data}/own.txt", f"{data}/deep/here.txt", f"{own}/own.txt")))
for name in ("more/x.txt", "deep/one.txt", "up/lab.txt", "deep/../../elsewhere/../secret.txt"):
    try:
        print("REACHED", open(f"{data}/{name}").read())
    except OSError:
        print("refused")
print("loss: 1")
"""


def test_data_is_found_by_its_links_name_and_a_link_in_it_leads_nowhere_else(warm: Warm, tmp_path: Path) -> None:
    data = tmp_path / "disk" / "data"
    for path, text in {
        data / "own.txt": "a",
        tmp_path / "elsewhere" / "x.txt": "b",
        tmp_path / "one.txt": "c",
        tmp_path / "secret.txt": "s",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (data / "deep").mkdir()
    for link, to in {
        data / "more": tmp_path / "elsewhere",
        data / "deep" / "one.txt": tmp_path / "one.txt",
        data / "deep" / "here.txt": Path("../own.txt"),
        tmp_path / "named": tmp_path / "disk",
    }.items():
        link.symlink_to(to)
    (data / "up").symlink_to(warm.directory("").parents[1])  # what holds the run is never read
    (warm.directory("").parents[1] / "lab.txt").write_text("lab", encoding="utf-8")
    named = str(tmp_path / "named" / "data")
    log = finished(warm, {"train.py": LINKED}, readable=named, arguments=[named])
    assert "a a a" in log and "REACHED" not in log and log.count("refused") == 4, log


REACHES = {
    "train.py": """
import json, os, signal, socket, sys
paths, port, abstract, path, process = json.loads(sys.argv[1])
def tried(what, call, *arguments):
    try:
        call(*arguments)
        print("REACHED", what)
    except (OSError, ValueError) as error:
        print("refused", what, type(error).__name__)
for each in paths:
    tried(each, open, each)
    tried("mode of " + each, os.chmod, each, 0o777)
tried("a port", socket.create_connection, ("127.0.0.1", port), 2)
for name in ("\\0" + abstract, path):
    tried(repr(name), socket.socket(socket.AF_UNIX).connect, name)
tried("a process", os.kill, process, 0)
tried("its memory", open, f"/proc/{process}/environ")
for each in ("environ", "mem", "fd/1", "root/etc"):
    tried("the keeper's " + each, os.open, "/proc/1/" + each, os.O_RDONLY)
tried("the keeper", os.kill, 1, signal.SIGKILL)
tried("the machine's settings", open, "/proc/sys/vm/drop_caches", "w")
tried("a library", os.truncate, os.__file__, 0)
tried("its mode", os.chmod, os.__file__, 0o777)
print("loss: 1")
""",
}


@pytest.mark.skipif(not sandbox.has_world() or sandbox.abi() < 6, reason="needs namespaces for users")
def test_in_a_world_of_its_own_code_reaches_nothing_of_the_machine_or_of_another_run(warm: Warm, tmp_path: Path, data: Path) -> None:
    shared = Path("/dev/shm", f"other-run-{os.getpid()}")
    shared.write_bytes(b"theirs")
    secret = tmp_path / "secret"
    secret.write_text("theirs", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        abstract.bind(f"\0other-{os.getpid()}")
        named.bind(str(path := tmp_path / "s"))
        for each in (abstract, named):
            each.listen()
        paths = [str(shared), str(secret), str(data / "val.bin")]
        aims = json.dumps([paths, tcp.getsockname()[1], f"other-{os.getpid()}", str(path), warm.process.pid])
        try:
            log = finished(warm, REACHES, arguments=[aims])
        finally:
            shared.unlink()
    assert "REACHED" not in log and log.count("refused") == 19, log
    assert secret.stat().st_mode & 0o777 != 0o777


def test_where_memory_can_not_be_shared_a_failure_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(log: str) -> str:
        return script.explained(Failure("error", "it failed."), log, 1024).message

    lost = "AttributeError: '_MultiProcessingDataLoaderIter' object has no attribute '_shutdown'"
    monkeypatch.setattr(script, "has_world", lambda: False)
    assert "num_workers=0" in said(lost) and "num_workers=0" in said("in SemLock\nPermissionError: [Errno 13] Permission denied")
    assert said("PermissionError: [Errno 13] Permission denied: '/etc/shadow'") == "it failed."
    monkeypatch.setattr(script, "has_world", lambda: True)
    assert said(lost) == "it failed."
