"""`GET /metrics`: the lab in numbers, as Prometheus reads them. Nothing hidden is among them."""

from collections.abc import Mapping, Sequence

import anyio.to_thread
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Send

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.mcp.door import Door
from autoresearch_mcp.server.mcp.timing import CallTimes

PATH = "/metrics"
TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float | None]


class MetricsDoor(Door):
    """Answers `GET /metrics` to all who may read, and passes everything else on."""

    path = PATH

    def __init__(self, lab: Lab, security: TransportSecuritySettings, app: ASGIApp, times: CallTimes) -> None:
        super().__init__(lab, security, app)
        self._times = times

    def refusal(self, request: Request) -> Response | None:
        """Refuse what is no GET of just this path."""
        if request.url.path != PATH:
            return PlainTextResponse("Not Found", 404)
        return None if request.method == "GET" else PlainTextResponse("Only GET is served here.\n", 405, {"Allow": "GET"})

    async def answer(self, request: Request, send: Send) -> None:
        """Read the lab's status, and write it and this server's calls as metrics."""
        try:
            status = await anyio.to_thread.run_sync(self._lab.status, False)
            response: Response = Response(exposition(status) + calls(self._times), media_type=TYPE)
        except LabError as error:
            response = PlainTextResponse(f"{mask_paths(str(error), self._lab.root)}\n", 503)
        await response(request.scope, request.receive, send)


def exposition(status: a.StatusAnswer) -> str:
    """Return a status in Prometheus' text format. What isn't known yet is left out."""
    budget, training, money = status.budget, status.training, status.budget.usd
    gauges: list[tuple[str, str, Sequence[Sample]]] = [
        ("experiments", "Experiments by state.", [({"state": state}, count) for state, count in sorted(status.counts.items())]),
        ("champion_metric", "Mean of the lab's metric over the champion's replicates.", [({}, status.champion.mean)]),
        ("champion_replicates", "Trainings of the champion that count.", [({}, status.champion.n)]),
        ("noise_sd", "Standard deviation of the metric between replicates of one commit.", [({}, status.noise_sd)]),
        ("promotions_total", "Promotions so far.", [({}, status.promotions)]),
        ("expected_false_promotions", "Promotions of what is no better, at most, on average.", [({}, status.expected_false_promotions)]),
        ("budget_device_seconds", "Device seconds that the lab may use.", [({}, budget.total_s)]),
        ("spent_device_seconds", "Device seconds that ended trainings used.", [({}, budget.spent_s)]),
        ("reserved_device_seconds", "Device seconds that open trainings may use.", [({}, budget.reserved_s)]),
        (
            "author_device_seconds",
            "Device seconds that ended trainings used, by author.",
            [({"author": author}, seconds) for author, seconds in status.cost_by_author.items()],
        ),
        ("budget_usd", "Money that the lab may use.", [({}, money.total if money else None)]),
        ("spent_usd", "Money that was spent.", [({}, money.spent if money else None)]),
        ("slots", "Trainings that run at once.", [({}, training.slots if training else None)]),
        ("runner_up", "Whether the runner's process is alive. It starts on demand.", [({}, float(status.runner))]),
        ("unflushed_records", "Records that are not in the shared log yet.", [({}, status.unflushed)]),
        ("warnings", "Warnings that get_status shows.", [({}, len(status.warnings))]),
    ]
    lines = []
    for name, meaning, samples in gauges:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP autoresearch_{name} {meaning}", f"# TYPE autoresearch_{name} {kind}"]
            lines += [f"autoresearch_{name}{_labels(labels)} {float(value):.10g}" for labels, value in known]
    return "\n".join(lines) + "\n"


def calls(times: CallTimes) -> str:
    """Return the calls that a server answered since it started, in Prometheus' text format."""
    count, seconds = "autoresearch_tool_calls_total", "autoresearch_tool_call_seconds"
    lines = [f"# HELP {count} Calls of this server's tools, by what came of them.", f"# TYPE {count} counter"]
    lines += [f"{count}{_labels(labels)} {value:.10g}" for labels, value in times.counts()]
    lines += [f"# HELP {seconds} How long they took.", f"# TYPE {seconds} histogram"]
    lines += [f"{seconds}{end}{_labels(labels)} {value:.10g}" for end, (labels, value) in times.histogram()]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
