"""Streams show what their key may see, and end with it; more on what feeds show is in tests/streams."""

from typing import Any

import grpc
import grpc.aio
import pytest

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refusal_of
from tests.support.partners import Partner, new_partner

MARK = "mark"
"""An item whose creation ends what a test listens to: what came before it in the feed has been sent or never will."""


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    return await start_service(auth="api-key")


async def create(partner: Partner, sku: str, pool: str = "", capacity: int = 5) -> None:
    item = {"sku": sku, "pool": pool, "capacity": capacity}
    await partner.inventory.CreateItem(inventory.CreateItemRequest(item=item))


async def reserve(partner: Partner, *pools: str) -> str:
    lines = [{"sku": "seat", "pool": pool, "quantity": 1} for pool in pools]
    answer = await partner.reservations.Reserve(pb.ReserveRequest(lines=lines))
    return str(answer.reservation.reservation_id)


async def heard(listener: Partner) -> list[tuple[str, str]]:
    """What a stream from the oldest event on tells, up to the mark: items by pool, reservations by client."""
    told: list[tuple[str, str]] = []
    stream = listener.events.StreamEvents(events.StreamEventsRequest(from_oldest=True), timeout=60)
    async for message in stream:
        for event in message.events:
            if event.item.sku == MARK:
                stream.cancel()
                return told
            if event.HasField("item"):
                told.append((event.item.sku, event.item.pool))
            else:
                told.append((event.client, ",".join(line.pool for line in event.reservation.lines)))
    raise AssertionError("it ended before the mark")


async def seen(watcher: Partner, **filters: Any) -> list[tuple[str, str, int]]:
    """The items that a watch shows at first."""
    told: list[tuple[str, str, int]] = []
    stream = watcher.inventory.WatchInventory(inventory.WatchInventoryRequest(**filters), timeout=60)
    async for message in stream:
        told += [(item.sku, item.pool, item.capacity) for item in message.items]
        if message.snapshot_complete:
            stream.cancel()
            return sorted(told)
    raise AssertionError("it ended before the snapshot was complete")


async def to_the_end(stream: Any) -> None:
    """Reads all that a stream says."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_feed_tells_of_the_keys_pools_only(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    for pool in ("web", "agency"):
        await create(boss, "seat", pool)
    await reserve(boss, "web")
    mixed = await reserve(boss, "web", "agency")
    await reserve(boss, "agency")
    # A change of the visible line alone tells of the whole reservation, so it is not told.
    await boss.reservations.Confirm(
        pb.ConfirmRequest(reservation_id=mixed, lines=[{"sku": "seat", "pool": "web", "quantity": 1}])
    )
    await boss.inventory.TransferCapacity(
        inventory.TransferCapacityRequest(sku="seat", from_pool="web", to_pool="agency", quantity=1)
    )
    await create(boss, MARK, "web")
    web = await new_partner(guarded, "boss", pools="web")
    assert await heard(web) == [("seat", "web"), ("boss", "web"), ("seat", "web")]


async def test_a_watch_shows_the_items_of_its_tenant_and_its_keys_pools_only(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    stranger = await new_partner(guarded, "boss", tenant="another")
    for capacity, pool in enumerate(("", "web", "agency"), 1):
        await create(boss, "seat", pool, capacity)
    await create(stranger, "seat", "web", 77)
    web = await new_partner(guarded, "partner", pools="web")
    assert await seen(boss) == [("seat", "", 1), ("seat", "agency", 3), ("seat", "web", 2)]
    assert await seen(web) == [("seat", "web", 2)]
    assert await seen(web, sku_prefix="s") == [("seat", "web", 2)]
    assert await seen(stranger) == [("seat", "web", 77)]


async def test_a_watch_hears_of_changes_in_its_tenant_and_its_keys_pools_only(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    stranger = await new_partner(guarded, "boss", tenant="another")
    for pool in ("web", "agency"):
        await create(boss, "seat", pool)
    await create(stranger, "seat", "web")
    web = await new_partner(guarded, "partner", pools="web")
    stream = web.inventory.WatchInventory(inventory.WatchInventoryRequest(), timeout=60)
    while not (await stream.read()).snapshot_complete:
        pass
    await stranger.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", pool="web", delta=70))
    await boss.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", pool="agency", delta=70))
    await boss.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", pool="web", delta=1))
    told: list[tuple[str, int]] = []
    while not told:
        told += [(item.pool, item.capacity) for item in (await stream.read()).items]
    stream.cancel()
    assert told == [("web", 6)]


async def test_both_kinds_of_streams_end_with_their_key_and_count_as_open(start_service: StartService) -> None:
    service = await start_service(auth="api-key", client_streams_max=2)
    partner, boss = await new_partner(service, "partner"), await new_partner(service, "boss")
    streams = [
        partner.events.StreamEvents(events.StreamEventsRequest(), timeout=60),
        partner.inventory.WatchInventory(inventory.WatchInventoryRequest(), timeout=60),
    ]
    for stream in streams:
        assert await stream.read() is not grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await partner.events.StreamEvents(events.StreamEventsRequest(), timeout=60).read()
    assert refusal_of(error.value).reason == "RATE_LIMITED"
    await boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=partner.key_id))
    for stream in streams:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await to_the_end(stream)
        assert refusal_of(error.value).reason == "UNAUTHENTICATED"
