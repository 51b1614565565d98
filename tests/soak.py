"""Many clients of one lab over HTTP for minutes, while its server is killed again and again: errors, latency, memory, and what was lost.

A quarter each waits, reads, proposes and looks at the page. In between, while they rest, a bare server has the same load: what the machine does to
one in ten minutes it does to both. `make soak` prints a table (MINUTES=10 CLIENTS=256 SOAK_KILLS=10 THINK=10); the same for
seconds is a test. A call that a dying server didn't answer is made again, as agents do: that is no error. Anything else that isn't a good answer is.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths
from tests.bench.http_calls import META
from tests.bench.servers import bare_over_http, mirror_over_http
from tests.ports import free_port

HERE = Path(__file__).parents[1]
PAUSES_S = {"waits": (0.5, 1.5), "reads": (0.5, 1.5), "proposes": (1.5, 4.5), "looks": (0.5, 1.5)}  # while an agent thinks
KILLED_UNTIL = 0.65  # share of the time; memory is compared within the last life
BESIDE = 16  # clients of the lab for each of a bare server that is asked meanwhile
SOON_S = 3.0  # after a kill, while libraries are loaded, but a 20th of it all at most; as often as it is killed, more than 1 of 100 reads begin then
BREAKS = 5  # in which the bare server at the same load is asked
REST_S = 3.0  # at the most, until the calls under way have ended
READS = ("get_status", "query_experiments", "read_file", "search_memory")


@dataclass
class Heard:
    """What the clients were answered."""

    calls: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    cut: int = 0  # calls that a dying server didn't answer
    reads: list[float] = field(default_factory=list)  # seconds
    soon: list[float] = field(default_factory=list)  # of those that began in the first seconds of a server's life
    warm_at: float = 0.0  # the latest server, when its first seconds are over
    busy_at: float = 0.0  # when all clients are at work again, after a break
    answers: dict[str, object] = field(default_factory=dict)  # the latest, by tool and path
    mirrored: list[float] = field(default_factory=list)  # reads of a bare server that answers the same, with the same clients of all kinds
    bare: list[float] = field(default_factory=list)  # a bare server's bare tool, with as many clients
    beside: list[float] = field(default_factory=list)  # of one that is asked together with a warm lab: what the machine makes of it
    commits: set[str] = field(default_factory=set)
    proposed: deque[str] = field(default_factory=lambda: deque(maxlen=64))  # the latest of them
    memories: set[str] = field(default_factory=set)
    experiments: set[str] = field(default_factory=set)
    events: int = 0

    def save_answers(self, path: Path) -> None:
        """Write the latest answers for the bare server that gives the same."""
        path.write_text(json.dumps(self.answers), encoding="utf-8")


class Line:
    """A connection to a server, opened again where it was cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Return the status and the body of an answer.

        Raises:
            OSError, EOFError: the server went away.
        """
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # servers close what is idle for seconds
        try:
            reader, writer = self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            writer.write(
                f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{headers}{length}\r\n".encode() + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            if "transfer-encoding: chunked" in head:
                return status, b"".join([part async for part in chunks(reader)])
            return status, await reader.readexactly(
                int(head.split("content-length:")[1].split("\r\n")[0]) if "content-length:" in head else 0
            )
        except (OSError, EOFError):
            self.close()
            raise

    async def events(self, path: str, heard: Callable[[], Awaitable[None]]) -> None:
        """Follow server-sent events until the server goes away."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            async for part in chunks(reader):
                if b"data:" in part:
                    await heard()
        finally:
            writer.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def chunks(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    """Yield the parts of a chunked body.

    Raises:
        EOFError: the server went away in between.
    """
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")


class Served:
    """The server under test, which is killed and started again at one address."""

    def __init__(self, root: Path) -> None:
        self.root, self.port, self.kills = root, free_port(), 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", str(self.root), "--http", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        assert self.process.stdout is not None and "Serving" in self.process.stdout.readline()

    async def kill(self) -> None:
        """Kill it at once, and start another."""
        self.stop()
        self.kills += 1
        await asyncio.to_thread(self.start)

    def rss_mb(self) -> float:
        """Return the memory that it and the processes beside it hold."""
        pages = sum(int(stat[21]) for stat in self._stats())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """Return the seconds of a core that they used."""
        return sum(int(ticks) for stat in self._stats() for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")  # with those that ended

    def _stats(self) -> Iterator[list[str]]:
        """Yield what the kernel says of it and its children, from the state on."""
        listed = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for pid in (self.process.pid, *(int(pid) for each in listed for pid in each.read_text(encoding="ascii").split())):
            with contextlib.suppress(OSError):  # it has ended
                yield Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


class Client:
    """An agent or a page, which goes on until it is told to stop."""

    def __init__(
        self, number: int, port: int, heard: Heard, stop: asyncio.Event, think: float, at_work: asyncio.Event | None = None
    ) -> None:
        self.name, self._heard, self._stop, self._think_times = f"agent-{number}", heard, stop, think
        self._at_work = at_work  # cleared in a break
        self._line, self._port = Line(port), port
        self._random, self._made = random.Random(number), 0

    async def live(self, kind: str) -> None:
        """Work in one way until the end."""
        work = {"waits": self._wait, "reads": self._read, "proposes": self._propose, "looks": self._look}[kind]
        watching = asyncio.create_task(self._watch()) if kind == "looks" else None
        await self._think(kind)
        while not self._stop.is_set():
            await work()
            await self._think(kind)
        if watching is not None:
            watching.cancel()
        self._line.close()

    async def _think(self, kind: str) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._think_times * self._random.uniform(*PAUSES_S[kind]))
            if self._at_work is None or self._at_work.is_set() or self._stop.is_set():
                return
            await self._at_work.wait()  # and think again: after a break they don't come all at once

    async def call(self, tool: str, took: list[float] | None = None, **arguments: object) -> dict[str, object]:
        """Call a tool until it is answered. A call that was cut is made again, and its time doesn't count."""
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": META}}
        headers = (
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
        )
        status, text, seconds = await self._until_answered("/mcp", json.dumps(call).encode(), headers)
        self._heard.calls[tool] += 1
        if took is not None and seconds is not None:
            took.append(seconds)
        try:
            answer = json.loads(text[text.rindex(b'{"jsonrpc"') :])
            result: dict[str, object] = answer["result"]
            assert status == 200 and not result.get("isError")
        except (ValueError, KeyError, AssertionError):
            self._heard.errors.append(f"{tool}: {status} {text[:300].decode('utf-8', 'replace')}")
            return {}
        structured = result.get("structuredContent")
        self._heard.answers[tool] = structured if isinstance(structured, dict) else answer["result"]["content"][0]["text"]
        return structured if isinstance(structured, dict) else {}

    async def _until_answered(self, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes, float | None]:
        was_cut = False
        while True:
            began = time.perf_counter()
            try:
                status, text = await self._line.ask(path, body, headers)
                return status, text, None if was_cut else time.perf_counter() - began
            except (OSError, EOFError):
                self._heard.cut += not was_cut
                was_cut = True
                await asyncio.sleep(0.1)

    async def _wait(self) -> None:
        self._made += 1
        commit = self._random.choice(
            ["champion", *self._heard.proposed]
        )  # what others proposed lately, and the champion as often as one of it
        arguments = {"commit": commit, "author": self.name, "idempotency_key": f"{self.name}-{self._made}", "confirm": True}
        ids = (await self.call("launch_training", **arguments)).get("experiments")
        if isinstance(ids, list):
            self._heard.experiments.update(ids)
            await self.call("wait_for_experiments", ids=ids, timeout_s=20)

    async def _read(self) -> None:
        tool = self._random.choice(READS)
        arguments = {"search_memory": {"query": "what was learned of widths"}, "query_experiments": {"limit": 20}}.get(tool, {})
        began, took = time.monotonic(), list[float]()
        await self.call(tool, took, **arguments)
        if began >= self._heard.busy_at:
            (self._heard.soon if began < self._heard.warm_at else self._heard.reads).extend(took)

    async def _propose(self) -> None:
        self._made += 1
        if self._made % 3 == 0:
            memory = await self.call("write_memory", kind="finding", text=f"What {self.name} learned: {self._made}.", author=self.name)
            self._heard.memories.update(id for id in [memory.get("id")] if isinstance(id, str))
            return
        edit = {"path": "train.py", "search": "SOFTCAP = 15.0", "replace": f"UNUSED = '{self.name} {self._made}'\nSOFTCAP = 15.0"}
        hypothesis = f"An unused constant changes nothing, says {self.name} for the {self._made}th time."
        proposal = await self.call("propose_patch", hypothesis=hypothesis, edits=[edit], author=self.name, base="champion")
        if isinstance(sha := proposal.get("commit"), str):
            self._heard.commits.add(sha)
            self._heard.proposed.append(sha)

    async def _look(self) -> None:
        for path in self._random.choice((["/", "/progress.json"], ["/proposals"], ["/agents"], ["/health"])):
            status, text, _ = await self._until_answered(path, headers="Prefer: wait\r\n")
            self._heard.calls[path] += 1
            self._heard.answers[path] = text.decode()
            if status != 200 or not (text.rstrip().endswith((b"</html>", b"}"))):
                self._heard.errors.append(f"{path}: {status} {text[:300].decode('utf-8', 'replace')}")

    async def _watch(self) -> None:
        async def heard() -> None:
            self._heard.events += 1

        while not self._stop.is_set():
            with contextlib.suppress(OSError, EOFError, ValueError):
                await Line(self._port).events("/events", heard)
            await asyncio.sleep(0.3)

    async def nothing(self, took: list[float], lab: Heard | None = None) -> None:
        """Call the bare server's tool at the pace of a reader; what it takes while a lab loads its libraries doesn't count, as for readers."""
        while not self._stop.is_set():
            is_cold = lab is not None and time.monotonic() < max(lab.warm_at, lab.busy_at)
            await self.call("nothing", None if is_cold else took)
            await self._think("reads")
        self._line.close()


@dataclass
class Soaked:
    """What came of it."""

    heard: Heard
    kills: int
    lost: list[str]
    memory_mb: list[float]  # of the last server and what is beside it, every second once all had called it
    cpu: float  # shares of a core that they used meanwhile

    def rows(self) -> list[tuple[str, str]]:
        """Return it as a table."""
        heard, reads, mb = self.heard, self.heard.reads, self.memory_mb
        quarters = [statistics.median(mb[n * len(mb) // 4 : (n + 1) * len(mb) // 4] or mb) for n in range(4)]
        kept = {"proposals": heard.commits, "memories": heard.memories, "trainings": heard.experiments}
        cold = []
        if soon := heard.soon:
            cold = [("  in a server's first seconds", f"{_ms(soon)}, of {len(soon)}")]
        calls = ", ".join(f"{n:,} {name}" for name, n in sorted(heard.calls.items()))
        return [
            ("answers", calls),
            ("events heard by pages", f"{heard.events:,}"),
            ("errors", f"{len(heard.errors)}{': ' if heard.errors else ''}{' | '.join(heard.errors[:5])}"),
            ("kills of the server", f"{self.kills}, which cut {heard.cut:,} calls; each was made again"),
            ("acknowledged changes", ", ".join(f"{len(ids):,} {what}" for what, ids in kept.items())),
            ("  of them lost", f"{len(self.lost)}{': ' if self.lost else ''}{', '.join(self.lost[:5])}"),
            ("a read of a warm server", _ms(reads)),
            *(
                (
                    f"  {where}",
                    f"{_ms(bare)}: a read's p99 is {p99(reads) / p99(bare):.1f} of it",
                )
                for where, bare in (
                    ("a bare server at this load", heard.mirrored),
                    ("a bare tool, as many clients", heard.bare),
                    ("a bare tool beside all that", heard.beside),
                )
            ),
            *cold,
            ("the last server's CPU, in all", f"{100 * self.cpu:.0f} % of a core"),
            (
                "its memory, in all",
                f"{', '.join(f'{each:.0f}' for each in quarters)} MB in the quarters of its last {len(self.memory_mb)} s",
            ),
        ]


def _ms(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.0f} ms, p99 {1e3 * p99(seconds):.0f} ms"


def p99(seconds: list[float]) -> float:
    """Return what 99 of 100 took at most."""
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def soak(root: Path, clients: int, seconds: float, kills: int, bare_s: float, think: float = 1.0, breaks: int = BREAKS) -> Soaked:
    """Soak a new lab in `root`.

    Args:
        root: of the lab, which is made.
        clients: how many, a quarter of each kind.
        seconds: for how long.
        kills: of the server.
        bare_s: for how long the bare server's tool is asked; the one at the same load is for twice as long, in breaks of the lab's.
        think: how many times as long as scripts the clients think.
        breaks: in which the bare server at the same load is asked.
    """
    create_lab(root, profile="tiny", budget_s=1.0)
    path = LabPaths(root).settings
    text = (
        path.read_text(encoding="utf-8")
        .replace("[training]\n", "[training]\nsmoke = false\n")
        .replace("device_hours = 8.0", "device_hours = 100000.0")
    )
    path.write_text(text, encoding="utf-8")
    LabPaths(root).state.mkdir(exist_ok=True)
    heard = Heard()
    with bare_over_http() as port:
        asyncio.run(_bare(port, clients, bare_s, think, heard))
        with _runner(root):
            served = Served(root)
            try:
                last = asyncio.run(_load(served, port, clients, seconds, kills, 2 * bare_s / breaks, breaks, think, heard))
            finally:
                served.stop()
    return Soaked(heard, served.kills, _lost(root, heard), *last)


async def _load(
    served: Served, bare: int, clients: int, seconds: float, kills: int, break_s: float, breaks: int, think: float, heard: Heard
) -> tuple[list[float], float]:
    stop, at_work, began, kinds = asyncio.Event(), asyncio.Event(), time.monotonic(), [*PAUSES_S]
    at_work.set()
    cold_s = min(SOON_S, seconds / 20)
    heard.warm_at = began + cold_s
    living = [asyncio.create_task(Client(n, served.port, heard, stop, think, at_work).live(kinds[n % 4])) for n in range(clients)]
    aside = Heard()
    living += [
        asyncio.create_task(Client(n, bare, aside, stop, think, at_work).nothing(heard.beside, heard))
        for n in range(max(1, clients // BESIDE))
    ]
    moments = [(random.Random(seconds + n).uniform(0.1, KILLED_UNTIL) * seconds, "kill") for n in range(kills)]
    moments += [((n + 1) / (breaks + 1) * KILLED_UNTIL * seconds, "break") for n in range(breaks)]
    for moment, what in sorted(moments):  # in seconds at work
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        if what == "kill":
            await served.kill()
            heard.warm_at = time.monotonic() + cold_s
        else:
            rested = time.monotonic()
            at_work.clear()
            await asyncio.sleep(min(REST_S, seconds / 20))
            await _mirrored(served.root.parent / "answers.json", clients, break_s, think, heard)
            heard.busy_at = time.monotonic() + think * max(PAUSES_S["reads"])
            at_work.set()
            began += time.monotonic() - rested
    await asyncio.sleep(max(0.1 * seconds, began + (KILLED_UNTIL + 0.1) * seconds - time.monotonic()))
    warm_at, cpu_s, memory_mb = time.monotonic(), served.cpu_s(), [served.rss_mb()]
    ends = max(began + seconds, warm_at + 0.1 * seconds)
    while time.monotonic() < ends:
        await asyncio.sleep(1.0)
        memory_mb.append(served.rss_mb())
    cpu = (served.cpu_s() - cpu_s) / (time.monotonic() - warm_at)
    await _at_least(0.0, lambda: heard.reads and heard.beside)
    stop.set()
    await asyncio.gather(*living)
    heard.errors += aside.errors
    return memory_mb, cpu


async def _bare(port: int, clients: int, seconds: float, think: float, heard: Heard) -> None:
    """Ask a bare server's bare tool: as many clients, at the pace of readers."""
    stop, aside = asyncio.Event(), Heard()
    asking = [Client(n, port, aside, stop, think).nothing(aside.bare) for n in range(clients)]
    heard.bare += await _measured(asking, stop, aside.bare, seconds, think)
    heard.errors += aside.errors


async def _mirrored(answers: Path, clients: int, seconds: float, think: float, heard: Heard) -> None:
    """Put the load of the lab on a bare server that answers what the lab answered last: the same clients, of the same kinds."""
    heard.save_answers(answers)
    stop, aside, kinds = asyncio.Event(), Heard(), [*PAUSES_S]
    with mirror_over_http(answers) as port:
        living = [Client(n, port, aside, stop, think).live(kinds[n % 4]) for n in range(clients)]
        heard.mirrored += await _measured(living, stop, aside.reads, seconds, think)
    heard.errors += aside.errors


async def _measured(
    clients: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event, took: list[float], seconds: float, think: float
) -> list[float]:
    """Have clients work for a time, and return what their calls took once all have connected."""
    working = [asyncio.create_task(each) for each in clients]
    await asyncio.sleep(think * max(PAUSES_S["reads"]) + 1)
    del took[:]
    await _at_least(seconds, lambda: took)
    stop.set()
    await asyncio.gather(*working)
    return took


async def _at_least(seconds: float, heard: Callable[[], object]) -> None:
    """Wait for a time, and where the machine is so slow that nothing was heard in it, for a minute more at most."""
    await asyncio.sleep(seconds)
    for _ in range(600):
        if heard():
            return
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def _runner(root: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "tests.soak_runner", str(root)], cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def _lost(root: Path, heard: Heard) -> list[str]:
    """Return what was acknowledged and isn't there."""
    with contextlib.closing(Lab(root)) as lab:
        experiments = {record.id for record in lab.records("experiments")}
        memories = {record.id for record in lab.records("memories")}
        commits = {sha[:12] for sha in lab.overview().proposals}
    return sorted({*(heard.experiments - experiments), *(heard.memories - memories), *({sha[:12] for sha in heard.commits} - commits)})


if __name__ == "__main__":
    minutes, clients, kills, think = (
        float(os.environ.get(name) or default) for name, default in (("MINUTES", 10), ("CLIENTS", 256), ("KILLS", 10), ("THINK", 10))
    )
    with tempfile.TemporaryDirectory() as scratch:
        soaked = soak(Path(scratch) / "lab", int(clients), 60 * minutes, int(kills), min(60.0, 15 * minutes), think)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{int(clients)} clients for {minutes:g} minutes, which think {think:g} times as long as scripts; {load}")
    for name, value in soaked.rows():
        print(f"{name:<31}{value}")
    sys.exit(bool(soaked.heard.errors or soaked.lost))
