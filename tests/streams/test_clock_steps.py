"""The database's clock is stepped by days under open streams: every event is told once, in order; no change fails."""

import asyncio
from datetime import timedelta

import pytest

from holdsvc.ledger import upkeep
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import consuming, open_adjustment, watching
from tests.support.harness import Harness, StartService


async def settle(service: Harness) -> None:
    """Does what the service does every ten minutes, until the feed's day is that of the clock, or a later one."""
    async with service.cell.database.connection() as connection:
        while service.sql(
            "SELECT 1 WHERE (SELECT max(day) FROM holdsvc.feed_day) < (holdsvc.wall_clock() AT TIME ZONE 'UTC')::date"
        ):
            await upkeep.create_event_partitions(connection)


@pytest.mark.parametrize("settled", [True, False], ids=["after upkeep", "at once"])
@pytest.mark.parametrize("days", [[3, -3], [-3, 3], [9, -9], [-9, 2, 40, -33], [1, 1, -2, 5]])
async def test_every_event_is_told_once_and_in_order(
    start_service: StartService, days: list[int], settled: bool
) -> None:
    service = await start_service(event_retention="0")
    other = await start_service()
    await service.create_item("a", 1000)
    made = 1
    async with consuming(service, from_oldest=True) as live, watching(service) as watch:
        for step in days:
            held = await service.reserve({"a": 1})
            await other.reserve({"a": 1})
            service.clock.advance(timedelta(days=step))
            if settled:
                await settle(service)
            await service.reserve({"a": 1})
            cancel = reservations.CancelRequest(reservation_id=held.reservation_id)
            # Stepped forward by days, its hold has lapsed.
            await asyncio.gather(other.reservations.Cancel(cancel), return_exceptions=True)
            made = service.sql("SELECT count(*) FROM holdsvc.event")[0][0]
            await live.take(made)
            await watch.until("a", held=(await service.item("a")).held)
        ids = [row[0] for row in service.sql("SELECT event_id FROM holdsvc.event ORDER BY event_id")]
        assert [event.event_id for event in live.events] == ids
        token = live.token
    await service.reserve({"a": 1})
    async with consuming(other, from_oldest=True) as anew, consuming(other, resume_token=token) as resumed:
        assert [event.event_id for event in await anew.take(made + 1)][:made] == ids
        assert (await resumed.take(1))[0] == anew.events[-1]


async def test_the_feeds_day_waits_for_a_transaction_that_may_still_write_events_of_the_day_before(
    service: Harness,
) -> None:
    await service.create_item("a", 10)
    await service.create_item("slow", 10)
    days = "SELECT count(*) FROM holdsvc.feed_day"
    await settle(service)
    [[before]] = service.sql(days)
    async with (
        consuming(service) as consumer,
        open_adjustment(service.owner_dsn, "slow", 1) as transaction,
        service.cell.database.connection() as connection,
    ):
        service.clock.advance(timedelta(days=1))
        for _ in range(3):
            await upkeep.create_event_partitions(connection)
        [[during]] = service.sql(days)
        service.clock.advance(timedelta(days=1))
        for _ in range(3):
            await upkeep.create_event_partitions(connection)
            await service.reserve({"a": 1})
        assert service.sql(days) == [(during,)]
        assert during <= before + 1
        await transaction.commit()
        await settle(service)
        await service.reserve({"a": 1})
        assert [event.event_id for event in await consumer.take(5)] == [
            row[0] for row in service.sql("SELECT event_id FROM holdsvc.event ORDER BY event_id OFFSET 2")
        ]


async def test_retention_keeps_the_feeds_day_and_what_is_younger_than_it_may_drop(start_service: StartService) -> None:
    service = await start_service(event_retention="24h")
    await service.create_item("a", 10)
    await settle(service)
    async with service.cell.database.connection() as connection:
        # Put back by three days, the clock is behind the feed's day: its partition holds events of today.
        service.clock.advance(timedelta(days=3))
        await settle(service)
        service.clock.advance(timedelta(days=-3))
        await service.reserve({"a": 1})
        await upkeep.create_event_partitions(connection)
    assert service.sql("SELECT count(*) FROM holdsvc.event") == [(2,)]
