"""Spans through OpenTelemetry's SDK; see runtime.traces, which imports this only where traces are on."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, TraceFlags
from opentelemetry.trace import SpanContext as OtelSpanContext

from runtime.trace_context import SpanContext

_RANDOM_BITS = 62  # the last bits of a UUID of version 7
_QUEUED = 4096  # spans that wait to be sent; more are dropped
_SEND_S = 5.0  # limit of one request to the collector, retries included
_SEND_EVERY_MS = 1000.0
_CLOSE_S = 2.0
_LOG_EVERY_S = 60.0


class OpenSpan:
    """A span that has begun and not ended.

    Attributes:
        context: what spans within it, or links to it, refer to.
    """

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        otel = span.get_span_context()
        self.context = SpanContext(f"{otel.trace_id:032x}", f"{otel.span_id:016x}")

    def end(self, at: int | None = None, **attributes: Any) -> None:
        """Ends the span.

        Args:
            at: Unix nanoseconds; None means now.
            attributes: further attributes; "leeway." is put before their names.
        """
        self._span.set_attributes(_named(attributes))
        self._span.end(at)


class Tracer:
    """Makes spans and sends them to a collector in the background.

    Args:
        endpoint: URL of the collector, without /v1/traces.
        sample: share of groups that are traced, 0 to 1.
        process: this process's name, such as "worker-0".
        run: the run's name; may be empty.
    """

    def __init__(self, endpoint: str, sample: float, process: str, run: str) -> None:
        self._bound = sample * 2.0**_RANDOM_BITS
        self._ids = _Ids()
        service = process.rstrip("0123456789-") or process
        about = {"service.name": f"leeway-{service}", "service.instance.id": process, "leeway.run": run}
        self._provider = TracerProvider(
            resource=Resource.create({name: value for name, value in about.items() if value}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=_QUEUED, schedule_delay_millis=_SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("leeway")
        _limit_export_logs()

    def is_sampled(self, group_id: str) -> bool:
        """Whether a group is traced, which its id alone decides; a malformed id is not."""
        try:
            return int(group_id.replace("-", "")[16:], 16) & (1 << _RANDOM_BITS) - 1 < self._bound
        except ValueError:
            return False

    def context_of(self, group_id: str, traceparent: str) -> SpanContext | None:
        """Span context that a group carries in ``traceparent`` ("" for none); None when the group is not traced here."""
        return SpanContext.parse(traceparent) if traceparent and self.is_sampled(group_id) else None

    def root(self, name: str, group_id: str, start: int, **attributes: Any) -> OpenSpan:
        """Begins the first span of a group's trace. ``start``: Unix nanoseconds."""
        with self._ids.fix(trace=int(group_id.replace("-", ""), 16)):
            return self._begin(name, None, start, (), attributes)

    def child(
        self,
        name: str,
        parent: SpanContext,
        start: int | None = None,
        links: tuple[SpanContext, ...] = (),
        **attributes: Any,
    ) -> OpenSpan:
        """Begins a span within ``parent``. ``start``: Unix nanoseconds; None means now."""
        return self._begin(name, parent, start, links, attributes)

    def version(self, context: SpanContext, start: int, **attributes: Any) -> OpenSpan:
        """Begins the span "version" of a published version, under the ids that ``context`` gives."""
        with self._ids.fix(trace=int(context.trace_id, 16), span=int(context.span_id, 16)):
            return self._begin("version", None, start, (), attributes)

    def close(self) -> None:
        """Sends the spans that wait, for at most two seconds: a collector that does not answer holds nobody up."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_CLOSE_S)

    def _begin(
        self,
        name: str,
        parent: SpanContext | None,
        start: int | None,
        links: tuple[SpanContext, ...],
        attributes: dict[str, Any],
    ) -> OpenSpan:
        above = trace.INVALID_SPAN_CONTEXT if parent is None else _otel_context(parent)
        span = self._tracer.start_span(
            name,
            # Never the ambient context: spans of other libraries in this process must not become parents.
            context=trace.set_span_in_context(NonRecordingSpan(above), Context()),
            start_time=time.time_ns() if start is None else start,
            links=[Link(_otel_context(link)) for link in links],
            attributes=_named(attributes),
        )
        return OpenSpan(span)


class _Ids(RandomIdGenerator):
    """Random trace and span ids, except where they derive from a group's id or a manifest's digest."""

    def __init__(self) -> None:
        self._fixed = threading.local()

    def fix(self, trace: int, span: int | None = None) -> _Ids:
        """Sets the ids of the spans that this thread begins inside the `with` block; ``span`` None stays random."""
        self._fixed.trace, self._fixed.span = trace, span
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._fixed.trace = self._fixed.span = None

    def generate_trace_id(self) -> int:
        return getattr(self._fixed, "trace", None) or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return getattr(self._fixed, "span", None) or super().generate_span_id()


class _RateLimit(logging.Filter):
    """Passes one record per logger and minute: while a collector is down, the exporter logs every second."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next.get(record.name, 0.0):
            return False
        self._next[record.name] = now + _LOG_EVERY_S
        return True


def _limit_export_logs() -> None:
    limit = _RateLimit()
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            logging.getLogger(name).addFilter(limit)


def _otel_context(context: SpanContext) -> OtelSpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return OtelSpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"leeway.{name}": value for name, value in attributes.items()}
