"""Errors: the catalogue, its codes and details, and nothing of the database in any of them."""

import re
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from holdsvc import errors, outages
from holdsvc.api.statuses import CODES, status
from holdsvc.model import OverLimit, Refused, ShortLine
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import error_reason_pb2, item_pb2
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

CONTRACT = {
    "FAILED_PRECONDITION": (
        "CAPACITY_EXCEEDED RESERVATION_EXPIRED RESERVATION_ALREADY_CONFIRMED RESERVATION_ALREADY_CANCELLED "
        "ALREADY_REFUNDED RESERVATION_NOT_CONFIRMED CAPACITY_IN_USE QUANTITY_EXCEEDED REFERENCE_AMBIGUOUS "
        "ALREADY_FULFILLED LIMIT_EXCEEDED FEATURE_NOT_ACTIVE SALE_CLOSED TOO_MANY_WEBHOOKS "
        "WAITLIST_CLOSED"
    ),
    "NOT_FOUND": (
        "ITEM_NOT_FOUND RESERVATION_NOT_FOUND API_KEY_NOT_FOUND LIMIT_NOT_FOUND WEBHOOK_NOT_FOUND "
        "WAITLIST_ENTRY_NOT_FOUND"
    ),
    "ALREADY_EXISTS": "ITEM_ALREADY_EXISTS ORDER_ID_IN_USE DUPLICATE_RESERVATION ALREADY_WAITING",
    "INVALID_ARGUMENT": "INVALID_FIELD REQUEST_ID_REUSED RESUME_TOKEN_FOREIGN",
    "ABORTED": "REVISION_MISMATCH",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED": "RATE_LIMITED OVERLOADED",
    "OUT_OF_RANGE": "RESUME_TOKEN_EXPIRED",
    "UNAVAILABLE": "DATABASE_UNAVAILABLE DATABASE_SPLIT SHUTTING_DOWN TENANT_MOVED",
    "UNKNOWN": "OUTCOME_UNKNOWN",
    "INTERNAL": "INTERNAL",
}


def test_every_reason_of_the_proto_has_the_contracts_code() -> None:
    expected = {reason: code for code, reasons in CONTRACT.items() for reason in reasons.split()}
    assert {reason: code.name for reason, code in CODES.items()} == expected
    in_proto = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert in_proto == {*expected, "UNSPECIFIED"}


EVERY = [
    errors.capacity_exceeded([ShortLine("sku-1", "pool-1", 71, 13), ShortLine("sku-2", "", 5, 0)]),
    errors.item_not_found("sku-1", "pool-1"),
    errors.sale_closed("sku-1", "pool-1"),
    errors.limit_exceeded(OverLimit("limit-1", 71, 69, 13, datetime(2026, 1, 2, tzinfo=UTC))),
    errors.limit_exceeded(OverLimit("limit-1", 4, 3, 2, None)),
    errors.limit_not_found("limit-1"),
    errors.waitlist_closed("sku-1", "pool-1"),
    errors.waitlist_entry_not_found("id-1"),
    errors.already_waiting("id-1"),
    errors.item_already_exists("sku-1", "pool-1"),
    errors.capacity_in_use("sku-1", "pool-1", 71, 13),
    errors.revision_mismatch("sku-1", "pool-1", 42),
    errors.feature_not_active("stop_sell"),
    errors.reservation_not_found("id-1", None),
    errors.reservation_not_found(None, "cart-1"),
    errors.reference_ambiguous("cart-1"),
    errors.quantity_exceeded("sku-1", "pool-1", 71, 13),
    errors.order_id_in_use("A-1", "id-1"),
    errors.duplicate_reservation("id-1"),
    errors.request_id_reused("r-1"),
    errors.permission_denied("admin"),
    errors.api_key_not_found("key-1"),
    errors.webhook_not_found("id-1"),
    errors.too_many_webhooks(20),
    outages.rate_limited("calls of a client", 2.5),
    outages.overloaded(),
    outages.database_unavailable(),
    outages.database_split(),
    outages.tenant_moved(),
    outages.shutting_down(),
    outages.outcome_unknown(),
    outages.internal(ValueError("why"), method="/a/B"),
    errors.invalid_field("lines[3].sku", "is bad", "BAD"),
    *(
        errors.wrong_state(reason, "id-1", "CONFIRMED", "A-1")
        for reason in (
            "RESERVATION_EXPIRED",
            "RESERVATION_ALREADY_CONFIRMED",
            "RESERVATION_ALREADY_CANCELLED",
            "ALREADY_REFUNDED",
            "ALREADY_FULFILLED",
            "RESERVATION_NOT_CONFIRMED",
        )
    ),
]
WORDS = re.compile(
    r"limit-\d|[\d-]{10}T[\d:+]+|sku-\d|pool-\d|id-\d|cart-\d|A-\d|r-\d|key-\d|[0-9a-f]{16}"
    r"|admin|calls of a client|lines\[3]\.sku|\b\d+\b"
)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.reason)
def test_every_changing_word_of_a_message_stands_in_the_metadata_too(error: Refused) -> None:
    info = error_details_pb2.ErrorInfo()
    assert status(error).details[0].Unpack(info)
    assert (info.domain, info.reason) == ("holdsvc", error.reason)
    words = set(WORDS.findall(error.message))
    said = set(info.metadata.values())
    # "and 1 more" is the number of short lines without the first.
    assert words - said <= ({"1"} if error.reason == "CAPACITY_EXCEEDED" else set())


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.reason)
def test_a_retry_is_suggested_exactly_where_the_contract_says_so(error: Refused) -> None:
    answer = status(error)
    retry = error_details_pb2.RetryInfo()
    suggested = any(detail.Unpack(retry) for detail in answer.details)
    code = code_pb2.Code.Name(answer.code)
    assert suggested == (code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"))
    assert not suggested or retry.retry_delay.ToMilliseconds() > 0


async def test_every_short_line_is_reported_with_real_numbers_in_order(service: Harness) -> None:
    for number in range(100):
        await service.create_item(f"seat-{number:02}", number % 3, pool="stalls")
    wanted = [(f"seat-{number:02}", "stalls", 2) for number in reversed(range(100))]
    refusal = await refused(service.reserve(wanted))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_EXCEEDED")
    found = [
        (line.sku, line.pool, line.requested, line.available, line.shortfall)
        for line in refusal.details["CapacityShortfall"].lines
    ]
    assert found == [
        (f"seat-{number:02}", "stalls", 2, number % 3, 2 - number % 3)
        for number in reversed(range(100))
        if number % 3 < 2
    ]
    assert refusal.metadata == {
        "sku": "seat-99", "pool": "stalls", "requested": "2", "available": "0", "short_lines": "67"
    }  # fmt: skip


async def test_a_shortfall_too_long_for_a_trailer_still_arrives_and_says_what_it_leaves_out(service: Harness) -> None:
    skus = [f"{number:03}" + "\U0001f6cf" * 125 for number in range(100)]
    items = [item_pb2.Item(sku=sku, pool="p" * 64) for sku in skus]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    # gRPC's callers drop what is a little too long at random.
    for _ in range(20):
        refusal = await refused(service.reserve([(sku, "p" * 64, 10**12) for sku in skus]))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_EXCEEDED")
        lines = refusal.details["CapacityShortfall"].lines
        assert [line.sku for line in lines] == skus[: len(lines)]
        assert len(lines) + int(refusal.metadata["omitted"]) == int(refusal.metadata["short_lines"]) == 100


BREAKING = {
    "reserve": lambda s: s.reserve({"bed": 1}),
    "confirm": lambda s: s.reservations.Confirm(pb.ConfirmRequest(reference="cart")),
    "cancel": lambda s: s.reservations.Cancel(pb.CancelRequest(reference="cart")),
    "refund": lambda s: s.reservations.Refund(pb.RefundRequest(reference="cart")),
    "extend": lambda s: s.reservations.Extend(pb.ExtendRequest(reference="cart")),
    "find_reservations": lambda s: s.reservations.ListReservations(pb.ListReservationsRequest(holder="guest")),
    "get_items": lambda s: s.item("bed"),
    "adjust_capacity": lambda s: s.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="bed", delta=1)),
    "verify_items": lambda s: s.admin.VerifyLedger(admin.VerifyLedgerRequest()),
}


def _assert_tells_nothing(refusal: Any) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert set(refusal.metadata) == {"incident_id"}
    incident_id = refusal.metadata["incident_id"]
    assert re.fullmatch("[0-9a-f]{16}", incident_id)
    assert refusal.message == f"internal error, incident {incident_id}"
    assert set(refusal.details) == {"ErrorInfo"}


@pytest.mark.parametrize("function", BREAKING)
async def test_a_fault_in_the_database_is_an_incident_that_tells_the_caller_nothing(
    service: Harness, function: str
) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 1}, reference="cart")
    service.sql(f"ALTER FUNCTION {function} RENAME TO {function}_away")
    try:
        _assert_tells_nothing(await refused(BREAKING[function](service)))
    finally:
        service.sql(f"ALTER FUNCTION {function}_away RENAME TO {function}")
    await service.verify()


async def test_a_violated_constraint_is_an_incident_that_tells_the_caller_nothing(service: Harness) -> None:
    await service.create_item("bed", 5)
    service.sql("ALTER TABLE holdsvc.reservation ADD CONSTRAINT secret_rule CHECK (holder <> 'guest')")
    _assert_tells_nothing(await refused(service.reserve({"bed": 1}, holder="guest")))
    # The fault of one is not that of others, also in one batch.
    entries = [{"lines": [{"sku": "bed", "quantity": 1}], "holder": holder} for holder in ("a", "guest", "b")]
    answer = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries))
    assert [result.WhichOneof("result") for result in answer.results] == ["reservation", "error", "reservation"]
    assert answer.results[1].error.code == code_pb2.INTERNAL
    assert "secret_rule" not in str(answer.results[1].error)
    service.sql("ALTER TABLE holdsvc.reservation DROP CONSTRAINT secret_rule")
    assert (await service.item("bed")).held == 2
    await service.verify()


async def test_a_message_or_word_of_any_length_is_cut_not_lost(service: Harness) -> None:
    sku = "\U0001f6cf" * 128
    refusal = await refused(service.item(sku, "\U0001f6cf" * 64))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")
    assert refusal.metadata["sku"] == sku
