"""Traces of calls and of the trainings that they launched, as a real collector on this machine receives them."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.test_http import post
from tests.standins.web import Answer, Request, served

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RUNNER = """
import sys, time
from pathlib import Path
from autoresearch_mcp.server import tracing
from autoresearch_mcp.server.ledger import Ledger
with tracing.exporting("autoresearch-runner"):
    now = time.time()
    tracing.add_training(Ledger(Path(sys.argv[1])).trace_of("", sys.argv[2]), now - 3, now - 2, now, {"experiment": sys.argv[2]})
"""


class Collector:
    """Receives spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, str, str, str]] = []  # service, name, trace, parent, own
        self.url = ""

    def answer(self, request: Request) -> Answer:
        sent = service.ExportTraceServiceRequest()
        sent.ParseFromString(request.body)
        for group in sent.resource_spans:
            (name,) = [each.value.string_value for each in group.resource.attributes if each.key == "service.name"]
            for scope in group.scope_spans:
                self.spans += [(name, s.name, s.trace_id.hex(), s.parent_span_id.hex(), s.span_id.hex()) for s in scope.spans]
        return Answer()


@pytest.fixture
def collector() -> Iterator[Collector]:
    receiver = Collector()
    with served(receiver.answer) as receiver.url:
        yield receiver


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


def test_a_call_its_launch_and_its_training_are_one_trace(runner_lab: FakeRunnerLab, collector: Collector) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    meta = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    params = {"name": "launch_training", "arguments": {"commit": "champion", "author": "ada"}, "_meta": meta}
    with served_over_http(runner_lab.root, **environment) as server:
        status, text = post(server.url, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert status == 200
        (id,) = json.loads(text[text.index("{") :])["result"]["structuredContent"]["experiments"]
        until = time.monotonic() + 20
        while not collector.spans and time.monotonic() < until:
            threading.Event().wait(0.02)
    assert runner_lab.ledger.trace_of("another", id).startswith(f"00-{TRACE}-")
    ledger = runner_lab.state / "ledger.sqlite"
    subprocess.run([sys.executable, "-c", RUNNER, str(ledger), id], env={"PATH": "", **environment}, check=True, timeout=60)
    call, launch, training = sorted(collector.spans, key=lambda span: ("tools/call launch_training", "launch", "training").index(span[1]))
    assert call[:4] == ("autoresearch", "tools/call launch_training", TRACE, CALLER)
    assert launch[:4] == ("autoresearch-runner", "launch", TRACE, call[4])
    assert training[:4] == ("autoresearch-runner", "training", TRACE, launch[4])


def test_without_a_collector_no_trace_is_kept(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root) as server:
        params = {"name": "launch_training", "arguments": {"commit": "champion", "author": "ada"}}
        assert post(server.url, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})[0] == 200
    (launched,) = runner_lab.ledger.open_experiments()
    assert runner_lab.ledger.trace_of(launched.id) == ""
