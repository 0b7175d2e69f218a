"""Spans of runs: a pipeline is one trace, a batch has links, a failure says so. With OpenTelemetry's exporter in memory."""

from __future__ import annotations

import trio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from triggers.engine import Options
from triggers.testing import Cascade
from triggers.tracing import Tracing, open_tracing

CHAIN = """
from cascadefs.triggers import watch

@watch("in/*", emit="mid/", attempts=2, backoff="1ms")
def first(event, ctx):
    if event.data == b"bad":
        raise ValueError("no good")
    ctx.emit(event.name, event.data)

@watch("mid/*", batch=2, wait="1s")
def second(events, ctx):
    ctx.put("out", b"x")
"""


def traced() -> tuple[Cascade, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("test"))
    options = Options(workers=1, may_inproc=lambda _: True, traced=tracing.ended)
    cascade = Cascade(options=options)
    cascade.script("chain.py", CHAIN)
    trio.run(cascade.run_until_idle)
    return cascade, exporter


def test_a_pipeline_is_one_trace_and_a_batch_has_links():
    cascade, exporter = traced()
    cascade.put("in/a", "1")
    cascade.put("in/b", "2")
    trio.run(cascade.run_until_idle)
    one, two, both = exporter.get_finished_spans()
    assert [span.name for span in (one, two, both)] == ["chain.py:first"] * 2 + ["chain.py:second"]
    assert one.parent is None
    assert one.context.trace_id != two.context.trace_id
    assert both.parent.span_id == one.context.span_id
    assert both.context.trace_id == one.context.trace_id
    assert [link.context.span_id for link in both.links] == [two.context.span_id]
    assert both.attributes["cascadefs.trigger"] == "mid/a@v1"
    assert (both.attributes["cascadefs.events"], both.attributes["cascadefs.hops"]) == (2, 1)
    assert both.end_time >= both.start_time


def test_a_failed_run_is_a_span_with_an_error_and_nobody_s_parent():
    cascade, exporter = traced()
    cascade.put("in/a\udcff", "bad")
    trio.run(cascade.run_until_idle)
    spans = exporter.get_finished_spans()
    assert [span.attributes["cascadefs.attempt"] for span in spans] == [1, 2]
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert "no good" in spans[0].status.description
    assert spans[0].attributes["cascadefs.trigger"] == "in/a\\udcff@v1"


def test_nothing_is_traced_unless_the_environment_says_so(caplog):
    assert open_tracing({}) is None
    assert open_tracing({"OTEL_TRACES_EXPORTER": "none"}) is None
    assert open_tracing({"OTEL_TRACES_EXPORTER": "nonsuch"}) is None
    assert "there is no such exporter" in caplog.text
    assert isinstance(open_tracing({"OTEL_TRACES_EXPORTER": "console"}), Tracing)
