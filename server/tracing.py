"""OpenTelemetry traces: an agent's call, what it launched, and the trainings of that are one trace.

Nothing is traced, and none of its packages imported, unless `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set
and the extra `otel` is installed. The SDK for MCP makes the spans of calls, under the trace context that a client sends. The runner adds
those of trainings once they have ended.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from autoresearch_mcp.server import __version__

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = "traceparent"
_PATIENCE_S = 2.0  # with a collector that is away, which delays a process's end too

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def exporting(process: str) -> Iterator[None]:
    """Export the traces of this process while the block runs, where its environment wants that.

    Args:
        process: what it calls itself, unless `OTEL_SERVICE_NAME` is set.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("Traces are wanted, and can't be sent: pip install 'autoresearch-mcp[otel]'")
        yield
        return
    name = os.environ.get("OTEL_SERVICE_NAME", process)
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_patience_s())))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _patience_s() -> float | None:
    """Return how long to try to send; None where the environment says it."""
    return None if any(os.environ.get(name.replace("ENDPOINT", "TIMEOUT")) for name in _ENDPOINTS) else _PATIENCE_S


def current() -> str:
    """Return the trace context of the call that is being answered, as W3C writes it; empty where it isn't traced."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().is_recording():
        return ""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_PARENT, "")


def add_training(parent: str, queued_at: float, started_at: float | None, ended_at: float, attributes: Mapping[str, Any]) -> None:
    """Add the spans of an experiment that ended: from its launch on, and within that its training.

    Args:
        parent: the trace context of the call that launched it.
        queued_at: Unix seconds.
        started_at: Unix seconds; None where it never started.
        ended_at: Unix seconds.
        attributes: what to note with it.
    """
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = trace.get_tracer("autoresearch-mcp", __version__)
    context = TraceContextTextMapPropagator().extract({_PARENT: parent})
    launch = tracer.start_span("launch", context, attributes=dict(attributes), start_time=_ns(queued_at))
    if started_at is not None:
        within = trace.set_span_in_context(launch)
        tracer.start_span("training", within, attributes=dict(attributes), start_time=_ns(started_at)).end(_ns(ended_at))
    launch.end(_ns(ended_at))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
