"""Spans with OpenTelemetry: one of each call, one of each batch linked with its calls, one of each statement.

Where they go and how many are kept is OpenTelemetry's own environment: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER and so on. Spans carry methods, codes, tenants and clients, never a request's content.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from holdsvc.telemetry.tracing import Host, Place

_FUNCTION = re.compile(r"holdsvc_\w+\.(\w+)")

SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Codes that make a span an error, as OpenTelemetry's conventions for gRPC servers have it: a refusal is none."""

CLOSE_S = 2.0

LINKS_MAX = 128
"""OpenTelemetry's own default for a span."""


def from_environment(listen: Host) -> "OpenTelemetry":
    """Tracing as OTEL_* say, of a service that listens there."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    name = os.environ.get("OTEL_SERVICE_NAME", "holdsvc")
    provider = TracerProvider(
        resource=Resource.create({"service.name": name, "service.version": version("holdsvc")}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetry(provider, listen)


class OpenTelemetry:
    """Makes the spans; see `telemetry.tracing.Tracing`."""

    def __init__(self, provider: TracerProvider, listen: Host) -> None:
        self._provider = provider
        self._listen: dict[str, str | int] = {"server.address": listen.address, "server.port": listen.port}
        self._tracer = provider.get_tracer("holdsvc", version("holdsvc"))
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, str | bytes], system: str = "grpc") -> Iterator[None]:
        """The span of a call, under the caller's own when its metadata names one."""
        name = method.removeprefix("/")
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract({key: value for key, value in metadata.items() if isinstance(value, str)}),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": system, "rpc.method": name, **self._listen},
        )
        # Not detached: a stream's generator may be closed in another context; a call's task ends with it anyway.
        context.attach(trace.set_span_in_context(span))
        try:
            yield
        finally:
            span.end()

    def answered(self, code: str, reason: str, tenant: str, client: str) -> None:
        """Says how the present call ended."""
        span = trace.get_current_span()
        span.set_attributes({"rpc.response.status_code": code, "holdsvc.tenant": tenant, "holdsvc.client": client})
        if reason:
            span.set_attribute("holdsvc.reason", reason)
        if code in SERVER_FAULTS:
            span.set_attribute("error.type", reason or code)
            span.set_status(Status(StatusCode.ERROR, reason or code))

    def place(self) -> Span | None:
        """The present span, where it is kept."""
        span = trace.get_current_span()
        return span if span.get_span_context().trace_flags.sampled else None

    @contextmanager
    def batch(self, lane: str, places: Sequence[Span | None]) -> Iterator[None]:
        """The span of a batch: within the first call that is kept, linked with all of them, and they with it."""
        calls = list({id(place): place for place in places if place is not None}.values())[:LINKS_MAX]
        if not calls:
            # A lane's task was made in the context of some call that has nothing to do with this batch.
            token = context.attach(context.Context())
            try:
                yield
            finally:
                context.detach(token)
            return
        with self._tracer.start_as_current_span(
            f"batch {lane}",
            context=trace.set_span_in_context(calls[0], context.Context()),
            links=[Link(call.get_span_context()) for call in calls],
            attributes={"holdsvc.lane": lane, "holdsvc.batch_size": len(places)},
            # An error's message may hold values.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            for call in calls:
                if call.is_recording():
                    call.add_link(span.get_span_context())
            yield

    @contextmanager
    def statement(self, sql: str, place: Place | None) -> Iterator[None]:
        """The span of a statement; none where nothing above it is kept, as for health checks and sweeps."""
        if self.place() is None:
            yield
            return
        found = _FUNCTION.search(sql)
        # The text has placeholders only.
        attributes: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.query.text": sql,
        }
        if found:
            attributes["db.stored_procedure.name"] = found[1]
        if place:
            attributes["db.namespace"] = place.namespace
            attributes["server.address"] = place.host.address
            attributes["server.port"] = place.host.port
        with self._tracer.start_as_current_span(
            found[1] if found else "statement",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                # The message may hold values.
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def ids(self) -> dict[str, str]:
        """trace_id and span_id of the present span, for a log line; empty outside of any."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {"trace_id": format_trace_id(found.trace_id), "span_id": format_span_id(found.span_id)}

    def close(self) -> None:
        """Sends what is left, for a short while: a collector that does not answer keeps no worker from ending."""
        shutdown = threading.Thread(target=self._provider.shutdown, name="holdsvc traces", daemon=True)
        shutdown.start()
        shutdown.join(CLOSE_S)
