"""The loops of streams live: a step that raises is counted, and streams go on."""

import asyncio
from typing import Any

import pytest

from holdsvc.api.auth.guard import StreamGuard
from holdsvc.engine.pacer import Pacer
from holdsvc.ledger import feed, watched
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as pb
from tests.streams.readers import READ_TIMEOUT_S, Consumer, consuming, watching
from tests.support.harness import Harness, StartService, loop_failures, refused
from tests.support.partners import new_partner


def failing_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> asyncio.Event:
    """Makes the next call raise; the event is set when it has."""
    whole, failed = getattr(owner, name), asyncio.Event()

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a fault of ours")
        return whole(*arguments, **named)

    monkeypatch.setattr(owner, name, wrapped)
    return failed


@pytest.mark.parametrize(
    ("loop", "owner", "name"),
    [
        ("feed", feed, "poll"),
        ("watch", watched, "changes"),
        ("events", feed, "read"),
        ("stream_turns", Pacer, "_leave_to_others"),
    ],
)
async def test_a_step_that_raises_ends_no_loop(
    service: Harness, monkeypatch: pytest.MonkeyPatch, loop: str, owner: Any, name: str
) -> None:
    await service.create_item("a", 10)
    before = loop_failures(loop)
    async with watching(service) as watch, consuming(service) as consumer:
        await service.reserve({"a": 1})
        await watch.until("a", held=1)
        await consumer.take(1)
        failed = failing_once(monkeypatch, owner, name)
        await service.reserve({"a": 1})
        async with asyncio.timeout(READ_TIMEOUT_S):
            await failed.wait()
        await watch.until("a", held=2)
        await consumer.take(2)
    assert loop_failures(loop) == before + 1


async def test_a_check_of_keys_that_raises_does_not_end_the_checks(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(auth="api-key")
    boss, partner = await new_partner(service, "boss"), await new_partner(service, "partner")
    consumer = Consumer(partner.events.StreamEvents(pb.StreamEventsRequest()))
    await consumer.read()
    before = loop_failures("stream_keys")
    failed = failing_once(monkeypatch, StreamGuard, "_check_one")
    async with asyncio.timeout(READ_TIMEOUT_S):
        await failed.wait()
    await boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=partner.key_id))
    assert (await refused(consumer.call.read())).reason == "UNAUTHENTICATED"
    assert loop_failures("stream_keys") > before
