"""Tracing: spans of calls, batches and statements joined across the batcher; nothing at all while it is off."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from opentelemetry import context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from holdsvc.settings import Settings, SettingsError
from holdsvc.telemetry import tracing
from holdsvc.telemetry.otel import CLOSE_S, OpenTelemetry
from inventoryhold.v1 import inventory_service_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.http import GET_ITEM, request
from tests.support.polling import until

RESERVE = "inventoryhold.v1.ReservationService/Reserve"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """What a test that is no coroutine attaches goes with it: a later one's health checks would be of its trace."""
    token = context.attach(context.get_current())
    yield
    context.detach(token)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Turns tracing on; the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.active = OpenTelemetry(provider, tracing.Host("127.0.0.1", 50051))
    yield exporter
    tracing.close()


async def _named(spans: InMemorySpanExporter, name: str, count: int = 1) -> list[ReadableSpan]:
    """The spans of this name, once there are so many: that of a call ends after its answer was sent."""

    def found() -> list[ReadableSpan]:
        return [span for span in spans.get_finished_spans() if span.name == name]

    await until(lambda: len(found()) >= count)
    return found()


def _ids(context: Any) -> tuple[int, int]:
    return context.trace_id, context.span_id


def _reserve() -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}])


@pytest.fixture
async def traced(spans: InMemorySpanExporter, start_service: StartService) -> Harness:
    """A running service that traces."""
    service = await start_service()
    await service.create_item("seat", 100)
    await _named(spans, "inventoryhold.v1.InventoryService/CreateItem")
    spans.clear()
    return service


async def test_a_call_its_batch_and_its_statement_are_one_trace(traced: Harness, spans: InMemorySpanExporter) -> None:
    await traced.reservations.Reserve(_reserve(), metadata=(("traceparent", TRACEPARENT),))
    [call], [batch], [statement] = [await _named(spans, name) for name in (RESERVE, "batch reserve", "reserve")]
    assert call.kind == SpanKind.SERVER
    assert statement.kind == SpanKind.CLIENT
    assert {f"{span.context.trace_id:032x}" for span in (call, batch, statement)} == {TRACE}
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
    assert _ids(batch.parent) == _ids(call.context)
    assert _ids(statement.parent) == _ids(batch.context)
    assert call.attributes is not None
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.attributes["holdsvc.tenant"] == "default"
    assert (call.attributes["server.address"], call.attributes["server.port"]) == ("127.0.0.1", 50051)
    assert statement.attributes is not None
    with psycopg.connect(traced.owner_dsn) as connection:
        info = connection.info
        assert {name: value for name, value in statement.attributes.items() if name != "db.query.text"} == {
            "db.system.name": "postgresql",
            "db.namespace": info.dbname,
            "db.stored_procedure.name": "reserve",
            "server.address": info.host,
            "server.port": info.port,
        }


async def test_calls_of_one_batch_are_linked_with_it_both_ways(traced: Harness, spans: InMemorySpanExporter) -> None:
    await asyncio.gather(*(traced.reservations.Reserve(_reserve()) for _ in range(30)))
    calls = {_ids(call.context): call for call in await _named(spans, RESERVE, 30)}
    batches = await _named(spans, "batch reserve")
    assert len(calls) == 30
    assert len(batches) < 30, "nothing was batched: the test proves nothing"
    linked = [_ids(link.context) for batch in batches for link in batch.links]
    assert sorted(linked) == sorted(calls)
    for batch in batches:
        for link in batch.links:
            assert [_ids(back.context) for back in calls[_ids(link.context)].links] == [_ids(batch.context)]


async def test_a_read_has_its_statement_within_the_call(traced: Harness, spans: InMemorySpanExporter) -> None:
    await traced.inventory.GetItem(inventory_service_pb2.GetItemRequest(sku="seat"))
    [call] = await _named(spans, "inventoryhold.v1.InventoryService/GetItem")
    [statement] = await _named(spans, "get_items")
    assert _ids(statement.parent) == _ids(call.context)


async def test_a_refusal_is_no_error_and_names_its_reason(traced: Harness, spans: InMemorySpanExporter) -> None:
    await refused(traced.reserve({"none": 1}))
    [call] = await _named(spans, RESERVE)
    assert call.status.status_code == StatusCode.UNSET
    assert call.attributes is not None
    assert call.attributes["holdsvc.reason"] == "ITEM_NOT_FOUND"


async def test_a_fault_names_its_type(
    traced: Harness, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdsvc.ledger.items.get", lambda *_: None)
    await refused(traced.inventory.GetItem(inventory_service_pb2.GetItemRequest(sku="seat")))
    traced.sql("ALTER TABLE holdsvc.item RENAME COLUMN display_name TO gone")
    await refused(traced.inventory.ListItems(inventory_service_pb2.ListItemsRequest()))
    for name, fault in (("GetItem", "INTERNAL"), ("ListItems", "INTERNAL")):
        [call] = await _named(spans, f"inventoryhold.v1.InventoryService/{name}")
        assert call.attributes is not None
        assert call.attributes["error.type"] == fault
        assert call.status.status_code == StatusCode.ERROR
    [statement] = await _named(spans, "list_items")
    assert statement.attributes is not None
    assert statement.attributes["error.type"] == "Failed"


async def test_a_call_over_http_is_a_span_of_its_own_kind(
    spans: InMemorySpanExporter, start_service: StartService
) -> None:
    service = await start_service(http_listen="127.0.0.1:0")
    reply = await request(service, GET_ITEM, {"sku": "none"}, {"traceparent": TRACEPARENT})
    assert reply.status == 404
    [call] = await _named(spans, GET_ITEM.removeprefix("/"))
    assert f"{call.context.trace_id:032x}" == TRACE
    assert call.attributes is not None
    assert (call.attributes["rpc.system.name"], call.attributes["holdsvc.reason"]) == ("connectrpc", "ITEM_NOT_FOUND")


async def test_what_the_caller_does_not_keep_is_not_kept_here(traced: Harness, spans: InMemorySpanExporter) -> None:
    await traced.reservations.Reserve(_reserve(), metadata=(("traceparent", UNSAMPLED),))
    assert spans.get_finished_spans() == ()


async def test_spans_hold_nothing_of_the_request(traced: Harness, spans: InMemorySpanExporter) -> None:
    held = await traced.reserve({"seat": 1}, holder="Ada", metadata={"note": "s3cret"})
    await traced.reservations.Confirm(
        pb.ConfirmRequest(reservation_id=held.reservation_id, customer={"name": "Ada", "email": "ada@example.com"})
    )
    await _named(spans, "inventoryhold.v1.ReservationService/Confirm")
    text = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "batch confirm" in text
    assert [word for word in ("Ada", "s3cret", "ada@example.com", held.reservation_id) if word in text] == []


def test_log_lines_within_a_span_carry_its_ids(spans: InMemorySpanExporter) -> None:
    assert tracing.active is not None
    with tracing.active.call("/x.Y/Z", {"traceparent": TRACEPARENT}):
        line = tracing.add_ids(None, "info", {"event": "call"})
    assert line["trace_id"] == TRACE
    assert len(line["span_id"]) == 16
    assert len(spans.get_finished_spans()) == 1


async def test_the_access_log_names_the_calls_span(traced: Harness, spans: InMemorySpanExporter) -> None:
    seen: list[dict[str, str]] = []
    active = tracing.active
    assert active is not None
    original, active.answered = active.answered, lambda *how: (original(*how), seen.append(active.ids()))  # type: ignore[method-assign, func-returns-value, assignment]
    await traced.reservations.Reserve(_reserve())
    [call] = await _named(spans, RESERVE)
    assert seen == [{"trace_id": f"{call.context.trace_id:032x}", "span_id": f"{call.context.span_id:016x}"}]


def test_a_process_imports_nothing_for_traces_that_are_off_and_no_http_client_before_it_has_a_webhook() -> None:
    program = (
        "import sys, holdsvc.process.worker, holdsvc.process.supervisor, holdsvc.telemetry.census\n"
        "sys.exit(not {'opentelemetry', 'aiohttp'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_on_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing.check(Settings.load(tracing="on"))
    monkeypatch.setattr(tracing, "find_spec", lambda _name: None)
    tracing.check(Settings.load(tracing="off"))
    with pytest.raises(SettingsError, match=r"pip install 'holdsvc\[otel\]'"):
        tracing.check(Settings.load(tracing="on"))


def test_a_collector_that_does_not_answer_keeps_no_worker_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracing.configure(Settings.load(tracing="on"))
        assert tracing.active is not None
        with tracing.active.call("/x.Y/Z", {}):
            pass
        began = monotonic()
        tracing.close()
        assert monotonic() - began < CLOSE_S + 10


def test_on_it_exports_as_the_environment_of_opentelemetry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracing.configure(Settings.load(tracing="on"))
    try:
        assert tracing.active is not None
        with tracing.active.call("/x.Y/Z", {}):
            assert tracing.active.place() is None
    finally:
        tracing.close()
    assert tracing.active is None
