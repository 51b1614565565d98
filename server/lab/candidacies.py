"""Launches until decided: the lab trains a proposal, one replicate at a time, until the gate decides."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.promotion import MEASUREMENT, WITHDRAWN
from autoresearch_mcp.server.gate.stacking import stack
from autoresearch_mcp.server.lab.claims import renew_claims
from autoresearch_mcp.server.lab.core import LabCore, checked_id, clean_tags, without_mark
from autoresearch_mcp.server.lab.trainings import Trainings
from autoresearch_mcp.server.ledger.budget import Share
from autoresearch_mcp.server.ledger.starts import settings_hash
from autoresearch_mcp.server.models import Candidacy, Experiment, Proposal, new_id
from autoresearch_mcp.server.runner.candidacies import UNDECIDED
from autoresearch_mcp.server.settings import Settings

_ID = re.compile(r"c-[0-9a-z]{15}")


class CandidacyCases:
    """The use cases around launches until decided."""

    def __init__(self, core: LabCore, trainings: Trainings) -> None:
        self._core = core
        self._trainings = trainings

    def launch_until_decided(
        self,
        commit: str,
        author: str,
        budget: float | None = None,
        idempotency_key: str | None = None,
        tags: list[str] | None = None,
        confirm: bool = True,
    ) -> a.LaunchAnswer:
        """Queue the first replicate of a proposal. The lab launches the others, one at a time, until the gate decides.

        Args:
            commit: the proposal. If the champion moved since, its change is rebased first.
            author: who asks.
            budget: the most that it may use: device hours, or USD where devices are rented.
            idempotency_key: makes a retry safe, as for `Trainings.launch_training`.
            tags: added to the proposal's.
            confirm: False: refuse a launch whose first replicate alone is seldom meant. See `Brakes`.

        Raises:
            LabError: `confirm`, `not_a_proposal`, `measurement`, `withdrawn`, `is_champion`, `stale_base`, `decided`, `over_budget`,
                `over_share`, `key_reused`, and those of a launch.
        """
        core = self._core
        sha = core.commit(commit)
        request = hashlib.sha256(json.dumps([sha, "decided", budget, without_mark(author), clean_tags(tags)]).encode()).hexdigest()
        if idempotency_key and (known := core.ledger.answer(idempotency_key, request)):
            return self._answer(self._known(known[0]), repeated=True)
        proposal = self._on_champion(sha)
        if (open_ := core.ledger.candidacy_of(proposal.commit)) is not None and open_.state == "open":
            return self._answer(open_, repeated=True)
        settings = core.settings  # one snapshot: what is reserved is what runs
        verdict = core.gate.verdict(proposal.commit, core.repo.champion())
        if verdict.code not in UNDECIDED:
            raise LabError(f"Nothing was queued: the gate has decided on {proposal.commit[:12]}. {verdict.reason}", "decided")
        candidacy, first = self._first(proposal, settings, author, budget, clean_tags(tags))
        if not confirm:
            self._trainings.brakes.check([first], settings)
        queued = core.ledger.enqueue(
            [first],
            settings.budget.device_hours * 3600,
            idempotency_key,
            request,
            settings.budget.usd,
            settings.launch(),
            candidacy,
            Share.of(settings.swarm),
        )
        core.wake()
        answer = self._answer(
            candidacy if queued else self._known((core.ledger.answer(idempotency_key or "", request) or [""])[0]), not queued
        )
        return answer.model_copy(update={"note": " ".join([answer.note, *renew_claims(core.ledger, proposal.commit, author)])})

    def candidacies(self, ids: Sequence[str]) -> list[Candidacy]:
        """Return these candidacies.

        Raises:
            LabError: `unknown_experiment`.
        """
        return [self._known(id) for id in ids]

    def _on_champion(self, sha: str) -> Proposal:
        """Return the proposal to train: its change on top of the champion of now."""
        core = self._core
        champion, proposal = core.repo.champion(), core.ledger.proposal(sha)
        if sha == champion or (proposal is not None and core.ledger.proposal_of(champion) == sha):
            raise LabError("This is the champion. The lab trains it by itself, beside candidates. Nothing was queued.", "is_champion")
        if proposal is None:
            raise LabError(
                f"{sha[:12]} was not made by propose_patch, so the gate can't decide on it. Propose the change first.", "not_a_proposal"
            )
        if sha in core.ledger.measurements():
            raise LabError(f"{MEASUREMENT.format(sha[:12])} Nothing was queued.", "measurement")
        if sha in core.ledger.withdrawn():
            raise LabError(f"{WITHDRAWN.format(sha[:12])} Nothing was queued.", "withdrawn")
        if core.repo.is_ancestor(champion, sha):
            return proposal
        stacked = stack(proposal, champion, core.repo, core.ledger)
        if stacked is None:
            raise LabError(
                f"The champion moved to {champion[:12]}, and both change the same lines. Propose the idea anew on it. Nothing was queued.",
                "stale_base",
            )
        return stacked

    def _first(
        self, proposal: Proposal, settings: Settings, author: str, budget: float | None, tags: list[str]
    ) -> tuple[Candidacy, Experiment]:
        """Return a new candidacy and its first replicate."""
        reserved = self._trainings.reserved(settings, None)
        cost = reserved["reserved_usd"] if settings.rents else reserved["reserved_s"] / 3600
        if budget is not None and cost > budget:
            unit = "USD" if settings.rents else "device hours"
            raise LabError(
                f"One replicate can use {cost:.3g} {unit}, more than its budget of {budget:g}. Nothing was queued.", "over_budget"
            )
        champion, now = self._core.repo.champion(), time.time()
        owed = self._core.gate.repeats(proposal.commit, champion)
        candidacy = Candidacy(
            id=new_id("c"),
            commit=proposal.commit,
            author=author,
            tags=tags,
            device=reserved["device"],
            max_replicates=settings.promotion.max_replicates,
            budget=budget,
            settings=settings_hash(settings.launch().model_dump_json()),
            created_at=now,
        )
        first = Experiment(
            id=new_id("e"),
            commit=proposal.commit,
            base=proposal.base,
            author=author,
            hypothesis=proposal.hypothesis,
            tags=sorted({*tags, *proposal.tags}),
            seed=owed[0] if owed else secrets.randbelow(2**31),
            created_at=now,
            candidacy=candidacy.id,
            **reserved,
        )
        return candidacy, first

    def launched(self, id: str, note: str) -> a.LaunchAnswer:
        """Return the answer to an earlier launch until decided, with another note.

        Raises:
            LabError: `bad_id`, `unknown_experiment`.
        """
        candidacy = self._known(id)
        trained = self._core.ledger.trainings_of(id)
        return self._trainings.answer_of(trained, candidacy.commit, True, note).model_copy(update={"until_decided": id})

    def _known(self, id: str) -> Candidacy:
        candidacy = self._core.ledger.candidacy(checked_id(id, _ID, "a launch until decided"))
        if candidacy is None:
            raise LabError(f"There is no launch until decided {id}.", "unknown_experiment")
        return candidacy

    def _answer(self, candidacy: Candidacy, repeated: bool) -> a.LaunchAnswer:
        core = self._core
        ids = core.ledger.trainings_of(candidacy.id)
        note = (
            f"The lab trains {candidacy.commit[:12]} and the champion in turn, one replicate at a time, until the gate decides: at most "
            f"{candidacy.max_replicates}. Call wait_for_experiments(ids=[{candidacy.id!r}]), then promote_commit. To stop it: "
            f"cancel_experiment(ids=[{candidacy.id!r}])."
        )
        if repeated:
            note = f"It was launched before, nothing new was queued. {note}"
        return self._trainings.answer_of(ids, candidacy.commit, repeated, note).model_copy(update={"until_decided": candidacy.id})
