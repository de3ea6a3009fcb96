"""Traces of OpenTelemetry, from a request through the steps that it began. FastAPI makes the requests' spans.

Off unless one of the standard variables names where they go; then the extra `tracing` has to be installed.
Everything else about them is said by OpenTelemetry's own variables, too.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PREFIX = "fewbits"
NOT_INSTALLED = (
    "{name} is set, but the libraries that send traces are not installed; "
    "unset it, or: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
)
_tracer = trace.get_tracer(PREFIX)
_w3c = TraceContextTextMapPropagator()


def configure(role: str) -> None:
    """Send this process's spans to where the environment says, in the background.

    Raises:
        SystemExit: An endpoint is named, and the libraries are not installed.
    """
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SystemExit(NOT_INSTALLED.format(name=named)) from error
    service = os.environ.get("OTEL_SERVICE_NAME", f"{PREFIX}-{role}")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, parent: str | None, kind: SpanKind, ids: Mapping[str, object]) -> Iterator[Span]:
    """What happens in this block; `parent` is a `traceparent` (W3C Trace Context), if there is one."""
    context = _w3c.extract({"traceparent": parent}) if parent else None
    with _tracer.start_as_current_span(
        name, context=context, kind=kind, attributes=attributes(ids)
    ) as current:
        yield current


def attributes(ids: Mapping[str, object]) -> dict[str, AttributeValue]:
    """Ids as a span has them."""
    return {f"{PREFIX}.{name}": str(value) for name, value in ids.items() if value is not None}


def traceparent() -> str | None:
    """What later work needs to join the span of now; None when there is none."""
    found: dict[str, str] = {}
    _w3c.inject(found)
    return found.get("traceparent")
