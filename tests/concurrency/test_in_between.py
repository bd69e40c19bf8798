"""What callers see while another call stands between its steps: a test's lock holds it there."""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from holdsvc.change_requests import Request
from holdsvc.engine import lane
from holdsvc.ledger import requests
from holdsvc.model import Caller
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support import sessions
from tests.support.harness import Harness, StartService, outcome
from tests.support.limits import set_limit

State = reservation_pb2.Reservation

TTL = Duration(seconds=30)
LAPSE = timedelta(seconds=31)


def call(awaitable: Any) -> "asyncio.Task[Any]":
    """Starts a call now; its task brings the answer or the reason."""
    return asyncio.ensure_future(outcome(awaitable))


def claim_request_id(other: psycopg.Connection, request_id: str) -> None:
    """Takes a request id in a transaction that stays open: who claims it next waits, after having judged."""
    key = requests._key("default", Request(Caller("default", "dev", "", frozenset()), request_id, b""))
    other.execute(
        "INSERT INTO holdsvc.request (tenant, request_key, rpc, fingerprint, create_time)"
        " VALUES ('default', %s, 'Other', '', clock_timestamp())",
        (key,),
    )


async def test_no_caller_sees_expired_before_confirmed(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of these wait at the same time, in their transactions, until the lock goes.
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    one, other = await start_service(pool_size=24), await start_service(pool_size=24)
    await one.create_item("seat", 1)
    held = await one.reserve({"seat": 1}, ttl=TTL, reference="cart")
    with sessions.transaction(one.owner_dsn) as lock:
        claim_request_id(lock, "confirm-1")
        confirm = call(
            one.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id, request_id="confirm-1"))
        )
        await sessions.until_blocked(one.owner_dsn)
        # It has been judged in time and is not committed; by now the hold has lapsed.
        one.clock.advance(LAPSE)
        await other.sweep()
        asked = [
            call(other.get(held.reservation_id)),
            call(other.reservations.ListReservations(pb.ListReservationsRequest(sku="seat"))),
            call(other.reservations.ListReservations(pb.ListReservationsRequest(reference="cart"))),
            call(other.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))),
            call(other.reservations.Extend(pb.ExtendRequest(reference="cart"))),
            call(other.reserve({"seat": 1})),
        ]
        await sessions.until_blocked(one.owner_dsn, 1 + len(asked))
        assert not any(task.done() for task in [confirm, *asked])
    assert (await confirm).reservation.state == State.STATE_CONFIRMED
    got, by_sku, by_reference, cancelled, extended, reserved = await asyncio.gather(*asked)
    assert got.state == State.STATE_CONFIRMED
    for listed in (by_sku, by_reference):
        assert [reservation.state for reservation in listed.reservations] == [State.STATE_CONFIRMED]
    assert cancelled == extended == "RESERVATION_ALREADY_CONFIRMED"
    assert reserved == "CAPACITY_EXCEEDED"
    await one.verify()


async def test_a_stop_of_the_sale_waits_for_the_batch_in_flight_and_holds_for_the_next_call(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    one, other = await start_service(), await start_service()
    await one.create_item("seat", 10)
    entries = [pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 2}], request_id=f"r-{n}") for n in range(3)]
    closed = inventory.UpdateItemRequest(
        item={"sku": "seat", "sale_state": "SALE_STATE_CLOSED"}, update_mask={"paths": ["sale_state"]}
    )
    with sessions.transaction(one.owner_dsn) as lock:
        # The batch has locked the item and judged its entries. The stop waits for the item, the next hold behind it.
        claim_request_id(lock, "r-2")
        batch = call(one.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries)))
        await sessions.until_blocked(one.owner_dsn, 1)
        stop = call(one.inventory.UpdateItem(closed))
        await sessions.until_blocked(one.owner_dsn, 2)
        later = call(other.reserve({"seat": 1}))
        await sessions.until_blocked(one.owner_dsn, 3)
    assert [result.WhichOneof("result") for result in (await batch).results] == ["reservation"] * 3
    assert (await stop).item.held == 6
    assert await later == "SALE_CLOSED"
    assert (await one.item("seat")).held == 6
    await one.verify()


async def test_a_batch_that_must_run_again_refuses_nobody_for_what_was_not_taken(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    await service.create_item("seat", 10)
    holds = [await service.reserve({"seat": 4}, holder=holder) for holder in ("ann", "ben")]
    growths = [
        pb.ModifyRequest(
            reservation_id=hold.reservation_id,
            request_id=request_id,
            lines=[{"sku": "seat", "quantity": 6}],
            update_mask={"paths": ["lines"]},
        )
        for hold, request_id in zip(holds, ("taken", ""), strict=True)
    ]
    with sessions.transaction(service.owner_dsn) as lock:
        claim_request_id(lock, "taken")
        modified = call(service.reservations.BatchModify(pb.BatchModifyRequest(requests=growths)))
        await sessions.until_blocked(service.owner_dsn)
        lock.commit()
    late, grown = (await modified).results
    assert "request_id 'taken' was used" in late.error.message
    assert grown.reservation.lines[0].quantity == 6

    await set_limit(service, "seven", 7)
    await service.create_item("bed", 10)
    wanted = [("late", "ben"), ("", "ben"), ("", "")]
    entries = [
        pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}], request_id=request_id, holder=holder)
        for request_id, holder in wanted
    ]
    with sessions.transaction(service.owner_dsn) as lock:
        claim_request_id(lock, "late")
        reserved = call(service.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries)))
        await sessions.until_blocked(service.owner_dsn)
        lock.commit()
    late, second, unnamed = (await reserved).results
    assert "request_id 'late' was used" in late.error.message
    assert second.reservation.lines[0].quantity == 1
    assert "invalid: holder" in unnamed.error.message
    await service.verify()


@pytest.mark.parametrize("change", ["Confirm", "Cancel"])
async def test_a_change_that_waited_past_the_expiry_is_refused(service: Harness, change: str) -> None:
    await service.create_item("seat", 1)
    held = await service.reserve({"seat": 1}, ttl=TTL)
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
        request = getattr(pb, f"{change}Request")(reservation_id=held.reservation_id)
        waiting = call(getattr(service.reservations, change)(request))
        await sessions.until_blocked(service.owner_dsn)
        service.clock.advance(LAPSE)
    assert await waiting == "RESERVATION_EXPIRED"
    await service.sweep()
    assert (await service.item("seat")).remaining == 1
    await service.verify()


async def test_an_extend_that_waited_past_the_expiry_revives_nothing(service: Harness) -> None:
    await service.create_item("seat", 1)
    held = await service.reserve({"seat": 1}, ttl=TTL)
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.reservation FOR UPDATE")
        waiting = call(service.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id)))
        await sessions.until_blocked(service.owner_dsn)
        service.clock.advance(LAPSE)
    assert await waiting == "RESERVATION_EXPIRED"
    assert (await service.get(held.reservation_id)).state == State.STATE_EXPIRED
    await service.verify()


async def test_a_reserve_that_waited_counts_its_ttl_from_the_time_it_was_judged(service: Harness) -> None:
    await service.create_item("seat", 1)
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
        waiting = call(service.reserve({"seat": 1}, ttl=TTL))
        await sessions.until_blocked(service.owner_dsn)
        service.clock.advance(LAPSE)
    held = await waiting
    assert held.state == State.STATE_HELD
    assert (await service.get(held.reservation_id)).state == State.STATE_HELD
    await service.verify()


async def test_a_sale_of_the_units_that_a_sweep_is_just_releasing_succeeds(service: Harness) -> None:
    await service.create_item("seat", 1)
    await service.reserve({"seat": 1}, ttl=TTL)
    service.clock.advance(LAPSE)
    with psycopg.connect(service.owner_dsn) as sweep:
        sweep.execute("SELECT * FROM holdsvc.release_expired_reservations()")
        sale = call(service.reserve({"seat": 1}))
        await sessions.until_blocked(service.owner_dsn)
        sweep.commit()
    assert (await sale).state == State.STATE_HELD
    await service.verify()


async def test_a_sale_waits_for_the_sweep_that_has_only_just_picked_its_holds(service: Harness) -> None:
    await service.create_item("seat", 2)
    await service.reserve({"seat": 2}, ttl=TTL)
    service.clock.advance(LAPSE)
    with psycopg.connect(service.owner_dsn) as sweep:
        sweep.execute("SELECT 1 FROM holdsvc.reservation FOR NO KEY UPDATE SKIP LOCKED")
        sales = [call(service.reserve({"seat": 1})) for _ in range(2)]
        await sessions.until_blocked(service.owner_dsn)
        assert not any(sale.done() for sale in sales)
        sweep.execute("SELECT * FROM holdsvc.release_expired_reservations()")
        sweep.commit()
    assert [(await sale).state for sale in sales] == [State.STATE_HELD] * 2
    await service.verify()


async def test_sales_beside_a_background_sweep_never_fail_for_lapsed_units(
    start_service: StartService,
) -> None:
    services = [await start_service(sweeping=True, sweep_interval="10ms", sweep_batch=3) for _ in range(2)]
    await services[0].create_item("seat", 20)
    for _ in range(15):
        sales = await asyncio.gather(
            *(outcome(services[number % 2].reserve({"seat": 1}, ttl=TTL)) for number in range(20))
        )
        assert not [sale for sale in sales if isinstance(sale, str)]
        await asyncio.to_thread(services[0].clock.advance, LAPSE)
    await services[0].verify()


async def test_a_capacity_cut_may_take_lapsed_units_but_no_held_ones(service: Harness) -> None:
    await service.create_item("seat", 5)
    await service.reserve({"seat": 2}, ttl=TTL)
    service.clock.advance(LAPSE)
    await service.reserve({"seat": 1}, ttl=TTL)
    cuts = await asyncio.gather(
        *(
            outcome(service.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", delta=-1)))
            for _ in range(8)
        )
    )
    assert sum(not isinstance(cut, str) for cut in cuts) == 4
    assert {cut for cut in cuts if isinstance(cut, str)} == {"CAPACITY_IN_USE"}
    item = await service.item("seat")
    assert (item.capacity, item.remaining, item.held) == (1, 0, 1)
    await service.verify()
