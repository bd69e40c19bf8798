"""The log: a sampled line for each call, named events, and nothing that must not be there."""

import asyncio
from typing import Any, cast

import pytest
import structlog
from structlog.testing import LogCapture

from holdsvc.api import access_log
from holdsvc.api.access_log import AccessLog, Sample
from holdsvc.api.calls import Call
from holdsvc.api.cells import Cell
from holdsvc.model import Caller
from inventoryhold.v1 import inventory_service_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.program import serving

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = ("Ada", "ada@example.com", "gift-message", "s3cret")


@pytest.fixture
def lines() -> Any:
    """The log lines of the test."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.add_log_level, capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.configure(**before)


def _of(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


async def test_a_call_is_one_line_with_who_what_and_how_long(service: Harness, lines: list[Any]) -> None:
    await service.create_item("seat", 5)
    lines.clear()
    request = pb.ReserveRequest(request_id="abc", lines=[{"sku": "seat", "quantity": 2}])
    await service.reservations.Reserve(request, metadata=(("traceparent", TRACEPARENT),))
    [line] = _of(lines, "call")
    assert line.pop("duration_ms") > 0
    assert line.pop("log_level") == "info"
    line.pop("level", None)
    assert line == {
        "event": "call",
        "method": "/inventoryhold.v1.ReservationService/Reserve",
        "code": "OK",
        "reason": "",
        "tenant": "default",
        "client": "dev",
        "request_id": "abc",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


async def test_a_refusal_names_its_reason(service: Harness, lines: list[Any]) -> None:
    await refused(service.reserve({"none": 1}, request_id="xyz"))
    [line] = _of(lines, "call")
    assert (line["code"], line["reason"], line["request_id"]) == ("NOT_FOUND", "ITEM_NOT_FOUND", "xyz")


async def test_named_events_say_what_was_given_back(service: Harness, lines: list[Any]) -> None:
    await service.create_item("seat", 5)
    held = await service.reserve({"seat": 2})
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id, request_id="c"))
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id, request_id="c"))
    await service.reservations.ListReservations(pb.ListReservationsRequest())
    await service.reservations.Cleanup(pb.CleanupRequest())
    [cancelled] = _of(lines, "reservation.cancelled")
    assert (cancelled["reservation_id"], cancelled["quantity_released"]) == (held.reservation_id, 2)
    [listed] = _of(lines, "reservation.listed")
    assert listed["count"] == 1
    [cleanup] = _of(lines, "reservation.cleanup")
    assert (cleanup["expired_count"], cleanup["inventory_released"]) == (0, 0)


async def test_no_line_holds_a_customer_metadata_or_a_key(start_service: StartService, lines: list[Any]) -> None:
    service = await start_service(log_calls_per_second=1000)
    await service.create_item("seat", 5)
    held = await service.reserve({"seat": 1}, metadata={"gift-message": "s3cret"}, holder="Ada")
    keys = (("x-api-key", "holdsvc_s3cret_s3cret"),)
    await service.reservations.Confirm(
        pb.ConfirmRequest(reservation_id=held.reservation_id, customer={"name": "Ada", "email": "ada@example.com"}),
        metadata=keys,
    )
    await service.reservations.GetReservation(
        pb.GetReservationRequest(reservation_id=held.reservation_id), metadata=keys
    )
    await service.reservations.ListReservations(pb.ListReservationsRequest(holder="Ada"), metadata=keys)
    assert len(_of(lines, "call")) == 5
    text = repr(lines)
    assert [word for word in SECRETS if word in text] == []


def _tell(log: AccessLog, reason: str, count: int) -> None:
    cell = cast(Cell, None)
    call = Call("/x.Y/Z", Caller("t", "c", "k", frozenset()), cell, 0.0, ())
    for _ in range(count):
        log.tell("/x.Y/Z", call, None, "OK", reason, 0.001)


def test_lines_are_bounded_and_the_next_one_says_how_many_are_missing(
    lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(access_log, "monotonic", lambda: now)
    log = AccessLog(5)
    _tell(log, "", 1000)
    _tell(log, "CAPACITY_EXCEEDED", 1000)
    assert len(lines) == 10
    now += 0.2
    _tell(log, "", 1)
    assert lines[-1]["skipped"] == 995


def test_failures_are_always_logged_and_zero_turns_the_others_off(lines: list[Any]) -> None:
    log = AccessLog(0)
    _tell(log, "", 10)
    _tell(log, "ITEM_NOT_FOUND", 10)
    _tell(log, "INTERNAL", 3)
    assert [line["log_level"] for line in lines] == ["error"] * 3


def test_a_rate_below_one_lets_a_line_through_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(access_log, "monotonic", lambda: now)
    sample = Sample(0.1)
    assert sample.take() == 0
    assert sample.take() is None
    now = 10.0
    assert sample.take() == 1


@pytest.mark.parametrize("text", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 100_000])
async def test_a_traceparent_that_is_none_is_not_logged(service: Harness, lines: list[Any], text: str) -> None:
    await service.inventory.ListItems(
        inventory_service_pb2.ListItemsRequest(), metadata=(("traceparent", text[:5000]),)
    )
    [line] = _of(lines, "call")
    assert "trace_id" not in line


async def test_the_running_service_logs_json_objects_a_line(ledger_dsn: str) -> None:
    with serving(dsn=ledger_dsn) as service:
        assert await asyncio.to_thread(service.stop) == 0
    assert [line["event"] for line in service.events][-1] in {"stopped", "draining"}
    assert all({"event", "level", "timestamp"} <= set(line) for line in service.events)
