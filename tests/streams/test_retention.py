"""Events by the day: partitions made ahead, old days dropped whole, tokens of before refused, days exported."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest

from holdsvc.commands import events
from holdsvc.engine.sweeper import Sweeper
from holdsvc.ledger import upkeep
from holdsvc.ledger.failures import NothingRan
from holdsvc.telemetry.metrics import CellMetrics
from inventoryhold.v1 import event_service_pb2 as pb
from tests.streams.readers import consuming
from tests.support.harness import Harness, StartService, refused

DAY = timedelta(days=1)


async def next_day(service: Harness) -> None:
    """Puts the clock a day forward and does what the service does every ten minutes."""
    service.clock.advance(DAY)
    [[today]] = service.sql("SELECT (holdsvc.wall_clock() AT TIME ZONE 'UTC')::date")
    async with service.cell.database.connection() as connection:
        while service.sql("SELECT max(day) FROM holdsvc.feed_day") != [(today,)]:
            await upkeep.create_event_partitions(connection)


async def drop_old(service: Harness) -> int:
    """Applies retention; returns how many days went."""
    sweeper = Sweeper(service.settings, service.cell.database, CellMetrics())
    dropped = 0
    while await sweeper.drop_old_events():
        dropped += 1
    return dropped


async def test_a_stream_crosses_days_without_a_gap(service: Harness) -> None:
    await service.create_item("a", 100)
    reserved = []
    async with consuming(service, from_oldest=True) as consumer:
        for _ in range(12):
            reserved.append((await service.reserve({"a": 1})).reservation_id)
            await next_day(service)
        events = await consumer.take(13)
        token = consumer.token
    assert [event.reservation.reservation_id for event in events[1:]] == reserved
    days = {datetime.fromtimestamp(event.occur_time.seconds, UTC).date() for event in events}
    assert len(days) >= 12
    last = await service.reserve({"a": 1})
    async with consuming(service, resume_token=token) as consumer:
        assert (await consumer.take(1))[0].reservation == last
    async with consuming(service, from_oldest=True) as consumer:
        assert len(await consumer.take(14)) == 14


async def test_old_days_are_dropped_and_tokens_of_before_are_refused(start_service: StartService) -> None:
    service = await start_service(event_retention="48h")
    await service.create_item("a", 100)
    async with consuming(service, from_oldest=True) as consumer:
        await consumer.take(1)
        token_old = consumer.token
    for _ in range(4):
        await service.reserve({"a": 1})
        await next_day(service)
    async with consuming(service, from_oldest=True) as consumer:
        events = await consumer.take(5)
        token_new = consumer.token
        assert await drop_old(service) == 3
    kept = [row[0] for row in service.sql("SELECT event_id FROM holdsvc.event ORDER BY event_id")]
    assert kept == [event.event_id for event in events[3:]]
    refusal = await refused(service.events.StreamEvents(pb.StreamEventsRequest(resume_token=token_old)).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
    async with consuming(service, from_oldest=True) as consumer:
        assert [event.event_id for event in await consumer.take(2)] == kept
        token = consumer.token
    reserved = await service.reserve({"a": 1})
    for good in (token, token_new):
        async with consuming(service, resume_token=good) as consumer:
            assert (await consumer.take(1))[0].reservation == reserved
    await service.verify()


async def test_nothing_is_dropped_unless_retention_is_set(service: Harness) -> None:
    await service.create_item("a", 1)
    for _ in range(10):
        await next_day(service)
    assert await drop_old(service) == 0


async def test_a_day_that_is_in_use_is_dropped_later_and_nobody_waits_for_it(start_service: StartService) -> None:
    service = await start_service(event_retention="24h")
    await service.create_item("a", 10)
    for _ in range(3):
        await next_day(service)
    with psycopg.connect(service.owner_dsn) as connection:
        connection.execute("SELECT count(*) FROM holdsvc.event")
        with pytest.raises(NothingRan):
            await drop_old(service)
        await service.reserve({"a": 1})
    assert await drop_old(service) >= 1


async def test_a_day_is_exported_as_json_lines(service: Harness, tmp_path: Path) -> None:
    await service.create_item("a", 10)
    reserved = await service.reserve({"a": 2})
    [day] = await asyncio.to_thread(events.list_days, service.owner_dsn)
    file = tmp_path / "events.jsonl"
    exported = await asyncio.to_thread(events.export_day, service.owner_dsn, date.fromisoformat(day["day"]), file)
    assert exported == day["event_count"] == 2
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["type"] for line in lines] == ["EVENT_TYPE_ITEM_CREATED", "EVENT_TYPE_RESERVED"]
    assert lines[1]["reservation"]["reservation_id"] == reserved.reservation_id
    assert {line["tenant"] for line in lines} == {"default"}
    assert not file.with_name("events.jsonl.part").exists()
