"""Queueing trainings."""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.promotion import WITHDRAWN
from autoresearch_mcp.server.lab.brakes import Brakes
from autoresearch_mcp.server.lab.claims import renew_claims
from autoresearch_mcp.server.lab.core import LabCore, clean_tags, without_mark
from autoresearch_mcp.server.lab.experiments import Experiments
from autoresearch_mcp.server.lab.preflight import preflight_error
from autoresearch_mcp.server.lab.reproduction import TAG, Reproduction
from autoresearch_mcp.server.lab.status import MAX_REPLICATES, LabStatus
from autoresearch_mcp.server.ledger.budget import Share
from autoresearch_mcp.server.models import ACTIVE_STATES, PAUSE, Experiment, new_id
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.untrusted import clean


class Trainings:
    """The use cases that change what is trained."""

    def __init__(self, core: LabCore, status: LabStatus, experiments: Experiments) -> None:
        self._core = core
        self._status = status
        self._experiments = experiments
        self.brakes = Brakes(core, status)

    def launch_training(
        self,
        commit: str,
        author: str,
        replicates: int = 1,
        device: str | None = None,
        idempotency_key: str | None = None,
        tags: list[str] | None = None,
        confirm: bool = True,
    ) -> a.LaunchAnswer:
        """Queue replicates of a proposal or champion, and hold back what their like has cost.

        Args:
            commit: what is trained.
            author: who asks.
            replicates: how many, each with a seed of the server's choosing.
            device: a kind of device; by default the lab's reference.
            idempotency_key: makes a retry safe: the same key with the same request queues nothing again.
            tags: added to the proposal's.
            confirm: False: refuse a launch that is seldom meant. See `Brakes`.

        Raises:
            LabError: `confirm`, `not_a_proposal`, `withdrawn`, `bad_replicates`, `unknown_device`, `over_budget`,
                `over_share`, `key_reused`, and `not_set_up` or
                `missing_package` where nothing can be trained.
        """
        core = self._core
        sha = core.commit(commit)
        proposal = core.ledger.proposal(sha)
        if proposal is None and not core.was_champion(sha):
            raise LabError(
                f"{sha[:12]} is neither a proposal nor a champion, so it can't be trained. Make a proposal of it with propose_patch.",
                "not_a_proposal",
            )
        if sha in core.ledger.withdrawn():
            raise LabError(f"{WITHDRAWN.format(sha[:12])} Nothing was queued.", "withdrawn")
        if not 1 <= replicates <= MAX_REPLICATES:
            raise LabError(f"replicates must be 1 to {MAX_REPLICATES}, got {replicates}. Nothing was queued.", "bad_replicates")
        settings = core.settings  # one snapshot: what is reserved is what runs
        reserved = self.reserved(settings, device)
        if settings.has_packages:
            core.repo.check(sha, settings.training.file)
        now = time.time()
        wanted = [
            Experiment(
                id=new_id("e"),
                commit=sha,
                base=proposal.base if proposal else sha,
                author=author,
                hypothesis=proposal.hypothesis if proposal else "baseline",
                tags=sorted({*clean_tags(tags), *(proposal.tags if proposal else [])}),
                seed=secrets.randbelow(2**31),
                created_at=now + i * 1e-6,
                **reserved,
            )
            for i in range(replicates)
        ]
        request = hashlib.sha256(json.dumps([sha, replicates, device, without_mark(author), clean_tags(tags)]).encode()).hexdigest()
        with core.ledger.snapshot():
            if not confirm and (idempotency_key is None or core.ledger.answer(idempotency_key, request) is None):
                self.brakes.check(wanted, settings)
            queued = self._enqueue(settings, wanted, idempotency_key, request)
            if queued is None:
                ids = core.ledger.answer(idempotency_key or "", request) or []
                return self._answer(sha, ids, _seeds(self._experiments.states(ids)), 0.0, True)
            answer = self._answer(sha, [e.id for e in queued], [e.seed for e in queued], sum(e.held_s for e in queued), False)
            return answer.model_copy(update={"note": " ".join([answer.note, *renew_claims(core.ledger, sha, author)])})

    def reproduce(self, id: str, author: str) -> str:
        """Queue an experiment again: the same commit, seed and kind of device. The new one counts nowhere.

        Returns:
            The id of the new experiment.

        Raises:
            LabError: `not_ended`, and those of `launch_training`.
        """
        original = self._core.experiment(id)
        if not original.terminal:
            raise LabError(f"{id} has not ended yet, so there is nothing to reproduce. Nothing was queued.", "not_ended")
        settings = self._core.settings
        again = Experiment(
            id=new_id("e"),
            commit=self._core.commit(original.commit),
            base=original.base,
            author=author,
            hypothesis=f"Reproduction of {original.id}.",
            tags=[TAG],
            seed=original.seed,
            created_at=time.time(),
            reproduces=original.id,
            **self.reserved(settings, original.device),
        )
        self._enqueue(settings, [again], None, "")
        return again.id

    def is_reproduction(self, id: str) -> bool:
        """Return whether `reproduce` queued this experiment."""
        return bool(self._core.experiment(id).reproduces)

    def reproduction(self, id: str) -> Reproduction | None:
        """Compare an experiment that `reproduce` queued with its original.

        Returns:
            The comparison, or None while the experiment has not ended.

        Raises:
            LabError: `no_reproduction`.
        """
        again = self._core.experiment(id)
        if not again.reproduces:
            raise LabError(f"{id} reproduces no other experiment. `autoresearch-mcp reproduce {id}` trains it again.", "no_reproduction")
        original = self._core.experiment(again.reproduces)
        return Reproduction(original, again, self._status.noise(original.conditions)) if again.terminal else None

    def pause(self, now: bool = False) -> int:
        """Let nothing start until `resume`. For the lab's owner.

        Args:
            now: also stop what runs. It waits again, and starts from its beginning with the same seed.

        Returns:
            How many trainings run, or are being stopped.
        """
        core = self._core
        core.ledger.pause()
        active = core.ledger.open_experiments(*ACTIVE_STATES)
        for e in active if now else []:
            if not e.cancel_requested:
                core.ledger.request_cancel(e.id, PAUSE)
        core.wake()
        return len(active)

    def resume(self) -> bool:
        """Let trainings start again. Returns whether the lab was paused."""
        was_paused = self._core.ledger.resume()
        self._core.wake()
        return was_paused

    def reserved(self, settings: Settings, device: str | None) -> dict[str, Any]:
        """Return an experiment's kind of device, and what it can and is expected to cost there."""
        kinds = settings.devices
        if device is not None and device not in kinds:
            raise LabError(f"This lab trains on {' or '.join(kinds)}, not on {clean(device)[:40]!r}. Nothing was queued.", "unknown_device")
        if why := preflight_error(settings, self._core.state):
            raise LabError(f"{why} Nothing was queued.", "not_set_up" if settings.rents else "missing_package")
        kind, most = device or kinds[0], settings.longest_s()
        like_it = self._core.ledger.typical_s(settings.launch(), kind) or 0.0
        return {"device": kind, "reserved_s": most, "expected_s": min(like_it, most), "reserved_usd": most * settings.usd_per_s(kind)}

    def _enqueue(self, settings: Settings, experiments: list[Experiment], key: str | None, request: str) -> list[Experiment] | None:
        ledger, share = self._core.ledger, Share.of(settings.swarm)
        queued = ledger.enqueue(
            experiments, settings.budget.device_hours * 3600, key, request, settings.budget.usd, settings.launch(), share=share
        )
        self._core.wake()
        return queued

    def answer_of(self, ids: list[str], commit: str, repeated: bool, note: str) -> a.LaunchAnswer:
        """Return the answer to a launch whose experiments are queued or have ended."""
        lines = self._experiments.states(ids)
        reserved_s = sum(e.held_s for e in self._core.ledger.open_experiments() if e.id in ids)
        return self._answer(commit, ids, _seeds(lines), 0.0 if repeated else reserved_s, repeated, note)

    def _answer(
        self, commit: str, ids: list[str], seeds: list[int], reserved_s: float, repeated: bool, note: str | None = None
    ) -> a.LaunchAnswer:
        if note is None and repeated:
            note = "This key was used for this launch before: these are its experiments."
        elif note is None:
            note = "Queued. Wait with wait_for_experiments."
        if self._core.stalled():
            note += f" Nothing starts until the lab's owner corrects lab.toml. {self._core.settings_file.problem()}"
        if self._core.ledger.paused_at() is not None:
            note += " The lab's owner has paused the lab: it starts once they resume it."
        if not repeated:
            note += f" {self._status.forecast(self._core.ledger.open_experiments()).in_words(ids)}"
        left = self._status.budget().left_s
        return a.LaunchAnswer(
            experiments=ids, seeds=seeds, commit=commit, repeated=repeated, reserved_s=reserved_s, budget_left_s=left, note=note
        )


def _seeds(lines: Sequence[a.ExperimentLine]) -> list[int]:
    return [line.seed for line in lines if line.seed is not None]
