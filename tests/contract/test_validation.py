"""Bad input: every bad field at once, whatever the bytes, and a server that goes on answering."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from holdsvc.api.services import SERVICES
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import limit_service_pb2 as limits
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import waitlist_service_pb2 as waitlist
from inventoryhold.v1 import webhook_service_pb2 as webhook
from tests.support.harness import Harness, Refusal, refusal_of, refused

CONTROL = "a\x01b"
LONG = "x" * 2000
BAD_LINE = {"sku": "", "pool": "p" * 65, "quantity": 0}
BAD_LINE_FIELDS = {"sku", "pool", "quantity"}
BAD_DURATION = Duration(seconds=-1)
BAD_TIME = Timestamp(seconds=2**62)
BAD_ITEM = {
    "sku": CONTROL, "pool": LONG, "display_name": LONG, "capacity": -1, "oversell_limit": 10**15 + 1, "sale_state": 9,
    "buffer": -1, "low_at": 10**15 + 1, "return_pool": CONTROL, "return_time": BAD_TIME,
}  # fmt: skip
AGES = Duration(seconds=2**63 - 1)


def _under(path: str, fields: Any) -> set[str]:
    return {f"{path}.{field}" for field in fields}


BAD: list[tuple[Message, set[str]]] = [
    (
        pb.ReserveRequest(
            request_id=CONTROL,
            lines=[BAD_LINE, {"sku": LONG, "pool": CONTROL, "quantity": 10**12 + 1}],
            holder=LONG,
            reference=LONG,
            ttl=BAD_DURATION,
            metadata={"": "x", "key": "y" * 513},
            duplicate_window=AGES,
        ),
        {"request_id", "holder", "reference", "ttl", "metadata", "duplicate_window"}
        | _under("lines[0]", BAD_LINE_FIELDS)
        | _under("lines[1]", BAD_LINE_FIELDS),
    ),
    (pb.ReserveRequest(duplicate_window=Duration(seconds=5)), {"lines", "duplicate_window"}),
    (pb.BatchReserveRequest(), {"requests"}),
    (
        pb.ConfirmRequest(
            reservation_id="1",
            request_id=LONG,
            order_id=CONTROL,
            customer={"name": LONG, "email": "nobody"},
            lines=[BAD_LINE],
        ),
        {"reservation_id", "request_id", "order_id", "customer.name", "customer.email"}
        | _under("lines[0]", BAD_LINE_FIELDS),
    ),
    (pb.ConfirmRequest(request_id=LONG), {"target", "request_id"}),
    (pb.ConfirmRequest(reference=LONG, order_id=LONG), {"reference", "order_id"}),
    (pb.CancelRequest(reservation_id="", request_id=LONG, reason=CONTROL), {"reservation_id", "request_id", "reason"}),
    (pb.CancelRequest(reference="", reason=LONG), {"reference", "reason"}),
    (pb.CancelRequest(), {"target"}),
    (
        pb.RefundRequest(reservation_id=LONG, request_id=LONG, lines=[BAD_LINE], reason=LONG),
        {"reservation_id", "request_id", "reason"} | _under("lines[0]", BAD_LINE_FIELDS),
    ),
    (pb.RefundRequest(reference=CONTROL), {"reference"}),
    (pb.ExtendRequest(reservation_id="x", request_id=LONG, ttl=AGES), {"reservation_id", "request_id", "ttl"}),
    (pb.ExtendRequest(reference="", ttl=BAD_DURATION), {"reference", "ttl"}),
    (
        pb.ModifyRequest(
            reservation_id="x",
            request_id=LONG,
            revision=-1,
            lines=[BAD_LINE | {"quantity": -1}, {"sku": "a"}, {"sku": "a"}],
            holder=LONG,
            new_reference=CONTROL,
            metadata={"": "x"},
            update_mask={"paths": ["lines", "state"]},
        ),
        {"reservation_id", "request_id", "revision", "holder", "new_reference", "metadata", "update_mask", "lines[2]"}
        | _under("lines[0]", BAD_LINE_FIELDS),
    ),
    (pb.ModifyRequest(reference=LONG), {"reference", "update_mask"}),
    (
        pb.FulfilRequest(reservation_id="x", request_id=LONG, lines=[BAD_LINE], reason="\x00", effective_time=BAD_TIME),
        {"reservation_id", "request_id", "reason", "effective_time"} | _under("lines[0]", BAD_LINE_FIELDS),
    ),
    (pb.FulfilRequest(reference=LONG), {"reference"}),
    (pb.CancelRequest(reservation_id="x", lines=[BAD_LINE]), {"reservation_id"} | _under("lines[0]", BAD_LINE_FIELDS)),
    (
        pb.RefundRequest(reservation_id="x", units=9, effective_time=BAD_TIME),  # type: ignore[arg-type]
        {"reservation_id", "units", "effective_time"},
    ),
    (pb.BatchModifyRequest(), {"requests"}),
    (pb.BatchConfirmRequest(), {"requests"}),
    (pb.BatchCancelRequest(), {"requests"}),
    (pb.BatchRefundRequest(), {"requests"}),
    (pb.BatchFulfilRequest(), {"requests"}),
    (pb.BatchExtendRequest(), {"requests"}),
    (pb.GetReservationRequest(), {"target"}),
    (pb.GetReservationRequest(reservation_id="{}"), {"reservation_id"}),
    (pb.GetReservationRequest(reference=LONG), {"reference"}),
    (
        pb.ListReservationsRequest(
            page_size=-1,
            page_token="nonsense",
            states=[0, 99],  # type: ignore[list-item]
            sku=LONG,
            pool=LONG,
            holder=CONTROL,
            reference=LONG,
            order_id=LONG,
            client=LONG,
        ),
        {"page_size", "page_token", "states[0]", "states[1]", "sku", "pool"}
        | {"holder", "reference", "order_id", "client"},
    ),
    (
        pb.ListReservationEventsRequest(reservation_id="x", page_size=-1, page_token=LONG),
        {"reservation_id", "page_size", "page_token"},
    ),
    (pb.CleanupRequest(max_count=-1), {"max_count"}),
    (
        waitlist.JoinWaitlistRequest(
            request_id=LONG,
            lines=[BAD_LINE],
            reference=CONTROL,
            offer_ttl=AGES,
            expire_time=BAD_TIME,
            priority=1001,
            metadata={"": "x"},
        ),
        {"request_id", "holder", "reference", "offer_ttl", "expire_time", "priority", "metadata"}
        | _under("lines[0]", BAD_LINE_FIELDS),
    ),
    (waitlist.JoinWaitlistRequest(holder=LONG, priority=-1001), {"lines", "holder", "priority"}),
    (waitlist.JoinWaitlistRequest(holder="ann", lines=[{"sku": "a", "quantity": 1}] * 11), {"lines"}),
    (waitlist.LeaveWaitlistRequest(entry_id="x", reason="\x00"), {"entry_id", "reason"}),
    (waitlist.GetWaitlistEntryRequest(), {"entry_id"}),
    (
        waitlist.ListWaitlistEntriesRequest(
            page_size=-1,
            page_token="nonsense",
            states=[0, 99],  # type: ignore[list-item]
            sku=LONG,
            pool=LONG,
            holder=CONTROL,
            client=LONG,
        ),
        {"page_size", "page_token", "states[0]", "states[1]", "sku", "pool", "holder", "client"},
    ),
    (waitlist.ListWaitlistEntriesRequest(pool="web"), {"pool"}),
    (inventory.CreateItemRequest(), {"item"}),
    (inventory.CreateItemRequest(item=BAD_ITEM), _under("item", BAD_ITEM)),
    (inventory.BatchCreateItemsRequest(), {"items"}),
    (
        inventory.BatchCreateItemsRequest(items=[{"sku": "a"}, BAD_ITEM, {"sku": "a"}]),
        _under("items[1]", BAD_ITEM) | {"items[2]"},
    ),
    (inventory.GetItemRequest(sku=LONG, pool=LONG), {"sku", "pool"}),
    (
        inventory.ListItemsRequest(page_size=-1, page_token="nonsense", sku_prefix=CONTROL, pool=LONG),
        {"page_size", "page_token", "sku_prefix", "pool"},
    ),
    (
        inventory.UpdateItemRequest(item=BAD_ITEM, update_mask={"paths": ["sku"]}, revision=-1),
        _under("item", BAD_ITEM) | {"update_mask", "revision"},
    ),
    (inventory.UpdateItemRequest(), {"item", "update_mask"}),
    (
        inventory.AdjustCapacityRequest(
            sku=CONTROL, pool=LONG, delta=10**12 + 1, request_id=LONG, reason=LONG, effective_time=BAD_TIME
        ),
        {"sku", "pool", "delta", "request_id", "reason", "effective_time"},
    ),
    (inventory.AdjustCapacityRequest(), {"sku", "delta"}),
    (inventory.BatchSetStockRequest(), {"counts"}),
    (
        inventory.TransferCapacityRequest(from_pool=LONG, to_pool=LONG, quantity=-1, request_id=LONG, reason=LONG),
        {"sku", "from_pool", "to_pool", "quantity", "request_id", "reason"},
    ),
    (inventory.TransferCapacityRequest(sku="a", quantity=1), {"to_pool"}),
    (inventory.DeleteItemRequest(pool=LONG), {"sku", "pool"}),
    (inventory.ExplainAvailabilityRequest(pool=LONG), {"sku", "pool"}),
    (inventory.CheckAvailabilityRequest(), {"lines"}),
    (inventory.CheckAvailabilityRequest(lines=[BAD_LINE]), _under("lines[0]", BAD_LINE_FIELDS)),
    (
        inventory.WatchInventoryRequest(items=[{"pool": LONG}], sku_prefix=LONG, min_interval=BAD_DURATION),
        {"items[0].sku", "items[0].pool", "sku_prefix", "min_interval"},
    ),
    (
        events.StreamEventsRequest(resume_token=LONG, from_oldest=True, types=[0]),  # type: ignore[list-item]
        {"resume_token", "from_oldest", "types[0]"},
    ),
    (
        admin.CreateApiKeyRequest(client=CONTROL, scopes=["root"], pools=[LONG], expire_time={"seconds": 2**63 - 1}),
        {"client", "scopes[0]", "pools[0]", "expire_time"},
    ),
    (admin.CreateApiKeyRequest(scopes=["admin", "admin"], pools=["a", "a"]), {"client", "scopes", "pools"}),
    (limits.SetLimitRequest(), {"limit"}),
    (
        limits.SetLimitRequest(
            limit={
                "limit_id": LONG,
                "sku_prefix": LONG,
                "pool": LONG,
                "per": 9,
                "counts": 9,
                "max_quantity": -1,
                "window": BAD_DURATION,
            }
        ),
        _under("limit", ("limit_id", "sku_prefix", "pool", "per", "counts", "max_quantity", "window")),
    ),
    (
        limits.SetLimitRequest(limit={"limit_id": CONTROL, "max_quantity": 10**15 + 1, "window": AGES}),
        _under("limit", ("limit_id", "per", "counts", "max_quantity", "window")),
    ),
    (limits.ListLimitsRequest(page_size=-1, page_token="nonsense"), {"page_size", "page_token"}),
    (limits.DeleteLimitRequest(limit_id=LONG), {"limit_id"}),
    (limits.GetLimitUsageRequest(holder=LONG, client=LONG), {"limit_id", "holder", "client"}),
    (admin.ListApiKeysRequest(page_size=-1, page_token="nonsense"), {"page_size", "page_token"}),
    (admin.RevokeApiKeyRequest(key_id=LONG), {"key_id"}),
    (
        webhook.CreateWebhookRequest(url="ftp://x", types=[0, 99], sku_prefix=CONTROL),  # type: ignore[list-item]
        {"url", "types[0]", "types[1]", "sku_prefix"},
    ),
    (webhook.ListWebhooksRequest(page_size=-1, page_token="nonsense"), {"page_size", "page_token"}),
    (webhook.DeleteWebhookRequest(webhook_id="x"), {"webhook_id"}),
    (webhook.TestWebhookRequest(), {"webhook_id"}),
]

CANNOT_BE_BAD = {
    "RefundRequest.write_off",
    "ConfirmRequest.rescue",
    "ListReservationsRequest.include_total",
}


def _methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for service in SERVICES:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method


PATHS = {method.input_type.name: path for path, method in _methods()}
STREAMS = {path for path, method in _methods() if method.server_streaming}


async def _send(service: Harness, path: str, data: bytes) -> Any:
    """Sends bytes as they are and returns the answer's; of a stream the first."""
    channel: Any = service.channel
    if path not in STREAMS:
        return await channel.unary_unary(path)(data)
    call = channel.unary_stream(path)(data)
    try:
        return await call.read()
    finally:
        call.cancel()


def _fields(refusal: Refusal) -> list[str]:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), refusal
    violations = refusal.details["BadRequest"].field_violations
    assert all(violation.description and violation.reason for violation in violations)
    return [violation.field for violation in violations]


async def test_every_bad_field_is_named_at_once(service: Harness) -> None:
    for request, expected in BAD:
        refusal = await refused(_send(service, PATHS[request.DESCRIPTOR.name], request.SerializeToString()))
        assert set(_fields(refusal)) == expected, request.DESCRIPTOR.name
        assert set(refusal.metadata["fields"].split(", ")) == expected or len(refusal.metadata["fields"]) == 256


def test_the_bad_requests_cover_every_field_of_every_rpc() -> None:
    named = {
        f"{request.DESCRIPTOR.name}.{field.partition('.')[0].partition('[')[0]}"
        for request, bad in BAD
        for field in bad
    }
    every = {f"{method.input_type.name}.{field.name}" for _, method in _methods() for field in method.input_type.fields}
    assert every - named == CANNOT_BE_BAD


async def test_lists_have_limits(service: Harness) -> None:
    line = {"sku": "a", "quantity": 1}
    target: dict[str, Any] = {"reservation_id": "8f14e45f-ceea-467f-a0e6-2b1b4f6a1c11"}
    for request, field in (
        (pb.ReserveRequest(lines=[line] * 101), "lines"),
        (pb.ReserveRequest(lines=[line], metadata={str(number): "" for number in range(33)}), "metadata"),
        (pb.BatchReserveRequest(requests=[{"lines": [line]}] * 1001), "requests"),
        (pb.ConfirmRequest(**target, lines=[line] * 101), "lines"),
        (pb.RefundRequest(**target, lines=[line] * 101), "lines"),
        (pb.ListReservationsRequest(states=[1] * 11), "states"),  # type: ignore[list-item]
        (inventory.CheckAvailabilityRequest(lines=[line] * 101), "lines"),
        (
            inventory.BatchCreateItemsRequest(items=[item_pb2.Item(sku=str(number)) for number in range(1001)]),
            "items",
        ),
        (admin.CreateApiKeyRequest(client="a", scopes=["admin"], pools=list(map(str, range(101)))), "pools"),
    ):
        refusal = await refused(_send(service, PATHS[request.DESCRIPTOR.name], request.SerializeToString()))
        assert _fields(refusal) == [field]


async def test_the_largest_request_that_the_rules_allow_is_served(service: Harness) -> None:
    wide = "\U0001f6cf"
    items = [item_pb2.Item(sku=wide * 126 + f"{number:02}", pool=wide * 64, capacity=10**15) for number in range(100)]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    request = pb.ReserveRequest(
        request_id=wide * 128,
        lines=[{"sku": item.sku, "pool": item.pool, "quantity": 10**12} for item in items],
        holder=wide * 256,
        reference=wide * 128,
        metadata={f"{number:02}" + wide * 62: "\n" + wide * 511 for number in range(32)},
    )
    held = (await service.reservations.Reserve(request)).reservation
    assert held == await service.get(held.reservation_id)
    assert held.metadata == request.metadata
    await service.verify()


async def test_the_field_list_of_an_error_is_cut_to_what_a_caller_can_receive(service: Harness) -> None:
    lines = [item_pb2.ItemQuantity(pool="p" * 65, quantity=-1)] * 100
    for _ in range(10):
        refusal = await refused(service.reservations.Reserve(pb.ReserveRequest(lines=lines)))
        fields = _fields(refusal)
        assert fields[:3] == ["lines[0].sku", "lines[0].pool", "lines[0].quantity"]
        assert len(fields) + int(refusal.metadata["omitted"]) == 300
    answer = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[{"lines": lines}]))
    assert answer.results[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


MALFORMED = {
    "not a tag": b"\xff\xff\xff\xff",
    "an open group": b"\x0b",
    "a length beyond the end": b"\x0a\x10abc",
}
NOT_TEXT = {"invalid UTF-8": b"\xc3\x28", "a surrogate": b"\xed\xa0\x80", "cut off": b"\xf0\x9f"}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_bytes_are_refused_by_every_call(service: Harness, data: bytes) -> None:
    for path, _ in _methods():
        assert _fields(await refused(_send(service, path, data))) == ["request"]
    await service.verify()


async def test_text_that_is_no_utf_8_is_refused_in_every_field_of_every_call(service: Harness) -> None:
    for path, method in _methods():
        for field in method.input_type.fields:
            if field.type != FieldDescriptor.TYPE_STRING:
                continue
            for text in NOT_TEXT.values():
                data = bytes([field.number << 3 | 2, len(text)]) + text
                assert _fields(await refused(_send(service, path, data))) == ["request"]
    await service.verify()


async def test_a_message_over_the_size_limit_is_refused_and_the_server_unharmed(service: Harness) -> None:
    request = pb.ReserveRequest(lines=[{"sku": "a", "quantity": 1}], holder="x" * 5_000_000)
    for _ in range(3):
        refusal = await refused(service.reservations.Reserve(request))
        assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    request = pb.ReserveRequest(lines=[{"sku": "a", "quantity": 1}], holder="x" * 3_900_000)
    assert _fields(await refused(service.reservations.Reserve(request))) == ["holder"]
    await service.verify()


async def test_huge_call_metadata_is_refused_and_the_server_unharmed(service: Harness) -> None:
    call = service.inventory.ListItems(inventory.ListItemsRequest(), metadata=(("x-note", "n" * 200_000),))
    refusal = await refused(call)
    assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await service.verify()


async def test_an_unknown_method_and_service_are_unimplemented(service: Harness) -> None:
    for path in ("/inventoryhold.v1.ReservationService/Steal", "/holdsvc.v1.Nothing/AtAll"):
        assert (await refused(_send(service, path, b""))).code == grpc.StatusCode.UNIMPLEMENTED


_STRINGS = ["", "bed", "vip", "\x00", "\x1f", "é" * 64, "{}", "NULL", '"', "\\", "%", "a" * 129, "\ufffe", "\u202e"]
_STRINGS += ["00000000-0000-0000-0000-000000000000", "cart-1", "capacity", "reserve", "\U0010ffff", "'; DROP--"]
_NUMBERS = [0, 1, -1, 2, 7, 10**12, 10**12 + 1, 10**15, 10**15 + 1, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63)]


def _fill(message: Message, chance: random.Random) -> None:
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.15:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(chance.randrange(3)):
                getattr(message, field.name)[chance.choice(_STRINGS)] = chance.choice(_STRINGS)
        elif field.is_repeated:
            for _ in range(chance.randrange(4)):
                if field.message_type is not None:
                    _fill(getattr(message, field.name).add(), chance)
                else:
                    getattr(message, field.name).append(_value(field, chance))
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), chance)
        else:
            setattr(message, field.name, _value(field, chance))


def _value(field: Any, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(_STRINGS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM):
        return chance.choice([number for number in _NUMBERS if -(2**31) <= number < 2**31])
    return chance.choice(_NUMBERS)


def _filled(descriptor: Descriptor, chance: random.Random) -> Message:
    message: Message = GetMessageClass(descriptor)()
    _fill(message, chance)
    return message


async def test_no_value_that_protobuf_can_carry_is_answered_with_an_internal_error(service: Harness) -> None:
    chance = random.Random(2026)
    for pool in ("", "vip"):
        await service.create_item("bed", 10**15, pool=pool, oversell_limit=10**15)
    answered = refusals = 0
    for _ in range(60):
        for path, method in _methods():
            if path in STREAMS:
                # A good request would wait for what never comes.
                continue
            request = _filled(method.input_type, chance)
            try:
                await _send(service, path, request.SerializeToString())
                answered += 1
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                assert refusal.reason not in ("INTERNAL", "OUTCOME_UNKNOWN", ""), (path, request, refusal)
                refusals += 1
    assert answered > 50
    assert refusals > 50
    await service.verify()
