"""RESERVATION_RETENTION: what has ended goes, what counts stays, and what was told is told the same ever after."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest

from holdsvc.api import convert
from holdsvc.engine import retention
from holdsvc.ledger import removal
from holdsvc.ledger.feed import UNKNOWN, Filter, Position, read
from holdsvc.relay.cloud_event import cloud_event
from holdsvc.settings import Settings, SettingsError
from inventoryhold.v1 import event_pb2, limit_service_pb2, reservation_pb2
from inventoryhold.v1 import event_service_pb2 as events_pb
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import lines, wanted
from tests.support.harness import Harness, StartService, refused
from tests.support.limits import set_limit
from tests.support.partners import new_caller
from tests.support.polling import until

Reservation = reservation_pb2.Reservation
Make = Callable[[Harness], Awaitable[Reservation]]

AGE = timedelta(hours=48)


async def remove(service: Harness, age: timedelta = AGE, **bounds: int) -> int:
    """Walks once over all reservations; returns how many were removed."""
    removed = 0
    async with service.cell.database.connection() as connection:
        while True:
            step = await removal.remove(connection, age, **bounds)
            removed += step.removed_count
            if not step.more:
                return removed


async def trail(service: Harness, reservation_id: str, metadata: Any = None) -> list[event_pb2.Event]:
    request = pb.ListReservationEventsRequest(reservation_id=reservation_id, page_size=1000)
    return list((await service.reservations.ListReservationEvents(request, metadata=metadata)).events)


async def streamed(service: Harness, count: int, metadata: Any = None) -> list[event_pb2.Event]:
    """The oldest events of the feed."""
    told: list[event_pb2.Event] = []
    stream = service.events.StreamEvents(events_pb.StreamEventsRequest(from_oldest=True), metadata=metadata, timeout=30)
    while len(told) < count:
        message = await stream.read()
        assert isinstance(message, events_pb.StreamEventsResponse)
        told += message.events
    stream.cancel()
    return told


async def relayed(service: Harness) -> list[bytes]:
    """What the relay publishes of the whole feed."""
    [[last, day]] = service.sql("SELECT max(event_id), max(occur_day) FROM event")
    async with service.cell.database.connection() as connection:
        found, _ = await read(connection, [Filter(None)], UNKNOWN, Position(last, day), limit=1000)
    return [cloud_event(event.tenant, convert.event(event.event), event.hash).encode() for event in found]


async def _reserve(service: Harness, **fields: Any) -> dict[str, Any]:
    """The target of a hold of four beds and two tours."""
    made = await service.reserve({"bed": 4, "tour": 2}, holder="ann", reference="cart", metadata={"a": "b"}, **fields)
    return {"reservation_id": made.reservation_id}


async def _modified_three_times(service: Harness) -> Reservation:
    target = await _reserve(service)
    modify = service.reservations.Modify
    await modify(pb.ModifyRequest(**target, lines=wanted(bed=1, tour=0), update_mask={"paths": ["lines"]}))
    await modify(pb.ModifyRequest(**target, holder="bob", metadata={}, update_mask={"paths": ["holder", "metadata"]}))
    await modify(pb.ModifyRequest(**target, lines=wanted(bed=5, boat=1), update_mask={"paths": ["lines"]}))
    return (await service.reservations.Cancel(pb.CancelRequest(**target, reason="rain"))).reservation


async def _cancelled_in_parts(service: Harness) -> Reservation:
    target = await _reserve(service)
    await service.reservations.Extend(pb.ExtendRequest(**target, ttl=timedelta(hours=2)))
    await service.reservations.Cancel(pb.CancelRequest(**target, lines=lines(bed=3)))
    return (await service.reservations.Cancel(pb.CancelRequest(**target))).reservation


async def _expired(service: Harness) -> Reservation:
    target = await _reserve(service, ttl=timedelta(seconds=1))
    service.clock.advance(timedelta(seconds=2))
    await service.sweep()
    return await service.get(target["reservation_id"])


async def _refunded_in_parts(service: Harness) -> Reservation:
    target = await _reserve(service)
    await service.reservations.Confirm(pb.ConfirmRequest(**target, lines=lines(bed=3, tour=2), order_id="A-1"))
    await service.reservations.Refund(pb.RefundRequest(**target, lines=lines(bed=1)))
    return (await service.reservations.Refund(pb.RefundRequest(**target, write_off=True))).reservation


async def _fulfilled_with_a_return(service: Harness) -> Reservation:
    target = await _reserve(service)
    await service.reservations.Modify(pb.ModifyRequest(**target, lines=wanted(bed=5), update_mask={"paths": ["lines"]}))
    await service.reservations.Confirm(pb.ConfirmRequest(**target))
    await service.reservations.Fulfil(pb.FulfilRequest(**target, lines=lines(bed=2)))
    back = pb.RefundRequest(**target, lines=lines(bed=1), units=pb.RefundRequest.UNITS_FULFILLED)
    await service.reservations.Refund(back)
    return (await service.reservations.Fulfil(pb.FulfilRequest(**target))).reservation


async def _rescued_and_refunded(service: Harness) -> Reservation:
    target = await _reserve(service, ttl=timedelta(seconds=1))
    service.clock.advance(timedelta(seconds=2))
    await service.reservations.Confirm(pb.ConfirmRequest(**target, rescue=True))
    return (await service.reservations.Refund(pb.RefundRequest(**target))).reservation


ENDED: list[Make] = [
    _modified_three_times,
    _cancelled_in_parts,
    _expired,
    _refunded_in_parts,
    _fulfilled_with_a_return,
    _rescued_and_refunded,
]


async def stocked(service: Harness) -> Harness:
    for sku in ("bed", "tour", "boat"):
        await service.create_item(sku, 1000)
    return service


async def test_trail_feed_and_relay_tell_each_event_of_a_removed_reservation_as_it_then_was(service: Harness) -> None:
    await stocked(service)
    ended = [await make(service) for make in ENDED]
    trails = {each.reservation_id: await trail(service, each.reservation_id) for each in ended}
    count = 3 + sum(map(len, trails.values()))
    feed, relay = await streamed(service, count), await relayed(service)
    assert len(feed) == len(relay) == count
    service.clock.advance(AGE)
    assert await remove(service) == len(ended)
    assert service.sql("SELECT count(*) FROM reservation_line") == [(0,)]
    for each in ended:
        assert await trail(service, each.reservation_id) == trails[each.reservation_id]
        request = pb.GetReservationRequest(reservation_id=each.reservation_id)
        assert (await refused(service.reservations.GetReservation(request))).reason == "RESERVATION_NOT_FOUND"
    assert await streamed(service, count) == feed
    assert await relayed(service) == relay
    assert not (await service.reservations.ListReservations(pb.ListReservationsRequest())).reservations
    await service.verify()


async def test_what_is_held_or_confirmed_stays_and_what_ended_lately_too(service: Harness) -> None:
    await stocked(service)
    held = await _reserve(service, ttl=timedelta(hours=24))
    sold = await _reserve(service)
    await service.reservations.Confirm(pb.ConfirmRequest(**sold))
    partly = await _reserve(service)
    await service.reservations.Confirm(pb.ConfirmRequest(**partly))
    await service.reservations.Fulfil(pb.FulfilRequest(**partly, lines=lines(bed=1)))
    # Fulfilled long ago, and given back a moment ago.
    returned = (await _fulfilled_with_a_return(service)).reservation_id
    service.clock.advance(AGE - timedelta(hours=30))
    service.clock.advance(timedelta(hours=30))
    await service.reservations.Refund(pb.RefundRequest(reservation_id=returned, lines=lines(bed=1)))
    cancelled = await _modified_three_times(service)
    # Its time is over, but no sweep has been here: its units are still taken.
    assert await remove(service) == 0
    await service.sweep()
    service.clock.advance(AGE - timedelta(minutes=1))
    assert await remove(service) == 1
    service.clock.advance(timedelta(hours=2))
    assert await remove(service) == 2
    left = {row[0] for row in service.sql("SELECT reservation_id::text FROM reservation")}
    assert left == {sold["reservation_id"], partly["reservation_id"]}
    assert {held["reservation_id"], returned, cancelled.reservation_id}.isdisjoint(left)
    await service.verify()


async def test_a_replay_of_a_removed_reserve_is_not_found_and_makes_nothing_new(
    service: Harness,
) -> None:
    await stocked(service)
    request = pb.ReserveRequest(lines=lines(bed=1), request_id="once")
    made = (await service.reservations.Reserve(request)).reservation
    cancel = pb.CancelRequest(reservation_id=made.reservation_id, request_id="undo")
    await service.reservations.Cancel(cancel)
    service.clock.advance(AGE)
    assert await remove(service) == 1
    for call in (service.reservations.Reserve(request), service.reservations.Cancel(cancel)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
        assert refusal.metadata == {"reservation_id": made.reservation_id}
    batch = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[request, request]))
    assert [result.error.code for result in batch.results] == [grpc.StatusCode.NOT_FOUND.value[0]] * 2
    assert service.sql("SELECT count(*) FROM reservation") == [(0,)]


async def test_the_order_id_of_a_removed_reservation_is_never_given_again(service: Harness) -> None:
    await stocked(service)
    await _refunded_in_parts(service)
    service.clock.advance(AGE)
    assert await remove(service) == 1
    target = await _reserve(service)
    refusal = await refused(service.reservations.Confirm(pb.ConfirmRequest(**target, order_id="A-1")))
    assert (refusal.reason, refusal.metadata["order_id"]) == ("ORDER_ID_IN_USE", "A-1")
    found = await service.reservations.ListReservations(pb.ListReservationsRequest(order_id="A-1"))
    assert not found.reservations


async def test_a_key_sees_of_removed_reservations_what_it_saw_before(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    shop = new_caller(service, "shop")
    own_only = ("reserve", "events.read", "inventory.write")
    other, web = (new_caller(service, "other", scopes=own_only), new_caller(service, "web", pools=["web"]))
    for pool in ("", "web"):
        item = {"sku": "bed", "pool": pool, "capacity": 9}
        await service.inventory.CreateItem(inventory.CreateItemRequest(item=item), metadata=shop)
    made: dict[str, str] = {}
    for name, metadata, pools in (("shop", shop, ["", "web"]), ("other", other, [""]), ("web", web, ["web"])):
        wanted_lines = [{"sku": "bed", "pool": pool, "quantity": 1} for pool in pools]
        answer = await service.reservations.Reserve(pb.ReserveRequest(lines=wanted_lines), metadata=metadata)
        made[name] = answer.reservation.reservation_id
        await service.reservations.Cancel(pb.CancelRequest(reservation_id=made[name]), metadata=metadata)

    async def seen() -> dict[Any, Any]:
        told: dict[Any, Any] = {}
        for key, metadata, count in (("shop", shop, 8), ("other", other, 4), ("web", web, 3)):
            told[key] = await streamed(service, count, metadata)
            for name, reservation_id in made.items():
                try:
                    told[key, name] = await trail(service, reservation_id, metadata)
                except grpc.RpcError as error:
                    told[key, name] = error.code()
        return told

    before = await seen()
    assert before["web", "shop"] == before["other", "web"] == grpc.StatusCode.NOT_FOUND
    service.clock.advance(AGE)
    assert await remove(service) == 3
    assert await seen() == before


async def test_small_steps_remove_the_same_and_a_long_history_is_written_over_several(service: Harness) -> None:
    await stocked(service)
    target = await _reserve(service)
    for minutes in range(31, 51):
        await service.reservations.Extend(pb.ExtendRequest(**target, ttl=timedelta(minutes=minutes)))
    await service.reservations.Cancel(pb.CancelRequest(**target))
    others = [(await _expired(service)).reservation_id for _ in range(5)]
    trails = {id_: await trail(service, id_) for id_ in (target["reservation_id"], *others)}
    assert len(trails[target["reservation_id"]]) == 22
    service.clock.advance(AGE)
    async with service.cell.database.connection() as connection:
        step = await removal.remove(connection, AGE, 3, 10)
    assert (step.removed_count, step.more) == (0, True)
    # Half of its history is written, and it is there: all is told as before.
    assert await trail(service, target["reservation_id"]) == trails[target["reservation_id"]]
    assert await remove(service, scan_max=3, events_max=10) == 6
    for id_, events in trails.items():
        assert await trail(service, id_) == events


async def test_processes_share_one_walk_and_remove_each_reservation_once(service: Harness) -> None:
    await stocked(service)
    await asyncio.gather(*(_cancelled_in_parts(service) for _ in range(60)))
    service.clock.advance(AGE)
    assert sum(await asyncio.gather(*(remove(service, scan_max=7) for _ in range(4)))) == 60
    # The next walk begins an hour after this one began.
    await _cancelled_in_parts(service)
    long_ago = "cancel_time = cancel_time - interval '49 hours', reservation_id = first_id_of('2026-01-01')"
    service.sql(f"UPDATE reservation SET {long_ago}")
    assert await remove(service) == 0
    service.clock.advance(removal.WALK_PAUSE)
    assert await remove(service) == 1


async def test_a_fulfilled_reservation_stays_as_long_as_it_counts_for_a_limit(service: Harness) -> None:
    await stocked(service)
    confirmed_too = {"sku_prefix": "bed", "counts": "COUNTS_HELD_AND_CONFIRMED"}
    await set_limit(service, "ever", 6, **confirmed_too)
    await set_limit(service, "month", 6, **confirmed_too, window=timedelta(days=30))
    await _fulfilled_with_a_return(service)
    service.clock.advance(timedelta(days=31))
    assert await remove(service) == 0
    assert (await refused(_reserve(service))).metadata["limit_id"] == "ever"
    await service.limits.DeleteLimit(limit_service_pb2.DeleteLimitRequest(limit_id="ever"))
    target = await _fulfilled_with_a_return(service)
    service.clock.advance(timedelta(days=29))
    assert await remove(service) == 1
    assert (await refused(_reserve(service))).metadata["limit_id"] == "month"
    assert await service.get(target.reservation_id) == target
    await service.verify()


async def test_a_worker_applies_retention_by_itself(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_INTERVAL_S", 0.05)
    service = await stocked(await start_service(reservation_retention="48h", sweeping=True))
    await _modified_three_times(service)
    service.clock.advance(AGE - timedelta(hours=2))
    await _modified_three_times(service)
    service.clock.advance(timedelta(hours=3))
    await until(lambda: service.sql("SELECT count(*) FROM reservation") == [(1,)])
    await service.verify()


async def test_nothing_is_removed_where_retention_is_not_set(start_service: StartService) -> None:
    service = await stocked(await start_service(sweeping=True))
    await _modified_three_times(service)
    service.clock.advance(timedelta(days=3650))
    async with asyncio.timeout(10):
        await retention.Retention(service.settings, service.cell.database).run()
    assert service.sql("SELECT count(*), (SELECT begin_time FROM retention_walk) FROM reservation") == [(1, None)]


def test_retention_below_the_time_in_which_calls_come_back_is_refused() -> None:
    for kept in ({"reservation_retention": "47h"}, {"reservation_retention": "72h", "rescue_window": "73h"}):
        with pytest.raises(SettingsError, match="RESERVATION_RETENTION is below"):
            Settings.load(auth="off", **kept)
    assert Settings.load(auth="off", reservation_retention="48h").reservation_retention == AGE


async def test_the_ledger_itself_keeps_reservations_for_a_day(service: Harness) -> None:
    with pytest.raises(Exception, match="kept for a day at least"):
        await remove(service, timedelta(hours=23))
