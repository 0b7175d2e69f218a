"""Tracing: a span for each run, for whoever collects OpenTelemetry's.

The parent of a run's span is the span of the run that wrote the version it is for, so a pipeline is one trace; what other
events of a batch come from are links. Which span a run had is remembered in memory, for the last runs only: after a start
a chain that goes on begins a trace of its own.

Nothing is traced unless the environment names an exporter (``OTEL_TRACES_EXPORTER``, as every program with OpenTelemetry
reads it) and the SDK is installed.

Source: OpenTelemetry's specification of traces and of environment variables.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from triggers.run import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import SpanContext, Tracer

    from triggers.run import Done, Run

__all__ = ["Tracing", "open_tracing"]

REMEMBERED_RUNS = 10_000
EXPORTER = "OTEL_TRACES_EXPORTER"

_log = logging.getLogger("cascadefs.triggers")


class Tracing:
    """Makes spans of runs that have ended."""

    def __init__(self, tracer: Tracer, close: Callable[[], None] = lambda: None) -> None:
        """`close` hands over what is still kept; it may wait for a collector."""
        self._tracer = tracer
        self.close = close
        self._spans: OrderedDict[str, SpanContext] = OrderedDict()

    def ended(self, run: Run, result: Done | Failed) -> None:
        """A run came back."""
        from opentelemetry import trace

        sources = dict.fromkeys(event.writer_run for event in run.events)
        known = [self._spans[source] for source in sources if source in self._spans]
        context = None
        if known:
            context = trace.set_span_in_context(trace.NonRecordingSpan(known[0]))
        first = run.events[0]
        span = self._tracer.start_span(
            run.binding.encode(errors="backslashreplace").decode(),
            context,
            trace.SpanKind.CONSUMER,
            links=[trace.Link(one) for one in known[1:]],
            start_time=result.started_ns or None,
            attributes={
                "cascadefs.run": _plain(run.id),
                "cascadefs.base": _plain(run.script.base_path),
                "cascadefs.script": run.script.id,
                "cascadefs.trigger": _plain(f"{first.path}@v{first.version}"),
                "cascadefs.events": len(run.events),
                "cascadefs.attempt": first.attempt,
                "cascadefs.hops": first.hops,
                "cascadefs.root": _plain(first.root),
                "cascadefs.cut": run.timestamp,
            },
        )
        if isinstance(result, Failed):
            span.set_status(trace.StatusCode.ERROR, _plain(f"{result.kind}: {result.message}"))
        else:
            self._spans[run.id] = span.get_span_context()
            if len(self._spans) > REMEMBERED_RUNS:
                self._spans.popitem(last=False)
        span.end(result.started_ns + result.duration_ns if result.started_ns else None)


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """What the environment asks for; None if that is nothing, or cannot be had, which is logged."""
    name = environment.get(EXPORTER, "none")
    if name == "none":
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("%s=%s: opentelemetry-sdk is not installed; no spans", EXPORTER, name)
        return None
    found = importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name)
    exporter = next(iter(found), None)
    if exporter is None:
        _log.warning("%s=%s: there is no such exporter installed; no spans", EXPORTER, name)
        return None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    return Tracing(provider.get_tracer("cascadefs"), provider.shutdown)


def _plain(text: str) -> str:
    """Names that are no UTF-8 have their bytes shown."""
    return text.encode(errors="backslashreplace").decode()
