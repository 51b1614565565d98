"""What a scripted model does in a lab of tumours (`init --example tabular`): a first campaign alone, or a role in a campaign of several."""

from autoresearch_mcp.server.commands.examples import EXAMPLES
from tests.acceptance.scripted_model import Script, said

UNTIL_DECIDED = "Train until it is decided."
BETTER, WORSE = EXAMPLES["tabular"].better, EXAMPLES["tabular"].worse


def first_campaign(prompt: str) -> Script:
    """Measure the champion, propose a better one, have it trained, and ask the gate: until it promotes, where the prompt wants that."""
    yield "get_status", {}
    yield from _ended(said((yield "launch_training", {"commit": "champion"}), "experiments"))
    edits = [{"path": "train.py", "search": BETTER.search, "replace": BETTER.replace}]
    commit = said((yield "propose_patch", {"hypothesis": BETTER.hypothesis, "edits": edits}), "commit")
    if UNTIL_DECIDED in prompt:
        launched = yield "launch_training", {"commit": commit, "until": "decided", "idempotency_key": "the-first"}
        yield from _ended(said(launched, "until_decided"))
    else:
        yield from _ended(said((yield "launch_training", {"commit": commit, "replicates": 1}), "experiments"))
    verdict = yield "promote_commit", {"commit": commit}
    yield "write_memory", {"kind": "finding", "text": "More trees help.", "commits": [commit]}
    return f"Of {commit}, promoted is {said(verdict, 'promoted')}: {said(verdict, 'code')}."


def _ended(id: str) -> Script:
    """Wait for as long as it takes."""
    while said((yield "wait_for_experiments", {"ids": [id], "timeout_s": 30}), "done") != "true":
        pass
    return ""


def role(prompt: str) -> Script:
    """Play the role that the prompt of `autoresearch-mcp campaign` gives."""
    yield "get_status", {}
    if "You are orchestrator:" in prompt:
        yield "search_memory", {"query": ""}
        yield "wait_for_experiments", {"timeout_s": 5}
        return "Nothing to decide."
    edits = [{"path": "train.py", "search": WORSE.search, "replace": WORSE.replace}]
    commit = said((yield "propose_patch", {"hypothesis": WORSE.hypothesis, "edits": edits, "author": "worker-1"}), "commit")
    launched = yield "launch_training", {"commit": commit, "replicates": 1, "author": "worker-1"}
    if "Not queued" not in launched:
        yield from _ended(said(launched, "experiments"))
    return "One more."
