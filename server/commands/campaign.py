"""`autoresearch-mcp campaign`: an orchestrator and workers overnight, each a client's own process without a terminal.

Promises: an agent that ends is started again with what the lab is about then, after a failure later and later, and after its account's
limit when its client says so. The campaign stops at the lab's budget, where agents may finish what they are at; at the goal, when the
owner pauses the lab, after --for, at Ctrl-C or SIGTERM. No agent outlives it: those of a campaign that was killed are ended by the next
one. What agents print stays in transcripts.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO

from autoresearch_mcp.contracts import contract
from autoresearch_mcp.server.commands.arguments import add_lab, duration, existing_lab, on_the_command_line, say
from autoresearch_mcp.server.commands.client_limits import wait_s
from autoresearch_mcp.server.commands.headless import Agent, Headless
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.continuing import USED_UP, end, wake_up
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.retry import woken
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import files

EXAMPLES = (
    'autoresearch-mcp campaign --with "claude -p" --workers 2 my-lab',
    'autoresearch-mcp campaign --with "codex exec --skip-git-repo-check" --direction "learning-rate schedules" --goal 1.30 my-lab',
    'autoresearch-mcp campaign --with "gemini -p" --url https://lab.example/mcp --for 10h my-lab',
)
_TOKENS_S = 14 * 86_400.0
_GRACE_S = 10.0
_LOOK_S = 2.0
_CLOSING_S = 600.0  # for agents to ask the gate and to note what they learned, once nothing more can be trained
_SHORT_S = 30.0  # sessions that end so soon start again later and later: each costs its account something
_LIMIT_WORDS = 500  # a client that ends well at its limit prints little else
_TAIL = 4_000
_DIRECTION = "anything that improves the metric"
_HOUSE = (
    "You run without a terminal, and nobody answers questions. Use the tools of the server `autoresearch`. You are {name}: sign with it "
    "(`author`). When your session ends you are started again, so end it where a fresh start would help."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument(
        "--with",
        dest="client",
        metavar="COMMAND",
        required=True,
        help='the client\'s command without a terminal, such as "claude -p"; {prompt} stands for the prompt, which comes last otherwise',
    )
    parser.add_argument("--workers", type=int, default=2, help="how many, beside the orchestrator (default: 2)")
    parser.add_argument("--direction", default=_DIRECTION, help=f"what to look for (default: {_DIRECTION})")
    parser.add_argument("--goal", type=float, help="stop once the champion's metric has reached this")
    parser.add_argument("--for", dest="lasts", metavar="DURATION", type=duration, help="stop after this time, such as 10h")
    parser.add_argument("--url", default="", help="the lab's server over HTTP; each agent gets a token of its role for it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="for the agents' folders and transcripts (default: LAB-campaign)")
    parser.add_argument("--failures", type=int, default=8, help="give an agent up after so many failures in a row (default: 8)")


def run(arguments: argparse.Namespace) -> int:
    """Run the campaign, and say why it ended.

    Returns:
        1 where every agent was given up.
    """
    root = existing_lab(arguments.dir).resolve()
    if not 0 <= arguments.workers <= 64 or arguments.failures < 1:
        raise LabError("--workers takes 0 to 64, and --failures at least 1. Nothing was started.", "bad_option")
    if arguments.url and not arguments.url.startswith(("http://", "https://")):
        raise LabError(f"--url {arguments.url[:200]!r} is no address: it starts with http:// or https://.", "bad_url")
    client = Headless.parse(arguments.client)
    out = (arguments.out or root.with_name(f"{root.name}-campaign")).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "campaign.lock").open("a+") as lock, contextlib.closing(Lab(root)) as lab:
        if not files.try_lock(lock):
            raise LabError(f"A campaign runs in {out} already. Nothing was started.", "campaign_runs")
        campaign = Campaign(lab, root, client, out, arguments)
        why = asyncio.run(campaign.run())
    say(f"The campaign ended: {why}. Transcripts: {out}")
    return int(campaign.given_up)


class Campaign:
    """Keeps a campaign's agents going until it is over."""

    def __init__(self, lab: Lab, root: Path, client: Headless, out: Path, arguments: argparse.Namespace) -> None:
        self._lab, self._root, self._client, self._arguments = lab, root, client, arguments
        workers = [f"worker-{n}" for n in range(1, arguments.workers + 1)]
        self._agents = [Agent("orchestrator", Role.ORCHESTRATOR, out / "orchestrator")]
        self._agents += [Agent(name, Role.WORKER, out / name) for name in workers]
        self._over = asyncio.Event()
        self._why = ""
        self._closing = False  # nobody is started any more
        self._sessions = 0
        self._lost = 0
        self._wake_up: list[str] = []

    @property
    def given_up(self) -> bool:
        """Whether every agent failed too often."""
        return self._lost == len(self._agents)

    async def run(self) -> str:
        """Keep the agents going; return why the campaign ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, partial(self._end, "it was stopped"))
        if why := await asyncio.to_thread(self._look):
            return why
        for agent in self._agents:
            self._client.configure(agent, self._root, self._arguments.url)
            _end_leftover(agent.folder)
        with self._tokens() as tokens:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                for agent in self._agents:
                    group.create_task(self._keep_going(agent, tokens[agent.name]))
        return self._why

    def _end(self, why: str) -> None:
        self._why = self._why or why
        self._over.set()

    async def _watch(self) -> None:
        """End the campaign when the lab says so, or the time is up."""
        deadline = time.monotonic() + (self._arguments.lasts or float("inf"))
        trouble = ""
        while not self._over.is_set():
            await self._rest(min(_LOOK_S, max(deadline - time.monotonic(), 0)))
            if time.monotonic() >= deadline:
                self._end(USED_UP if self._closing else "its time is up")
                return
            try:
                why, new = await asyncio.to_thread(self._look), ""
            except LabError as error:  # such as a busy ledger: the next look may succeed
                why, new = "", str(error)
            if new and new != trouble:
                say(f"The lab can't be read, so the campaign goes on as before: {one_line(new, 300)}")
            trouble = new
            if why == USED_UP and self._sessions:
                if not self._closing:
                    say(f"Nothing more can be trained: {why}. Who is at work may finish it, for {_CLOSING_S / 60:g} minutes at most.")
                    self._closing, deadline = True, min(deadline, time.monotonic() + _CLOSING_S)
            elif why:
                self._end(why)

    def _look(self) -> str:
        """Learn what the lab is about; return why the campaign is over, if it is."""
        status = self._lab.status()
        self._wake_up = wake_up(status)
        return end(status, self._lab.settings, self._arguments.goal, self._lab.paused_at() is not None)

    async def _rest(self, seconds: float) -> None:
        await woken(self._over, seconds)

    async def _keep_going(self, agent: Agent, token: str) -> None:
        """Start an agent again and again."""
        failures = short = 0
        while not self._over.is_set() and not self._closing:
            began = time.monotonic()
            self._sessions += 1
            try:
                status, words = await self._session(agent, token)
            except OSError as error:
                status, words = 1, str(error)
            finally:
                self._sessions -= 1
            if self._over.is_set() or self._closing:
                return
            pause = wait_s(words, datetime.now().astimezone()) if status or len(words) < _LIMIT_WORDS else None
            if pause is not None:
                say(f"{agent.name} is at its account's limit; it goes on in {pause:.0f} s.")
            elif status == 0:
                failures, short = 0, short + 1 if time.monotonic() - began < _SHORT_S else 0
                pause = min(2.0 ** max(short - 1, 0), 300.0)
            else:
                failures += 1
                if failures >= self._arguments.failures:
                    self._lost += 1
                    say(f"{agent.name} failed {failures} times in a row, and is given up. It said last: {one_line(words[-300:], 300)}")
                    if self.given_up:
                        self._end("every agent was given up")
                    return
                pause = min(2.0 ** (failures - 1), 600.0)
            await self._rest(pause)

    async def _session(self, agent: Agent, token: str) -> tuple[int, str]:
        """Run an agent's client once; return its exit status, and the end of what it printed.

        Raises:
            OSError: it can't be started, or its folder can't be written.
        """
        transcript = _transcript(agent.folder)
        command = self._client.command(self._prompt(agent), agent.folder)
        environment = os.environ | self._client.environment(agent, self._root, self._arguments.url, token)
        environment["PWD"] = str(agent.folder)  # where opencode looks for its configuration
        # A lock that the process inherits, and with it all that it starts: so a later campaign sees whether any of them is left
        with transcript.open("wb") as output, (agent.folder / "agent.lock").open("a+") as lock:
            files.try_lock(lock)
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=agent.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
            leave = asyncio.create_task(self._over.wait())
            done = asyncio.create_task(process.wait())
            try:
                (agent.folder / "agent.json").write_text(json.dumps({"pid": process.pid}), encoding="ascii")
                await asyncio.wait({leave, done}, return_when=asyncio.FIRST_COMPLETED)
            finally:  # whatever ends the campaign, an error too
                leave.cancel()
                _signal(process.pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(done), _GRACE_S)
                _signal(process.pid, signal.SIGKILL)
                status = await done
        return status, _tail(transcript)

    def _prompt(self, agent: Agent) -> str:
        direction = f"Direction of the campaign: {self._arguments.direction}."
        team = ", ".join(other.name for other in self._agents if other.role is Role.WORKER) or "none: play them yourself"
        about = [direction, f"Workers, which run beside you: {team}."] if agent.role is Role.ORCHESTRATOR else [direction]
        text = contract("orchestrator" if agent.role is Role.ORCHESTRATOR else "worker")
        return "\n\n".join([_HOUSE.format(name=agent.name), *about, "\n".join(one_line(line, 400) for line in self._wake_up), text])

    @contextlib.contextmanager
    def _tokens(self) -> Iterator[dict[str, str]]:
        """Make each agent a token for a server over HTTP, and revoke them in the end. Clients that start a server need none."""
        if not self._arguments.url:
            yield {agent.name: "" for agent in self._agents}
            return
        with contextlib.closing(Ledger(LabPaths(self._root).ledger)) as ledger:
            yield from self._made_tokens(ledger)

    def _made_tokens(self, ledger: Ledger) -> Iterator[dict[str, str]]:
        """Replace what a campaign left that was killed; a token of such a name that a person made is nobody's to take.

        Raises:
            LabError: `token_exists`.
        """
        valid = {token.name for token in ledger.tokens().values() if token.valid}
        secrets = {}
        try:
            for agent in self._agents:
                ours = agent.name in valid and _token_mark(agent).exists()
                secrets[agent.name] = ledger.add_token(agent.name, agent.role, time.time() + _TOKENS_S, replace=ours)
                _token_mark(agent).touch()
                on_the_command_line(ledger.record_change, "token create", f"{agent.name} as {agent.role}")
            yield secrets
        finally:
            for agent in self._agents:
                if agent.name in secrets:
                    ledger.revoke_token(agent.name)
                    _token_mark(agent).unlink(missing_ok=True)
                    on_the_command_line(ledger.record_change, "token revoke", agent.name)


def _token_mark(agent: Agent) -> Path:
    """Return the file that is there while the agent's token is the campaign's own."""
    return agent.folder / "token-made"


def _end_leftover(folder: Path) -> None:
    """End what a campaign left running that was killed. Its lock is held for as long as any of its processes lives."""
    with (folder / "agent.lock").open("a+") as lock, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pid = int(json.loads((folder / "agent.json").read_text("ascii"))["pid"])
        if not files.try_lock(lock):
            _signal(pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _transcript(folder: Path) -> Path:
    last = max((int(path.stem.rpartition("-")[2]) for path in folder.glob("transcript-*.txt")), default=0)
    return folder / f"transcript-{last + 1:04}.txt"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        _seek_back(file, _TAIL)
        return file.read().decode("utf-8", "replace")


def _seek_back(file: IO[bytes], most: int) -> None:
    file.seek(max(file.seek(0, os.SEEK_END) - most, 0))
