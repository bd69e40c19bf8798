"""How changes are read for watchers: once, again where a read failed, and from the start in another history."""

from typing import Any

import pytest

from holdsvc.ledger import watched
from holdsvc.ledger.failures import NothingRan
from tests.streams.readers import consuming, watching
from tests.support.harness import Harness, refused


async def test_a_refused_call_tells_watchers_nothing(service: Harness) -> None:
    await service.create_item("a", 1)
    await service.create_item("b", 2)
    async with watching(service) as watch:
        await service.reserve({"b": 1})
        await watch.until("b", held=1)
        count = len(watch.messages)
        assert (await refused(service.reserve({"a": 2}))).reason == "CAPACITY_EXCEEDED"
        await service.reserve({"b": 1})
        await watch.until("b", held=2)
        assert [item.sku for message in watch.messages[count:] for item in message.items] == ["b"]


async def test_changes_whose_read_failed_are_read_again(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.create_item("a", 10)
    states = watched.states
    failed: list[int] = []

    async def failing_twice(*arguments: Any) -> list[watched.Watched]:
        if len(failed) < 2:
            failed.append(1)
            raise NothingRan if len(failed) == 1 else RuntimeError("a fault")
        return await states(*arguments)

    async with watching(service) as watch:
        monkeypatch.setattr(watched, "states", failing_twice)
        for held in (1, 2, 3):
            await service.reserve({"a": 1})
            await watch.until("a", held=held)
    assert len(failed) == 2


async def test_each_state_is_told_once(service: Harness) -> None:
    await service.create_item("a", 10)
    await service.create_item("b", 10)
    async with watching(service) as watch, consuming(service) as consumer:
        await service.reserve({"b": 1})
        await watch.until("b", held=1)
        del watch.messages[:]
        for held in (1, 2, 3, 4):
            await service.reserve({"a": 1})
            await watch.until("a", held=held)
            await consumer.take(1 + held)  # by then the feed has passed it as well
        await service.reserve({"b": 1})
        await watch.until("b", held=2)
        revisions = [item.revision for message in watch.messages for item in message.items if item.sku == "a"]
        assert len(revisions) == len(set(revisions)) == 4


async def test_watchers_get_the_present_state_again_where_the_database_was_put_back(service: Harness) -> None:
    await service.create_item("a", 10)
    await service.create_item("b", 10)
    async with watching(service) as watch:
        await service.reserve({"a": 3})
        await watch.until("a", held=3)
        # As after a restore: other rows, and the operator says so.
        service.sql("UPDATE holdsvc.item SET held = 1, remaining = 9, revision = revision + 1 WHERE sku = 'a'")
        service.sql("UPDATE holdsvc.feed_state SET restore_mark = restore_mark + 1")
        await watch.until("a", held=1)
        assert sum(message.snapshot_complete for message in watch.messages) == 1
