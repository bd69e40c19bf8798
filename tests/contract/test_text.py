"""Text of every script at full length: through every rpc, list, page, prefix, watch, event and error."""

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from holdsvc.api.bounds import rules_of
from holdsvc.api.services import SERVICES
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

SCRIPTS = {
    "astral": "\U0001f6cf",
    "last code point": "\U0010ffff",
    "noncharacter": "\uffff",
    "combining": "e\u0301\u0323",
    "right to left": "\u05d0\u202e\u0627",
    "quotes": "\"'\\{}%_,",
    "private use": "\ue000",
    "joined": "\U0001f469\u200d\U0001f680",
    "byte order mark": "\ufeff\u2028",
}


def full(text: str, length: int, ending: str = "") -> str:
    """The text again and again, exactly so many characters."""
    return (text * length)[: length - len(ending)] + ending


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_text_at_full_length_comes_back_as_it_was_sent(service: Harness, text: str) -> None:
    sku, pool, name = full(text, 128), full(text, 64), full(text, 256)
    await service.create_item(sku, 10, pool=pool, display_name=name)
    found = await service.item(sku, pool)
    assert (found.sku, found.pool, found.display_name) == (sku, pool, name)
    request = pb.ReserveRequest(
        request_id=full(text, 128),
        lines=[{"sku": sku, "pool": pool, "quantity": 4}],
        holder=full(text, 256),
        reference=full(text, 128),
        metadata={full(text, 64, str(number % 10)): full(text, 512) for number in range(10)},
        duplicate_window={"seconds": 60},
    )
    held = (await service.reservations.Reserve(request)).reservation
    assert (held.holder, held.reference, dict(held.metadata)) == (
        request.holder, request.reference, dict(request.metadata)
    )  # fmt: skip
    assert (await service.reservations.Reserve(request)).replayed
    by_reference = pb.GetReservationRequest(reference=held.reference)
    assert (await service.reservations.GetReservation(by_reference)).reservation == held
    confirm = pb.ConfirmRequest(
        reference=held.reference,
        order_id=full(text, 128),
        customer={"name": full(text, 256), "email": full(text, 254, "@")},
    )
    sold = (await service.reservations.Confirm(confirm)).reservation
    assert (sold.order_id, sold.customer.name, sold.customer.email) == (
        confirm.order_id, confirm.customer.name, confirm.customer.email
    )  # fmt: skip
    reason = full(text, 512, "\nsecond line")
    refund = pb.RefundRequest(reservation_id=held.reservation_id, reason=reason, lines=[(request.lines[0])])
    assert (await service.reservations.Refund(refund)).reservation.reason == reason
    for wanted in (
        pb.ListReservationsRequest(holder=held.holder),
        pb.ListReservationsRequest(order_id=sold.order_id),
        pb.ListReservationsRequest(sku=sku, pool=pool),
    ):
        listed = await service.reservations.ListReservations(wanted)
        assert [found.reservation_id for found in listed.reservations] == [held.reservation_id], wanted
    trail = pb.ListReservationEventsRequest(reservation_id=held.reservation_id)
    assert (await service.reservations.ListReservationEvents(trail)).events[-1].reason == reason
    refusal = await refused(service.reserve([(sku, pool, 100)]))
    assert (refusal.reason, refusal.metadata["sku"]) == ("CAPACITY_EXCEEDED", sku)
    assert refusal.details["CapacityShortfall"].lines[0].sku == sku
    await service.verify()


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_pages_prefixes_watches_and_streams_go_on_over_such_names(service: Harness, text: str) -> None:
    names = [(full(text, 128, f"{number}"), full(text, 64)) for number in range(5)]
    items = [item_pb2.Item(sku=sku, pool=pool, capacity=1) for sku, pool in names]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    prefix = full(text, 127)
    seen: list[tuple[str, str]] = []
    token = ""
    while not seen or token:
        request = inventory.ListItemsRequest(page_size=1, sku_prefix=prefix, pool=full(text, 64), page_token=token)
        page = await service.inventory.ListItems(request)
        seen += [(item.sku, item.pool) for item in page.items]
        token = page.next_page_token
    assert seen == names
    watch = service.inventory.WatchInventory(inventory.WatchInventoryRequest(sku_prefix=prefix))
    watched: set[str] = set()
    async for message in watch:
        watched |= {item.sku for item in message.items}
        if message.snapshot_complete:
            break
    watch.cancel()
    assert watched == {sku for sku, _ in names}
    told: list[str] = []
    stream = service.events.StreamEvents(events.StreamEventsRequest(from_oldest=True))
    async for answer in stream:
        told += [event.item.sku for event in answer.events]
        if len(told) >= len(names):
            break
    stream.cancel()
    assert sorted(told) == sorted(sku for sku, _ in names)


async def test_what_a_person_is_called_or_writes_from_is_not_refused(service: Harness) -> None:
    await service.create_item("bed", 20)
    people = [
        ("Jürgen Müller", "jürgen@müller.example"),
        ("张伟", "用户@例子.公司"),
        ("Ἀριστοτέλης", "δοκιμή@παράδειγμα.δοκιμή"),
        ("O'Neill-Smith, Jr.", '"o neill"@example.com'),
        ("محمد", "محمد@مثال.إختبار"),
        ("X Æ A-12", "a@[192.0.2.1]"),
        ("नाम", "नाम@उदाहरण.परीक्षा"),
    ]
    for name, email in people:
        held = await service.reserve({"bed": 1})
        request = pb.ConfirmRequest(reservation_id=held.reservation_id, customer={"name": name, "email": email})
        sold = (await service.reservations.Confirm(request)).reservation
        assert (sold.customer.name, sold.customer.email) == (name, email)
    for email in ("nobody", "a@b\n", "a@" + "b" * 253):
        held = await service.reserve({"bed": 1})
        request = pb.ConfirmRequest(reservation_id=held.reservation_id, customer={"email": email})
        assert (await refused(service.reservations.Confirm(request))).metadata["fields"] == "customer.email"


def test_each_text_of_a_request_has_a_longest_length() -> None:
    unlimited = {
        f"{method.input_type.name}.{field.name}"
        for service in SERVICES
        for method in service.methods
        for field in method.input_type.fields
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and not _is_limited(field)
    }
    assert unlimited == set()


def _is_limited(field: FieldDescriptor) -> bool:
    rules = rules_of(field).string
    return bool(rules.max_len or rules.uuid)


async def test_a_reason_of_several_lines_is_taken_and_other_control_characters_are_named(service: Harness) -> None:
    await service.create_item("bed", 1)
    held = await service.reserve({"bed": 1}, reference="cart")
    request = pb.CancelRequest(reference="cart", reason="first\u0007")
    refusal = await refused(service.reservations.Cancel(request))
    [violation] = refusal.details["BadRequest"].field_violations
    assert violation.description == "must not contain control characters other than line breaks and tabs"
    request.reason = "first\r\n\tsecond"
    cancelled = (await service.reservations.Cancel(request)).reservation
    assert (cancelled.reservation_id, cancelled.reason) == (held.reservation_id, request.reason)
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_api_key_for_a_client_and_pools_of_any_script_is_listed(service: Harness) -> None:
    for text in SCRIPTS.values():
        pools = [full(text, 64, f"{number:02}") for number in range(100)]
        request = admin.CreateApiKeyRequest(client=full(text, 128), scopes=["reserve"], pools=pools)
        made = (await service.admin.CreateApiKey(request)).api_key
        assert (made.client, list(made.pools)) == (request.client, pools)
    keys: list[str] = []
    token = ""
    while not keys or token:
        page = await service.admin.ListApiKeys(admin.ListApiKeysRequest(page_size=2, page_token=token))
        keys += [key.client for key in page.api_keys]
        token = page.next_page_token
    assert keys == [full(text, 128) for text in reversed(SCRIPTS.values())]
