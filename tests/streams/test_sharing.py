"""Streams cost what their readers may see: filtered in the database, found by an index, read and encoded once."""

import asyncio
from typing import Any

import pytest

from holdsvc.ledger import feed, watched
from holdsvc.ledger.feed import Filter
from holdsvc.model import ItemKey
from holdsvc.streams.subscriptions import Selection, Topics
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import FAST, Watch, consuming, watching
from tests.support.harness import Harness, StartService
from tests.support.partners import new_partner


def topics() -> Topics:
    return Topics(lambda update: b"".join(update.payloads))


def selection(**fields: Any) -> Selection:
    values: dict[str, Any] = {"tenant": "t", "keys": frozenset(), "prefix": None, "pools": frozenset(), **fields}
    return Selection(**values)


def test_topics_are_found_by_item_prefix_and_pool_and_forgotten_with_their_last_watcher() -> None:
    index = topics()
    wanted = {
        "all": selection(prefix=""),
        "cups": selection(prefix="cup"),
        "web cups": selection(prefix="cup", pools=frozenset({"web", "shop"})),
        "one": selection(keys=frozenset({ItemKey("cup-1", "web")})),
        "hidden": selection(keys=frozenset({ItemKey("cup-1", "web")}), pools=frozenset({"shop"})),
        "other tenant": selection(tenant="u", prefix=""),
    }
    joined = {name: index.join(each, 1) for name, each in wanted.items()}
    again = index.join(wanted["cups"], 2)

    def found(*key: str) -> set[str]:
        return {name for name, topic in joined.items() if topic in index.of("t", ItemKey(*key))}

    assert again is joined["cups"]
    assert found("cup-1", "web") == {"all", "cups", "web cups", "one"}
    assert found("cup-1", "") == {"all", "cups"}
    assert found("cu", "") == {"all"}
    index.leave(again)
    assert found("cup-2", "shop") == {"all", "cups", "web cups"}
    for topic in joined.values():
        index.leave(topic)
    assert not index.by_selection
    assert not index._places
    assert not any(index._prefix_lengths.values())


def test_what_topics_remember_is_bounded_in_all() -> None:
    index = topics()
    index.join(selection(), 1)
    one = index.changes_max()
    for number in range(1, 5000):
        index.join(selection(prefix=str(number)), number)
    assert index.changes_max() * 5000 <= 2 * 200_000 < one * 5000


async def test_the_database_returns_only_events_that_a_filter_wants(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    ann, bob = await new_partner(service, "ann"), await new_partner(service, "bob")
    for pool in ("web", "shop"):
        item = item_pb2.Item(sku="a", pool=pool, capacity=10)
        await ann.inventory.CreateItem(pb.CreateItemRequest(item=item))
    for partner, pools in ((ann, ["web"]), (bob, ["web", "shop"]), (bob, ["shop"])):
        lines = [item_pb2.ItemQuantity(sku="a", pool=pool, quantity=1) for pool in pools]
        await partner.reservations.Reserve(reservations.ReserveRequest(lines=lines))
    filters = {
        "all": Filter("default"),
        "tenant": Filter("other"),
        "ann": Filter("default", client="ann"),
        "web": Filter("default", pools=frozenset({"web"})),
        "shop items": Filter("default", types=frozenset({7}), pools=frozenset({"shop"})),
        "nothing": Filter("default", pools=frozenset({"nowhere"})),
    }
    expected = {"all": [1, 2, 3, 4, 5], "tenant": [], "ann": [1, 2, 3], "web": [1, 3], "shop items": [2], "nothing": []}
    async with service.cell.database.connection() as connection:
        end = feed.Position(10, (await feed.last(connection)).feed_day)
        found, reached = await feed.read(connection, list(filters.values()), feed.UNKNOWN, end, limit=100)
        told = {
            name: [event.event.event_id for event in found if index in event.filters]
            for index, name in enumerate(filters)
        }
        assert told == expected
        assert reached == end
        assert (await feed.read(connection, [filters["nothing"]], feed.UNKNOWN, end, limit=100)) == ([], end)


async def test_watchers_of_the_same_items_share_the_pages_of_their_snapshots(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PAGE_MAX", 100)
    for start in range(0, 1000, 500):
        batch = [item_pb2.Item(sku=f"s{number:04}", capacity=1) for number in range(start, start + 500)]
        await service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=batch))
    async with consuming(service, from_oldest=True) as consumer:
        await consumer.take(1000)  # so that the fence has passed the items
    page, reads = watched.page, []

    async def counted(*arguments: Any, **named: Any) -> Any:
        reads.append(named["start"])
        return await page(*arguments, **named)

    monkeypatch.setattr(watched, "page", counted)
    calls = [service.inventory.WatchInventory(pb.WatchInventoryRequest(min_interval=FAST)) for _ in range(20)]
    watches = await asyncio.gather(*(Watch(call).snapshot() for call in calls))
    assert all(len(watch.items) == 1000 for watch in watches)
    assert len(reads) <= 3 * 11
    for call in calls:
        call.cancel()


async def test_a_snapshot_under_changes_is_whole_and_ends_on_the_present_state(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PAGE_MAX", 20)
    batch = [item_pb2.Item(sku=f"s{number:03}", capacity=10_000) for number in range(200)]
    await service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=batch))
    stopping = asyncio.Event()

    async def sell() -> None:
        number = 0
        while not stopping.is_set():
            number += 7
            await service.reserve({f"s{number % 200:03}": 1})

    selling = [asyncio.create_task(sell()) for _ in range(3)]
    for _ in range(5):
        async with watching(service) as watch:
            assert len(watch.items) == 200
    async with watching(service) as watch:
        stopping.set()
        await asyncio.gather(*selling)
        for number in range(200):
            final = await service.item(f"s{number:03}")
            await watch.until(final.sku, remaining=final.remaining)
            assert watch.items[final.sku, ""] == final
