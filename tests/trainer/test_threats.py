"""What a train.py might try for a better number, more time, or harm. Each attempt is made by a real one, through the real launcher."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.trainer import prepare, protocol, sandbox, stream
from tests.trainer.conftest import BIGRAM, IN_CHILD, PACKAGE, Launched, Warm, processes_in, until
from tests.trainer.test_score import bigram_bpb

confined = pytest.mark.skipif(sandbox.level() == "unsandboxed", reason="this system has no Landlock or no seccomp: results say so")


def before_submit(body: str) -> str:
    return BIGRAM.replace("# before submit", body)


def answering(body: str) -> str:
    return BIGRAM.replace("        return self.table(idx)", body.lstrip("\n"))


# The number

PATCHES = """
import builtins, json, math, os, sys, time, types
import numpy as np, torch
import autoresearch_mcp.trainer.client
from autoresearch_mcp import trainer
np.isfinite = lambda *a, **k: np.ones(1, bool)
np.fromfile = lambda *a, **k: np.zeros(1, np.uint16)
np.load = lambda *a, **k: np.full(512, 10**6)
torch.log_softmax = torch.Tensor.log_softmax = lambda x, *a, **k: torch.zeros_like(x)
math.log = lambda *a: 1e9
math.fsum = lambda *a: 1e9
json.dumps = lambda *a, **k: '{"val_bpb": 0.1, "test_bpb": 0.1}'
time.monotonic = time.process_time = lambda: 0.0
builtins.abs = lambda x: x * 0
score = types.ModuleType("autoresearch_mcp.trainer.score")
score.score = lambda *a, **k: {"val_bpb": 0.1, "test_bpb": 0.1}
score.DECOYS = score.TWINS = 0
for name in ("score", "supervisor", "launch", "sandbox", "processes", "records"):
    sys.modules["autoresearch_mcp.trainer." + name] = score
trainer.protocol.write_json = lambda *a, **k: None
"""
SHADOWS = {
    "autoresearch_mcp/__init__.py": "",
    "autoresearch_mcp/trainer/__init__.py": "",
    "autoresearch_mcp/trainer/score.py": "def score(*a, **k): return {'val_bpb': 0.1, 'test_bpb': 0.1}",
    "autoresearch_mcp/trainer/client.py": "raise SystemExit('shadowed')",
    "trainer/__init__.py": "",
    "trainer/score.py": "def score(*a, **k): return {'val_bpb': 0.1, 'test_bpb': 0.1}",
    "trainer/client.py": "raise SystemExit('shadowed')",
    "torch.py": "def log_softmax(*a, **k): raise SystemExit('shadowed')",
    "numpy.py": "raise SystemExit('shadowed')",
    "safetensors/torch.py": "raise SystemExit('shadowed')",
    "sitecustomize.py": "raise SystemExit('shadowed')",
}


def test_patched_time_torch_numpy_and_launcher_modules_change_nothing(warm: Warm, data: Path) -> None:
    unpatched_dumps = "import json as original; dumps = original.dumps\n"
    code = unpatched_dumps + PATCHES + BIGRAM.replace("# before submit", "json.dumps = dumps")
    code = code.replace(
        "    tokens = run.start()", "    patched, json.dumps = json.dumps, dumps; tokens = run.start(); json.dumps = patched"
    )
    code = code.replace("    run.log(", "    json.dumps = dumps; run.log(").replace(
        "run = client.connect()", "json.dumps = dumps; run = client.connect()"
    )
    launched = warm.launch(code)
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["val_bpb"] == round(bigram_bpb(data), 4)
    assert launched.hidden == pytest.approx(bigram_bpb(data, "test"), abs=1e-5)


@pytest.mark.parametrize("warmly", [True, False], ids=["warm", "cold"])
def test_modules_that_shadow_the_fixed_files_reach_no_scorer(warm: Warm, data: Path, warmly: bool) -> None:
    run = warm.directory(BIGRAM, files=SHADOWS)
    if warmly:
        result = Launched(run, warm.ask(run)["pid"]).wait()
    else:
        subprocess.run([sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run)], cwd=PACKAGE.parent, check=True)
        result = protocol.read_json(run / protocol.RESULT) or {}
    assert result["state"] == "finished", result["failure"]
    assert result["val_bpb"] == round(bigram_bpb(data), 4)


def test_a_model_that_differs_in_scoring_is_scored_as_it_is(warm: Warm, data: Path) -> None:
    """What `build_model` returns in the model server counts, whatever it was in training."""
    code = BIGRAM.replace("return self.table(idx)", "return self.table(idx) if __name__ == '__main__' else 0 * self.table(idx)")
    assert warm.launch(code).wait()["val_bpb"] > 1.5 * bigram_bpb(data)


CHEATS = {
    "looks ahead late in the row only": """
        logits = self.table(idx).clone()
        logits[:, 48:-1].scatter_add_(-1, idx[:, 49:, None], torch.full_like(logits[:, 48:-1, :1], 5.0))
        return logits""",
    "looks ahead in rows that look like the evaluation only": """
        logits, boost = self.table(idx).clone(), torch.full((idx.size(0), 63, 1), 5.0)
        boost[idx[:, 0] % 2 == 0] = 0
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], boost)
        return logits""",
    "looks ahead where the text goes on plausibly only": """
        logits = self.table(idx).clone()
        likely = logits[:, :-1].gather(-1, idx[:, 1:, None]) > logits[:, :-1].mean(-1, keepdim=True) + 1
        logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], likely * 5.0)
        return logits""",
    "looks ahead in the first of the two model servers only": """
        import os, stat
        logits = self.table(idx).clone()
        if not stat.S_ISCHR(os.fstat(1).st_mode):
            logits[:, :-1].scatter_add_(-1, idx[:, 1:, None], torch.full_like(logits[:, :-1, :1], 5.0))
        return logits""",
    "answers a repeated row differently": """
        self.seen = getattr(self, "seen", set())
        logits = self.table(idx).clone()
        for row, answer in zip(idx.tolist(), logits):
            if tuple(row) in self.seen:
                answer[:, 0] += 1.0
            self.seen.add(tuple(row))
        return logits""",
    "leaks from one row into the next": """
        return self.table(idx) + 0.1 * self.table(idx.roll(1, 0))""",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_model_that_is_no_model_of_the_past_gets_no_number(warm: Warm, cheat: str) -> None:
    launched = warm.launch(answering(CHEATS[cheat]))
    result = launched.wait()
    assert (result["state"], result["val_bpb"], launched.hidden) == ("crashed", None, None)
    assert result["failure"]["kind"] == "invalid_model" and "log-probabilities" in result["failure"]["message"]


@confined
@pytest.mark.parametrize(
    "attempt",
    ["in_child(os.setsid)", "in_child(os.setpgid, 0, 0)", "os.listdir('../..')", "os.listdir('..')"],
)
def test_model_servers_can_not_leave_their_group_or_see_each_other(warm: Warm, attempt: str) -> None:
    code = IN_CHILD + BIGRAM.replace(
        "def build_model(config):", f"def build_model(config):\n    import os\n    __name__ == '__main__' or ({attempt})"
    )
    failure = warm.launch(code).wait()["failure"]
    assert failure["kind"] == "invalid_model" and "PermissionError" in failure["message"]


def test_what_the_first_model_server_could_write_is_gone_when_the_second_begins(warm: Warm) -> None:
    """Whether a path exists is for all to see: the second would find what the first left of what it was asked."""
    leave = """
    import os, stat
    if __name__ != "__main__":
        open("left", "w").close()
        while stat.S_ISCHR(os.fstat(1).st_mode) and not os.path.exists("../../../code/go"):
            pass
    return Bigram"""
    launched = warm.launch(BIGRAM.replace("\n    return Bigram", leave))
    scratch = launched.run / "scratch"
    until(lambda: len(list(scratch.glob("*/*/left"))) == 1 and len(list(scratch.glob("*/*"))) == 2)  # of the second, and of the third
    for home in scratch.glob("*/*"):
        assert len(home.name) == len(home.parent.name) == 32  # drawn: nobody can be told by a name that it has to find
    (launched.run / protocol.CODE / "go").touch()
    assert launched.wait()["state"] == "finished"


def test_a_config_too_long_for_a_message_is_refused(warm: Warm) -> None:
    result = warm.launch(
        BIGRAM.replace('{"vocab_size": run.config["vocab_size"]}', '{"vocab_size": 512, "text": "x" * (200 << 10)}')
    ).wait()
    assert (result["state"], result["val_bpb"]) == ("crashed", None) and "bytes" in result["failure"]["message"]


# The clock


def test_nothing_is_to_be_had_before_the_clock_runs(warm: Warm) -> None:
    early = """
    run._send(op="submit", config={"vocab_size": 512})
    run._send(op="log", step=1e6, tokens=1e9, loss=0.0)
    run._channel.setblocking(False)
    try:
        print("EARLY", run._channel.recv(1))
    except BlockingIOError:
        print("EARLY nothing")
    run._channel.setblocking(True)
    model = train(run)"""
    launched = warm.launch(BIGRAM.replace("    model = train(run)", early.lstrip("\n")))
    result = launched.wait()
    assert result["state"] == "finished" and "EARLY nothing" in launched.log
    assert (result["steps"], result["curve"][0][1]) == (1, 3.0)


def test_work_before_the_start_is_free_for_a_moment_only(warm: Warm) -> None:
    """Its source may hold text to train on."""
    early = """
    import time
    while time.process_time() < 4.0:
        pass
    model = train(run)
    print("SHARE", run.progress())"""
    launched = warm.launch(BIGRAM.replace("    model = train(run)", early.lstrip("\n")), budget_s=10)
    result = launched.wait()
    assert result["state"] == "finished" and 2.9 < result["used_s"] < 4.0  # of 4 CPU seconds, 1 is free
    assert float(launched.log.partition("SHARE ")[2].split()[0]) > 0.29  # as it is told, too


def test_a_second_start_does_not_turn_the_clock_back(warm: Warm) -> None:
    again = "while True:\n        run._send(op='start')"
    result = warm.launch(before_submit(again), budget_s=0.3).wait()
    assert (result["state"], result["val_bpb"]) == ("timed_out", None)


def test_a_helper_that_talks_on_when_training_has_ended_is_not_listened_to(warm: Warm) -> None:
    """The launcher would read for as long as something came, and look neither at a clock nor for a cancellation."""
    talk = """
    import os
    for _ in range(2):
        if os.fork() == 0:
            while True: run._channel.sendall(b'{"op": "log", "loss": 1.0}\\n' * 1000)
    raise SystemExit(0)"""
    result = warm.launch(before_submit(talk.lstrip())).wait(timeout_s=20)
    assert result["state"] == "crashed" and "without submitting" in result["failure"]["message"]


def test_what_is_no_number_or_no_text_in_a_message_does_no_harm(warm: Warm) -> None:
    odd = """
    run._send(op="log", share=float("nan"), loss=1.0)
    run._send(op="note", how="\\ud800half")"""
    launched = warm.launch(before_submit(odd.lstrip()))
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert result["notes"] == {"how": "half"} and "NaN" not in (launched.run / protocol.CURVE).read_text(encoding="utf-8")


def test_a_failure_shows_lines_and_no_volumes(warm: Warm) -> None:
    result = warm.launch(before_submit("print('x' * 60000); raise SystemExit(1)")).wait()
    assert result["failure"]["lines"] == ["x" * 300]


LISTENING = """
    import time
    began = last = time.monotonic()
    longest = 0.0
    while longest < 1.0 and time.process_time() < 18.0:
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    print("STOPPED", longest, last - began)
    raise SystemExit("heard enough")"""


def test_a_helper_does_not_train_on_after_submitting_nor_does_a_neighbour_notice_the_scoring(warm: Warm) -> None:
    """A model server could tell a training beside it what it reads, by timing. So that is stopped, at no cost."""
    listener = warm.launch(before_submit(LISTENING.lstrip()), budget_s=20.0)
    listener.until("running")
    helper = """
    import os, time
    if os.fork() == 0:
        while not os.path.exists("model.safetensors"):
            time.sleep(0.01)
        time.sleep(1.5)
        print("trained on", flush=True)"""
    slow_to_score = "        import time; time.sleep(0.005 * (__name__ != '__main__')); return self.table(idx)"
    launched = warm.launch(answering(slow_to_score).replace("# before submit", helper.lstrip()))
    result = launched.wait()
    assert result["state"] == "finished" and result["timings"]["score_s"] > 1.5, result["failure"]
    assert "trained on" not in launched.log and not processes_in(launched.run)
    heard = listener.wait()
    longest, window = map(float, listener.log.partition("STOPPED ")[2].split()[:2])
    assert longest > 1.5 and "without submitting" in heard["failure"]["message"]
    assert heard["wall_s"] == pytest.approx(window - longest, abs=0.5)


def test_a_seed_of_its_own_and_sorted_documents_do_not_make_replicates_one_training(warm: Warm) -> None:
    """A seed found by search is worth nothing if the lab's seed decides what is trained on. Counting bigrams ignores seeds altogether."""
    own_order = """    tokens = run.start()
    starts = np.flatnonzero(tokens == 511)
    documents = sorted(part.tobytes() for part in np.split(tokens, starts[1:]))
    print("DOCUMENTS", len(starts), len(set(documents)), tokens[0])
    tokens = np.frombuffer(b"".join(documents), np.uint16)"""
    code = BIGRAM.replace("    tokens = run.start()", own_order)
    runs = [warm.launch(code, seed=seed) for seed in (1, 1, 2)]
    weights = [launched.wait()["hashes"]["weights"] for launched in runs]
    assert weights[0] == weights[1] != weights[2]
    kept = 400 - 400 // stream.LEFT_OUT
    assert all(f"DOCUMENTS {kept} {kept} 511" in launched.log for launched in runs)


TRAINING_LATE = {
    "as the model is built": "def build_model(config):\n    __name__ == '__main__' or burn()",
    "on the first text": "    def forward(self, idx):\n        self.calls = getattr(self, 'calls', 0) + 1\n        self.calls != 2 or burn()",
}


@pytest.mark.parametrize("where", TRAINING_LATE)
def test_a_model_server_does_not_train_on_after_the_budget(warm: Warm, where: str) -> None:
    """The weights may hold the training text: a model that learns it here would be as good, at no cost."""
    burn = "import os, time\ndef burn():\n    began = time.process_time()\n    while time.process_time() - began < 3: pass\n"
    late = TRAINING_LATE[where]
    code = BIGRAM.replace(late.partition("\n")[0], late)
    assert code != BIGRAM
    failure = warm.launch(burn + code).wait()["failure"]
    assert failure["kind"] == "invalid_model" and "up to its first answer" in failure["message"]


ALONE = {"a process": "os.fork()", "a thread": "threading.Thread(target=print).start()", "a program": "subprocess.run(['true'])"}


@confined
@pytest.mark.parametrize("what", ALONE)
def test_a_model_server_starts_no_process_and_no_thread(warm: Warm, what: str) -> None:
    """A training that runs beside it sees which ids are taken, so it could be told the evaluation text by them, at 500 bits a second."""
    start = f"def build_model(config):\n    import os, subprocess, threading\n    __name__ == '__main__' or {ALONE[what]}"
    failure = warm.launch(BIGRAM.replace("def build_model(config):", start)).wait()["failure"]
    assert failure["kind"] == "invalid_model" and (
        "PermissionError" in failure["message"] or "can't start new thread" in failure["message"]
    )


@confined
@pytest.mark.parametrize("counter", ["open('/proc/meminfo')", "open('/proc/stat')", "os.stat('/proc/loadavg') and open('/proc/loadavg')"])
def test_a_training_sees_no_counter_of_the_whole_machine(warm: Warm, counter: str) -> None:
    failure = warm.launch(before_submit(f"import os; {counter}")).wait()["failure"]
    assert failure["kind"] == "sandbox_violation" and "Permission denied" in failure["message"]


@confined
def test_a_training_may_not_ask_how_much_memory_is_free(warm: Warm) -> None:
    ask = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    print("SYSINFO", libc.sysinfo(ctypes.create_string_buffer(512)), ctypes.get_errno())"""
    launched = warm.launch(before_submit(ask.lstrip()))
    assert launched.wait()["state"] == "finished" and "SYSINFO -1 1" in launched.log


# The machine

HOARDS = {
    "many files": "[open(str(n), 'wb').write(bytes(16 << 20)) for n in range(20)]",
    "files that were removed but stay open": """
    held = []
    for n in range(20):
        held.append(open('held', 'wb', buffering=0))
        os.remove('held')
        held[-1].write(bytes(16 << 20))""",
    "files that were removed but stay mapped": """
    import ctypes
    libc = ctypes.CDLL(None)
    for n in range(20):
        with open('held', 'w+b', buffering=0) as file:
            file.write(bytes(16 << 20))
            libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file.fileno(), ctypes.c_long(0))
        os.remove('held')""",
    "sockets": """
    import socket
    held = [socket.socketpair() for _ in range(1200)]
    os.fork()""",
    "one large file": "file = os.open('large', os.O_WRONLY | os.O_CREAT)\n    while os.write(file, bytes(16 << 20)): pass",
    "a great many empty files": "[open(f'{n:x}', 'wb').close() for n in range(11000)]",
    "directories deep in each other": "[(os.mkdir('d'), os.chdir('d')) for _ in range(1500)]",
    "threads": """
    import threading
    threading.stack_size(65536)
    for _ in range(1100):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()""",
    "processes": """
    for _ in range(1100):
        os.posix_spawn("/bin/sleep", ["sleep", "3600"], {})""",
}
EXPLANATIONS = {"one large file": "too large", "a great many empty files": "10,000 files", "directories deep in each other": "32 deep"}
EXPLANATIONS |= {"files that were removed but stay mapped": "maps removed files", "sockets": "files, sockets and pipes open"}
EXPLANATIONS |= {"threads": "processes and threads", "processes": "processes and threads"}


@confined
@pytest.mark.parametrize("hoard", HOARDS)
def test_a_run_that_takes_too_much_of_the_machine_is_ended_and_leaves_nothing(warm: Warm, hoard: str) -> None:
    body = f"import os, time\n    {HOARDS[hoard].lstrip()}\n    time.sleep(3600)"
    launched = warm.launch(before_submit(body), budget_s=20)
    failure = launched.wait()["failure"]
    assert failure["kind"] == "sandbox_violation"
    assert EXPLANATIONS.get(hoard, "on disk, 128 MB are allowed") in failure["message"]
    assert not (launched.run / "scratch").exists() and not processes_in(launched.run)


HURRIED = """
from dataclasses import replace
from autoresearch_mcp.trainer import launch, prepare

prepare.PROFILES["tiny"] = replace(prepare.PROFILES["tiny"], score_cpu_s=2.0)
launch.main()
"""


def test_a_model_that_takes_the_cores_of_others_while_scored_is_ended(data: Path, tmp_path: Path) -> None:
    hurried = Warm(data, tmp_path, program=("-c", HURRIED))
    busy = "        self.asked = getattr(self, 'asked', 0) + 1\n        while self.asked > 3: pass\n        return self.table(idx)"
    failure = hurried.launch(answering(busy)).wait()["failure"]
    hurried.close()
    assert failure["kind"] == "invalid_model" and "more than 2 CPU seconds" in failure["message"]


@pytest.fixture(scope="module")
def hanging(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Started first and asked for last: it takes as long as scoring may take. Runs of other tests are no neighbours, which would stop."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    parent = Warm(data, elsewhere, {"TMPDIR": str(elsewhere)})
    yield parent.launch(answering("        import time; time.sleep(3600)"))
    parent.close()


def test_a_model_that_eats_memory_while_scored_is_ended(warm: Warm, hanging: Launched) -> None:
    grow = "        self.hogs = [*getattr(self, 'hogs', ()), bytearray(b'x') * (300 << 20)]\n        return self.table(idx)"
    failure = warm.launch(answering(grow)).wait()["failure"]
    assert failure["kind"] == "oom" and "3072 MB" in failure["message"]


def test_the_memory_shared_with_the_scorer_keeps_its_size(warm: Warm) -> None:
    """Cut short, it would end the scorer as it reads; grown, it would hold what no process is counted for."""
    resize = """
        import os
        for descriptor in range(3, 20):
            try:
                size = os.fstat(descriptor).st_size
            except OSError:
                continue
            if size:
                os.ftruncate(descriptor, SIZE)"""
    for size in ("size // 2", "2 * size"):
        failure = warm.launch(answering(resize.replace("SIZE", size) + "\n        return self.table(idx)")).wait()["failure"]
        assert failure["kind"] == "invalid_model" and "PermissionError" in failure["message"]


def test_a_model_that_fills_the_disk_while_scored_is_ended(warm: Warm) -> None:
    hoard = "        for n in range(20):\n            open(str(n), 'wb').write(bytes(16 << 20))\n        while True: pass"
    failure = warm.launch(answering(hoard)).wait()["failure"]
    assert failure["kind"] == "sandbox_violation" and "on disk" in failure["message"]


def test_a_model_that_hangs_while_scored_is_ended(hanging: Launched) -> None:
    result = hanging.wait(timeout_s=60)
    assert (result["state"], result["fault"], result["failure"]["kind"]) == ("crashed", "code", "invalid_model")
    assert f"longer than {prepare.PROFILES['tiny'].score_s:.0f} s" in result["failure"]["message"]
    assert not processes_in(hanging.run)
