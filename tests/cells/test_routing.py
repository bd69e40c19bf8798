"""Where a call goes: tenants of two cells through one port, tenants that move, keys."""

import asyncio
from typing import Any

import grpc

from holdsvc.api.auth.keyring import make_key
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.cells.conftest import StartCells
from tests.support.cells import TwoCells
from tests.support.harness import outcome, refusal_of, refused
from tests.support.partners import Partner
from tests.support.polling import until


async def create(caller: Partner, sku: str, capacity: int) -> None:
    """Creates an item."""
    await caller.inventory.CreateItem(inventory.CreateItemRequest(item=item_pb2.Item(sku=sku, capacity=capacity)))


def reserve(sku: str, quantity: int = 1) -> pb.ReserveRequest:
    """A request for units of an item."""
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=quantity)])


async def test_tenants_of_two_cells_are_served_through_one_port_each_from_its_own(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells()
    pair = [await cells.partner(service, cell) for cell in cells]
    for caller, capacity in zip(pair, (3, 5), strict=True):
        await create(caller, "seat", capacity)
        made = (await caller.reservations.Reserve(reserve("seat"))).reservation
        await caller.reservations.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id))
        listed = await caller.reservations.ListReservations(pb.ListReservationsRequest())
        assert [each.reservation_id for each in listed.reservations] == [made.reservation_id]
        assert (await caller.admin.VerifyLedger(admin.VerifyLedgerRequest())).reservation_count == 1
    for cell, capacity in zip(cells, (3, 5), strict=True):
        assert cells.sql(cell, "SELECT sum(capacity)::int FROM item ") == [(capacity,)]


def test_all_cells_sign_tokens_with_one_key(cells: TwoCells) -> None:
    [north, south] = [cells.sql(cell, "SELECT token_key FROM feed_state") for cell in cells]
    assert north == south


async def test_a_call_follows_a_tenant_that_moved_behind_the_process_and_no_unit_is_sold_twice(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells()
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 40)
    outcomes: list[str] = []
    flowing, sold = asyncio.Event(), asyncio.Semaphore(0)

    async def buy() -> None:
        while True:
            try:
                await caller.reservations.Reserve(reserve("seat"))
            except grpc.RpcError as error:
                outcomes.append(refusal_of(error).reason)
                if outcomes[-1] != "TENANT_MOVED":
                    return
                # Frozen: the move is under way.
                await asyncio.sleep(0.01)
            else:
                outcomes.append("OK")
                if outcomes.count("OK") >= 5:
                    flowing.set()
                if outcomes.count("OK") == 10:
                    await sold.acquire()

    buyers = [asyncio.create_task(buy()) for _ in range(4)]
    await flowing.wait()
    await asyncio.to_thread(cells.freeze, tenant)
    await asyncio.to_thread(cells.finish_move, tenant)
    sold.release()
    await asyncio.gather(*buyers)
    assert outcomes.count("OK") == 40
    assert set(outcomes) <= {"OK", "TENANT_MOVED", "CAPACITY_EXCEEDED"}
    [[held]] = cells.sql(cells.south, "SELECT held::int FROM item WHERE tenant = %s", (tenant,))
    assert held == 40
    # The rows that stayed in the old cell are those of before the freeze.
    [[before]] = cells.sql(cells.north, "SELECT held::int FROM item WHERE tenant = %s", (tenant,))
    assert 5 <= before < 40


async def test_a_batch_follows_its_tenant_as_a_whole(cells: TwoCells, start_cells: StartCells) -> None:
    service = await start_cells()
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 10)
    await asyncio.to_thread(cells.freeze, tenant)
    batch = pb.BatchReserveRequest(requests=[reserve("seat"), reserve("none"), reserve("seat", 2)])
    refusal = await refused(caller.reservations.BatchReserve(batch))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "TENANT_MOVED")
    assert refusal.details["RetryInfo"].retry_delay.ToSeconds() == 1
    await asyncio.to_thread(cells.finish_move, tenant)
    answer = await caller.reservations.BatchReserve(batch)
    assert [result.HasField("reservation") for result in answer.results] == [True, False, True]
    assert cells.sql(cells.south, "SELECT held::int FROM item WHERE tenant = %s", (tenant,)) == [(3,)]


async def test_streams_of_a_tenant_that_has_moved_end_with_the_reason(cells: TwoCells, start_cells: StartCells) -> None:
    service = await start_cells()
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 10)
    stream = caller.events.StreamEvents(events.StreamEventsRequest())
    watch = caller.inventory.WatchInventory(inventory.WatchInventoryRequest(sku_prefix="seat"))
    await stream.read()
    await watch.read()
    await asyncio.to_thread(cells.freeze, tenant)
    await asyncio.to_thread(cells.finish_move, tenant)
    # This call finds out, the streams with it.
    await caller.reservations.Reserve(reserve("seat"))
    for reading in (stream, watch):
        assert (await refused(_end(reading))).reason == "TENANT_MOVED"
    again = caller.inventory.WatchInventory(inventory.WatchInventoryRequest(sku_prefix="seat"))
    told = await again.read()
    assert [item.remaining for item in told.items] == [9]
    again.cancel()


async def test_a_stream_that_is_behind_is_told_all_of_the_old_cell_before_it_ends(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells()
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 10_000)
    # More than a connection takes before its reader reads.
    noted = reserve("seat")
    noted.metadata.update({f"note {number}": "n" * 500 for number in range(4)})
    for _ in range(4):
        answer = await caller.reservations.BatchReserve(pb.BatchReserveRequest(requests=[noted] * 200))
        assert all(result.HasField("reservation") for result in answer.results)
    stream = caller.events.StreamEvents(events.StreamEventsRequest(from_oldest=True))
    await stream.read()
    await asyncio.to_thread(cells.freeze, tenant)
    await asyncio.to_thread(cells.finish_move, tenant)
    await caller.reservations.Reserve(reserve("seat"))
    told: list[int] = []
    assert (await refused(_end(stream, told))).reason == "TENANT_MOVED"
    assert len(told) == len(set(told)) == 801


async def _end(reading: Any, told: list[int] | None = None) -> None:
    """Reads a stream to its end; `told` takes the ids of its events."""
    while (message := await reading.read()) is not grpc.aio.EOF:
        if told is not None:
            told += [event.event_id for event in message.events]


async def test_a_new_tenant_is_found_before_the_next_reading_of_the_states(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells()
    caller = await cells.partner(service, cells.south)
    await create(caller, "seat", 1)
    assert (await caller.reservations.Reserve(reserve("seat"))).reservation.reservation_id


async def test_without_authentication_the_default_tenant_may_live_in_any_cell(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells(auth="off")
    item = inventory.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=1))
    assert (await refused(service.inventory.CreateItem(item))).reason == "TENANT_MOVED"
    await asyncio.to_thread(cells.new_tenant, cells.south, "default")

    async def is_made() -> bool:
        return bool(await outcome(service.inventory.CreateItem(item)) != "TENANT_MOVED")

    await until(is_made, timeout_s=10, pause_s=0.05)
    assert cells.sql(cells.south, "SELECT count(*)::int FROM item WHERE tenant = 'default'") == [(1,)]


async def test_a_key_that_stayed_behind_in_the_old_cell_does_not_outlive_its_revocation_in_the_new_one(
    cells: TwoCells, start_cells: StartCells
) -> None:
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    await asyncio.to_thread(cells.freeze, tenant)
    await asyncio.to_thread(cells.finish_move, tenant)
    service = await start_cells()
    caller = Partner(service.channel, secret)
    assert (await caller.admin.GetCaller(admin.GetCallerRequest())).tenant == tenant
    cells.sql(cells.south, "UPDATE api_key SET revoke_time = now() WHERE tenant = %s", (tenant,))
    fresh = await start_cells()
    refusal = await refused(Partner(fresh.channel, secret).admin.GetCaller(admin.GetCallerRequest()))
    assert refusal.reason == "UNAUTHENTICATED"


async def test_a_key_is_good_where_its_tenant_has_gone_and_never_called_bad_on_the_way(
    cells: TwoCells, start_cells: StartCells
) -> None:
    moves = [await asyncio.to_thread(cells.new_tenant, cells.north) for _ in range(2)]
    service = await start_cells()
    who = admin.GetCallerRequest()
    for tenant, _ in moves:
        await asyncio.to_thread(cells.freeze, tenant)
        await asyncio.to_thread(cells.finish_move, tenant)
    # The service has not read the states since.
    (_, secret), (on_the_way, other) = moves
    moved = Partner(service.channel, secret)
    await until(lambda: is_good(moved), pause_s=0.05)
    # As a mover leaves it that was killed before it let the tenant in.
    where = f"WHERE tenant = '{on_the_way}'"
    cells.sql(cells.south, f"UPDATE tenant_state SET state = 'COPYING', other_cell = 'north', version = 1 {where}")
    caller = Partner(service.channel, other)
    refusal = await refused(caller.admin.GetCaller(who))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "TENANT_MOVED")
    here = "state = 'HERE', other_cell = NULL, version = 2, change_xid = pg_current_xact_id()"
    cells.sql(cells.south, f"UPDATE tenant_state SET {here} {where}")
    await until(lambda: is_good(caller), pause_s=0.05)


async def is_good(caller: Partner) -> bool:
    answer = await outcome(caller.admin.GetCaller(admin.GetCallerRequest()))
    assert answer != "UNAUTHENTICATED"
    return bool(answer != "TENANT_MOVED")


async def test_a_key_that_no_cell_has_is_no_key(cells: TwoCells, start_cells: StartCells) -> None:
    service = await start_cells()
    known, _ = await asyncio.to_thread(cells.new_tenant, cells.south)
    for tenant in (known, "nobody"):
        secret = make_key(tenant).secret
        refusal = await refused(Partner(service.channel, secret).admin.GetCaller(admin.GetCallerRequest()))
        assert refusal.reason == "UNAUTHENTICATED"
