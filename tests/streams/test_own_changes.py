"""What a process changed itself its watchers hear at once; what it misses, the feed tells."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection, NothingRan
from holdsvc.model import ItemKey
from holdsvc.streams import watch as watch_module
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import watching
from tests.support.harness import Harness, refused


async def stop_the_feed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Returns when the feed's reader hangs; it goes on once the event is set."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    poll = feed.poll

    async def hang(connection: Connection, value: int, *rest: Any) -> feed.Poll:
        if value < 2**62:  # else it asks for the time alone
            asked.set()
            await go_on.wait()
        return await poll(connection, value, *rest)

    monkeypatch.setattr(feed, "poll", hang)
    async with asyncio.timeout(20):
        await asked.wait()
    return go_on


def items_read(monkeypatch: pytest.MonkeyPatch) -> list[ItemKey]:
    """What is read from now on for those who watch."""
    read: list[ItemKey] = []
    watch_items = feed.watch_items

    async def noted(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[feed.Watched]:
        read.extend(keys)
        return await watch_items(connection, tenant, keys)

    monkeypatch.setattr(feed, "watch_items", noted)
    return read


async def test_watchers_hear_of_this_process_s_changes_without_the_feed(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.create_item("a", 10)
    await service.create_item("b", 10)
    async with watching(service) as watch:
        await stop_the_feed(monkeypatch)
        held = await service.reserve({"a": 2, "b": 1})
        await watch.until("a", held=2)
        await watch.until("b", held=1)
        target = held.reservation_id
        await service.reservations.Confirm(reservations.ConfirmRequest(reservation_id=target))
        await watch.until("a", confirmed=2, held=0)
        await service.reservations.Refund(reservations.RefundRequest(reservation_id=target))
        await watch.until("a", remaining=10)
        held = await service.reserve({"a": 3})
        await watch.until("a", held=3)
        await service.reservations.Cancel(reservations.CancelRequest(reservation_id=held.reservation_id))
        await watch.until("a", held=0)
        await service.inventory.AdjustCapacity(pb.AdjustCapacityRequest(sku="a", delta=5))
        await watch.until("a", capacity=15)
        await service.create_item("c", 1)
        await watch.until("c", remaining=1)


async def test_a_refused_call_tells_watchers_nothing(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.create_item("a", 1)
    async with watching(service) as watch:
        await stop_the_feed(monkeypatch)
        read = items_read(monkeypatch)
        assert (await refused(service.reserve({"a": 2}))).reason == "CAPACITY_EXCEEDED"
        assert not read
        await service.reserve({"a": 1})
        await watch.until("a", held=1)
        assert read == [ItemKey("a", "")]


async def test_what_could_not_be_read_at_once_the_feed_tells_and_reads_until_it_has(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.create_item("a", 10)
    watch_items = feed.watch_items
    failed: list[int] = []

    async def failing_twice(*arguments: Any) -> list[feed.Watched]:
        if len(failed) < 2:
            failed.append(1)
            raise NothingRan if len(failed) == 1 else RuntimeError("a fault")
        return await watch_items(*arguments)

    async with watching(service) as watch:
        monkeypatch.setattr(feed, "watch_items", failing_twice)
        for held in (1, 2, 3):
            await service.reserve({"a": 1})
            await watch.until("a", held=held)
    assert len(failed) == 2


async def test_a_batch_that_changed_many_watched_items_is_left_to_the_feed(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "OWN_MAX", 1)
    for sku in ("a", "b"):
        await service.create_item(sku, 10)
    async with watching(service) as watch:
        feed_goes_on = await stop_the_feed(monkeypatch)
        read = items_read(monkeypatch)
        await service.reserve({"a": 1, "b": 1})
        await service.reserve({"a": 1})
        await watch.until("a", held=2)
        assert read == [ItemKey("a", "")]
        feed_goes_on.set()
        await watch.until("b", held=1)


async def test_a_state_is_told_once_though_it_is_read_at_once_and_by_the_feed(service: Harness) -> None:
    await service.create_item("a", 10)
    await service.create_item("b", 10)
    async with watching(service) as watch:
        for held in (1, 2, 3, 4):
            await service.reserve({"a": 1})
            await watch.until("a", held=held)
            async with asyncio.timeout(20):
                await service.service.streams.events.end()  # when the feed's reader has come to it as well
        await service.reserve({"b": 1})
        await watch.until("b", held=1)
        revisions = [item.revision for message in watch.messages for item in message.items if item.sku == "a"]
        assert len(revisions) == len(set(revisions)) == 5


async def test_a_state_of_another_history_is_not_told(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.create_item("a", 10)
    hub = service.service.streams.watch
    watch_items = feed.watch_items
    switched = asyncio.Event()

    async def of_another_history(*arguments: Any, **named: Any) -> list[feed.Watched]:
        states = await watch_items(*arguments, **named)
        if not switched.is_set():
            switched.set()
            hub.restart()
            return [feed.Watched(replace(item, revision=10**6), deleted=False) for item, _ in states]
        return states

    async with watching(service) as watch:
        await stop_the_feed(monkeypatch)
        monkeypatch.setattr(feed, "watch_items", of_another_history)
        await service.reserve({"a": 1})
        await watch.until("a", held=1)
        await service.reserve({"a": 1})
        await watch.until("a", held=2)
        assert switched.is_set()
        assert watch.revisions["a", ""] < 10**6
