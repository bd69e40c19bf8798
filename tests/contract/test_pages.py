"""Pages: their tokens cannot be made by callers, and no page is larger than its reader takes."""

import base64
import json
from typing import Any

import pytest

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused

READER_BYTES = 4 * 1024 * 1024
WIDE = "\U0001f6cf"


def _forged(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


FORGED = [
    "x",
    "nonsense",
    "\U0010ffff" * 10,
    "A" * 2048,
    _forged(b"\0" * 16),
    *(
        _forged(b"\0" * size + json.dumps(content).encode())
        for size in (0, 8, 16)
        for content in ([], ["a"], [1, "a"], {"a": 1}, None, 7, [1] * 200, [[1]], [1, None], ["\ud800"])
    ),
]


def _lists(service: Harness, token: str) -> list[Any]:
    some_id = "8f14e45f-ceea-467f-a0e6-2b1b4f6a1c11"
    return [
        service.reservations.ListReservations(pb.ListReservationsRequest(page_token=token)),
        service.reservations.ListReservationEvents(
            pb.ListReservationEventsRequest(reservation_id=some_id, page_token=token)
        ),
        service.inventory.ListItems(inventory.ListItemsRequest(page_token=token)),
        service.admin.ListApiKeys(admin.ListApiKeysRequest(page_token=token)),
    ]


async def test_a_forged_token_is_a_bad_field_of_every_list(service: Harness) -> None:
    for token in FORGED:
        for call in _lists(service, token):
            refusal = await refused(call)
            assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "page_token"}), token


async def test_a_token_is_good_for_its_own_list_and_filters_and_nothing_else(service: Harness) -> None:
    for number in range(3):
        await service.create_item(f"bed-{number}", 1)
    token = (await service.inventory.ListItems(inventory.ListItemsRequest(page_size=1))).next_page_token
    for call in (*_lists(service, token)[:2], _lists(service, token)[3]):
        assert (await refused(call)).metadata == {"fields": "page_token"}
    other = inventory.ListItemsRequest(page_token=token, sku_prefix="bed")
    assert (await refused(service.inventory.ListItems(other))).metadata == {"fields": "page_token"}
    for position in range(0, len(token), 7):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        call = service.inventory.ListItems(inventory.ListItemsRequest(page_token=changed))
        assert (await refused(call)).reason == "INVALID_FIELD"
    page = await service.inventory.ListItems(inventory.ListItemsRequest(page_size=2, page_token=token))
    assert [item.sku for item in page.items] == ["bed-1", "bed-2"]


async def test_every_process_takes_the_tokens_of_the_others_and_a_new_key_ends_them(
    service: Harness, start_service: StartService
) -> None:
    other = await start_service()
    for number in range(3):
        await service.create_item(f"bed-{number}", 1)
    token = (await service.inventory.ListItems(inventory.ListItemsRequest(page_size=1))).next_page_token
    request = inventory.ListItemsRequest(page_size=1, page_token=token)
    assert (await other.inventory.ListItems(request)).items[0].sku == "bed-1"
    service.sql("UPDATE holdsvc.feed_state SET token_key = 'another key'")
    third = await start_service()
    assert (await refused(third.inventory.ListItems(request))).metadata == {"fields": "page_token"}


async def test_pages_of_heavy_reservations_and_events_end_before_their_reader_refuses_them(service: Harness) -> None:
    lines = [
        item_pb2.ItemQuantity(sku=f"{number:03}" + WIDE * 125, pool=WIDE * 64, quantity=1) for number in range(100)
    ]
    items = [item_pb2.Item(sku=line.sku, pool=line.pool, capacity=1000) for line in lines]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    metadata = {f"{number:02}" + WIDE * 62: WIDE * 512 for number in range(32)}
    entry = pb.ReserveRequest(lines=lines, metadata=metadata)
    ids = []
    for _ in range(2):
        answer = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[entry] * 20))
        ids += [result.reservation.reservation_id for result in answer.results]
    seen, token, pages = [], "", 0
    while not pages or token:
        page = await service.reservations.ListReservations(pb.ListReservationsRequest(page_size=1000, page_token=token))
        assert page.ByteSize() < READER_BYTES
        seen += [found.reservation_id for found in page.reservations]
        token, pages = page.next_page_token, pages + 1
    assert pages > 1
    assert seen == sorted(ids, reverse=True)
    for ttl in range(40):
        extend = pb.ExtendRequest(reservation_id=ids[0], ttl={"seconds": 3600 + 600 * ttl})
        await service.reservations.Extend(extend)
    told, token, pages = 0, "", 0
    while not pages or token:
        request = pb.ListReservationEventsRequest(reservation_id=ids[0], page_size=1000, page_token=token)
        trail = await service.reservations.ListReservationEvents(request)
        assert trail.ByteSize() < READER_BYTES
        told, token, pages = told + len(trail.events), trail.next_page_token, pages + 1
    assert (told, pages > 1) == (41, True)


async def test_a_batch_answers_within_its_readers_limit_whatever_becomes_of_its_entries(service: Harness) -> None:
    items = [item_pb2.Item(sku=f"{number:03}" + "s" * 125, pool="p" * 64, capacity=10**6) for number in range(100)]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    lines = [item_pb2.ItemQuantity(sku=item.sku, pool=item.pool, quantity=1) for item in items]
    request = pb.BatchReserveRequest(
        requests=[pb.ReserveRequest(request_id=f"r{number}", lines=lines[:20]) for number in range(950)]
    )
    answer = await service.reservations.BatchReserve(request)
    assert answer.ByteSize() < READER_BYTES
    abridged = [result for result in answer.results if result.abridged]
    assert 0 < len(abridged) < 950
    assert answer.results[949].abridged
    assert not answer.results[0].abridged
    for result in (answer.results[0], answer.results[949]):
        found = await service.get(result.reservation.reservation_id)
        assert (found.state, found.revision, len(found.lines)) == (
            result.reservation.state, result.reservation.revision, 20
        )  # fmt: skip
    await service.verify()


@pytest.mark.parametrize("kind", ["short", "bad", "missing"])
async def test_a_batch_of_errors_answers_within_its_readers_limit(service: Harness, kind: str) -> None:
    await service.create_item("bed", 0)
    text = WIDE * (129 if kind == "bad" else 126)
    items = [item_pb2.Item(sku=f"{number:02}" + WIDE * 126, capacity=0) for number in range(100)]
    if kind == "short":
        await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    lines = [item_pb2.ItemQuantity(sku=f"{number:02}{text}", quantity=1) for number in range(7)]
    request = pb.BatchReserveRequest(requests=[pb.ReserveRequest(lines=lines)] * 1000)
    answer = await service.reservations.BatchReserve(request)
    assert answer.ByteSize() < READER_BYTES
    assert len(answer.results) == 1000
    codes = {result.error.code for result in answer.results}
    assert len(codes) == 1
    assert all(result.error.details for result in answer.results)
