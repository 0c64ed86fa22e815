"""One OpenTelemetry trace per request, where that is asked for: a server span under the caller's W3C ``traceparent``, and in
it decode, validate, features, model, log. Times only; no value of a request is in a span.

The path notes instants (``Marks``); spans are made from them after the answer is built, by a thread that may drop them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import BadConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from holdfast.serving.wire import Request

EXPORT_SECONDS = 2.0
log = logging.getLogger("holdfast.serving.tracing")


class Marks:
    """What one request spent its time on: (name, begin, end) on ``time.perf_counter_ns``, and plain attributes."""

    __slots__ = ("about", "steps")

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.about: dict[str, Any] = {}

    def add(self, name: str, begin: int, end: int) -> None:
        """A step that took from ``begin`` to ``end``."""
        self.steps.append((name, begin, end))


class Tracing:
    """Spans of one replica."""

    def __init__(self, provider: TracerProvider, *, service: str, environment: str, replica: str) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("holdfast.serving")
        self._extract = TraceContextTextMapPropagator().extract
        self._kind, self._error = SpanKind.SERVER, Status(StatusCode.ERROR)
        self._fixed = {"holdfast.service": service, "holdfast.environment": environment, "holdfast.replica": replica}

    def finish(self, request: Request, marks: Marks, route: str, status: int) -> None:
        """Emit the request's spans."""
        from opentelemetry.trace import set_span_in_context

        end = time.perf_counter_ns()
        wall = time.time_ns() - end
        carrier = {
            name: value.decode("ascii", "replace")
            for name, key in (("traceparent", b"traceparent"), ("tracestate", b"tracestate"))
            if (value := request.headers.get(key)) is not None
        }
        root = self._tracer.start_span(
            f"{request.method} {route}",
            context=self._extract(carrier),
            kind=self._kind,
            start_time=request.received + wall,
            attributes={
                **self._fixed, "http.request.method": request.method, "http.route": route,
                "http.response.status_code": status, **marks.about,
            },
        )  # fmt: skip
        if root.is_recording():
            if status >= 500:
                root.set_status(self._error)
            inside = set_span_in_context(root)
            for name, first, last in marks.steps:
                self._tracer.start_span(name, context=inside, start_time=first + wall).end(last + wall)
        root.end(end + wall)

    def close(self) -> None:
        """Send what is waiting; what a collector does not take in time is lost."""
        self._provider.shutdown()


def require(url: str) -> None:
    """Raises:
    BadConfig: the URL is none, or OpenTelemetry is not installed."""
    from importlib.util import find_spec

    if not url.startswith(("http://", "https://")):
        raise BadConfig(f"{url!r} is no collector", hint="write it like http://localhost:4318")
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http") and find_spec("opentelemetry.sdk")
    except ModuleNotFoundError:
        found = None
    if not found:
        raise BadConfig("traces need OpenTelemetry", hint="pip install 'holdfast[otel]'")


def to_collector(
    url: str, *, service: str, environment: str, replica: str, headers: Mapping[str, str] | None = None
) -> Tracing:
    """Tracing that exports to an OTLP/HTTP collector at ``url`` (``http://localhost:4318``). Sampling is OpenTelemetry's:
    ``OTEL_TRACES_SAMPLER``, and the caller's own decision in ``traceparent``.

    Raises:
        BadConfig: the extra is not installed, or the URL is none.
    """
    require(url)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # A collector that is away is its own trouble, told once in a while, never the callers'.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(
        endpoint=f"{url.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS, headers=dict(headers or {}) or None
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=EXPORT_SECONDS * 1000))
    return Tracing(provider, service=service, environment=environment, replica=replica)
