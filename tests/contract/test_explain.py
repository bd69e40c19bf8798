"""ExplainAvailability, and when the units come free that a refused call was short of."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from holdsvc.ledger import availability
from inventoryhold.v1 import error_reason_pb2, item_pb2
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2 as reservations_pb
from tests.contract.lines import wanted
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import new_caller

MINUTE = timedelta(minutes=1)


async def explained(
    service: Harness, sku: str = "bed", pool: str = "", metadata: Any = None
) -> pb.ExplainAvailabilityResponse:
    request = pb.ExplainAvailabilityRequest(sku=sku, pool=pool)
    return await service.inventory.ExplainAvailability(request, metadata=metadata)


async def update(service: Harness, **fields: Any) -> None:
    item = item_pb2.Item(sku="bed", **fields)
    await service.inventory.UpdateItem(pb.UpdateItemRequest(item=item, update_mask={"paths": [*fields]}))


async def ends(service: Harness, reservation_id: str) -> datetime:
    return (await service.get(reservation_id)).expire_time.ToDatetime(UTC)


def short(refusal: Any) -> list[error_reason_pb2.ShortLine]:
    return list(refusal.details["CapacityShortfall"].lines)


def told(line: error_reason_pb2.ShortLine) -> tuple[datetime | None, int]:
    time = line.next_free_time.ToDatetime(UTC) if line.HasField("next_free_time") else None
    return time, line.next_free_quantity


async def test_the_numbers_add_up_to_what_a_reserve_can_have(service: Harness) -> None:
    await service.create_item("bed", 10, oversell_limit=3, buffer=2)
    await service.reserve({"bed": 4}, ttl=MINUTE)
    await service.reserve({"bed": 1}, ttl=timedelta(seconds=1))
    service.clock.advance(timedelta(seconds=2))
    found = await explained(service)
    assert (found.remaining, found.oversell, found.buffer, found.lapsed) == (5, 3, 2, 1)
    assert found.available == 5 + 3 - 2 + 1
    assert found.sale_state == item_pb2.Item.SALE_STATE_OPEN
    assert (await refused(service.reserve({"bed": 8}))).metadata["available"] == "7"
    await update(service, sale_state=item_pb2.Item.SALE_STATE_CLOSED)
    closed = await explained(service)
    assert (closed.available, closed.remaining, closed.sale_state) == (0, 5, item_pb2.Item.SALE_STATE_CLOSED)
    refusal = await refused(explained(service, "none"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")


async def test_held_units_are_told_by_the_time_at_which_they_end_in_at_most_20_steps(service: Harness) -> None:
    await service.create_item("bed", 1000)
    await service.create_item("bed", 10, pool="web")
    times: list[tuple[datetime, int]] = []
    for minutes in (5, 3, 9):
        made = await service.reserve({"bed": minutes}, ttl=minutes * MINUTE)
        times.append((made.expire_time.ToDatetime(UTC), minutes))
    await service.reserve([("bed", "web", 7)], ttl=4 * MINUTE)
    found = await explained(service)
    assert [(step.time.ToDatetime(UTC), step.quantity) for step in found.held] == sorted(times)
    ttls = range(10, 60)
    await asyncio.gather(*(service.reserve({"bed": 1}, ttl=minutes * MINUTE) for minutes in ttls))
    many = await explained(service)
    assert len(many.held) == 20
    assert sum(step.quantity for step in many.held) == 17 + 50 == (await service.item("bed")).held
    ordered = [step.time.ToDatetime(UTC) for step in many.held]
    assert ordered == sorted(ordered)
    [[last]] = service.sql("SELECT max(expire_time) FROM reservation_line WHERE pool = ''")
    assert ordered[-1] == last
    assert many.held_later == 0


async def test_own_holds_are_named_and_those_of_others_are_sums(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    ann, bob = new_caller(service, "ann"), new_caller(service, "bob")
    web = new_caller(service, "ann", pools=["web"])
    for pool in ("", "web"):
        item = {"sku": "bed", "pool": pool, "capacity": 50}
        await service.inventory.CreateItem(pb.CreateItemRequest(item=item), metadata=ann)
    for metadata, quantity in ((ann, 2), (bob, 3)):
        await service.reservations.Reserve(
            reservations_pb.ReserveRequest(lines=[{"sku": "bed", "quantity": quantity}], reference=f"cart-{quantity}"),
            metadata=metadata,
        )
    found = await explained(service, metadata=ann)
    assert [(own.reference, own.quantity) for own in found.own_holds] == [("cart-2", 2)]
    assert sum(step.quantity for step in found.held) == 5
    mixed = [{"sku": "bed", "pool": pool, "quantity": 1} for pool in ("", "web")]
    await service.reservations.Reserve(reservations_pb.ReserveRequest(lines=mixed), metadata=ann)
    # A key of one pool may not see a reservation with lines in others.
    assert not (await explained(service, pool="web", metadata=web)).own_holds
    assert len((await explained(service, pool="web", metadata=ann)).own_holds) == 1
    assert (await refused(explained(service, metadata=web))).reason == "ITEM_NOT_FOUND"


async def test_only_the_holds_that_end_first_are_looked_at(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.create_item("bed", 100)
    for minutes in (1, 2, 3, 4, 5):
        await service.reserve({"bed": minutes}, ttl=minutes * MINUTE)
    monkeypatch.setattr(availability.explain, "__defaults__", (3,))
    found = await explained(service)
    assert [step.quantity for step in found.held] == [1, 2, 3]
    assert (found.held_later, [own.quantity for own in found.own_holds]) == (9, [1, 2, 3])


async def test_a_shortfall_says_when_the_missing_units_come_free(service: Harness) -> None:
    await service.create_item("bed", 10)
    ids = {
        m: (await service.reserve({"bed": q}, ttl=m * MINUTE)).reservation_id for q, m in ((4, 30), (2, 10), (3, 20))
    }
    expected = {2: (10, 3), 3: (10, 3), 4: (20, 6), 6: (20, 6), 7: (30, 10), 10: (30, 10)}
    for quantity, (minutes, there) in expected.items():
        [line] = short(await refused(service.reserve({"bed": quantity})))
        assert told(line) == (await ends(service, ids[minutes]), there)
    # No hold has what would be needed.
    [line] = short(await refused(service.reserve({"bed": 11})))
    assert told(line) == (None, 0)
    # Sold units do not come free.
    await service.reservations.Confirm(reservations_pb.ConfirmRequest(reservation_id=ids[10]))
    [line] = short(await refused(service.reserve({"bed": 2})))
    assert told(line) == (await ends(service, ids[20]), 4)
    service.clock.advance(30 * MINUTE + timedelta(seconds=1))
    assert (await service.reserve({"bed": 8})).lines[0].quantity == 8


async def test_holds_that_end_at_one_time_come_free_together(service: Harness) -> None:
    await service.create_item("bed", 6)
    requests = [{"lines": [{"sku": "bed", "quantity": 2}], "ttl": MINUTE} for _ in range(3)]
    await service.reservations.BatchReserve(reservations_pb.BatchReserveRequest(requests=requests))
    [line] = short(await refused(service.reserve({"bed": 1})))
    assert line.next_free_quantity == 6


async def test_what_is_beyond_the_buffer_must_come_back_first(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = [await service.reserve({"bed": 3}, ttl=minutes * MINUTE) for minutes in (1, 2, 3)]
    await update(service, buffer=4)
    [line] = short(await refused(service.reserve({"bed": 2})))
    # 1 remains, 4 are kept back: the first three units that come free only fill the buffer.
    assert told(line) == (made[1].expire_time.ToDatetime(UTC), 3)


async def test_each_line_is_told_by_itself_and_only_the_first_50_of_a_batch(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    skus = [f"i{number:02}" for number in range(60)]
    await service.inventory.BatchCreateItems(
        pb.BatchCreateItemsRequest(items=[{"sku": sku, "capacity": 2} for sku in skus])
    )
    first = await service.reserve(dict.fromkeys(skus, 1), ttl=MINUTE)
    free = first.expire_time.ToDatetime(UTC)
    lines = short(await refused(service.reserve({skus[0]: 2, skus[1]: 1, skus[2]: 3})))
    assert [(line.sku, *told(line)) for line in lines] == [(skus[0], free, 2), (skus[2], None, 0)]
    requests = [{"lines": [{"sku": sku, "quantity": 2}]} for sku in skus]
    batch = await service.reservations.BatchReserve(reservations_pb.BatchReserveRequest(requests=requests))
    found = []
    for result in batch.results:
        detail = error_reason_pb2.CapacityShortfall()
        assert result.error.details[1].Unpack(detail)
        found.append(told(detail.lines[0]))
    assert found == [(free, 2)] * 50 + [(None, 0)] * 10
    # Of a long queue of holds the first ones are looked at.
    monkeypatch.setattr(availability, "WALK_MAX", 1)
    await service.create_item("bed", 2)
    for minutes in (1, 2):
        await service.reserve({"bed": 1}, ttl=minutes * MINUTE)
    assert told(short(await refused(service.reserve({"bed": 1})))[0])[1] == 1
    assert told(short(await refused(service.reserve({"bed": 2})))[0]) == (None, 0)


async def test_growth_and_rescue_are_told_without_what_the_hold_has_itself(service: Harness) -> None:
    await service.create_item("bed", 5)
    own = await service.reserve({"bed": 2}, ttl=MINUTE)
    other = await service.reserve({"bed": 2}, ttl=2 * MINUTE)
    modify = reservations_pb.ModifyRequest(
        reservation_id=own.reservation_id, lines=wanted(bed=4), update_mask={"paths": ["lines"]}
    )
    [line] = short(await refused(service.reservations.Modify(modify)))
    assert (line.requested, line.available) == (4, 3)
    assert told(line) == (other.expire_time.ToDatetime(UTC), 5)
    service.clock.advance(MINUTE + timedelta(seconds=1))
    await service.sweep()
    taker = await service.reserve({"bed": 3}, ttl=10 * MINUTE)
    confirm = reservations_pb.ConfirmRequest(reservation_id=own.reservation_id, rescue=True)
    [line] = short(await refused(service.reservations.Confirm(confirm)))
    assert told(line) == (other.expire_time.ToDatetime(UTC), 2)
    assert taker.expire_time.ToDatetime(UTC) > other.expire_time.ToDatetime(UTC)
