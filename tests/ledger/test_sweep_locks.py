"""The sweep and items that another session keeps locked."""

from datetime import timedelta

import psycopg
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService


async def _lapsed(service: Harness) -> None:
    for sku in ("free", "kept", "other"):
        await service.create_item(sku, 10)
        await service.reserve({sku: 2}, ttl=Duration(seconds=30))
    await service.reserve({"free": 1, "kept": 1}, ttl=Duration(seconds=30))
    service.clock.advance(timedelta(minutes=1))


async def test_an_item_that_somebody_keeps_locked_holds_up_no_other(service: Harness) -> None:
    await _lapsed(service)
    with psycopg.connect(service.owner_dsn) as forgotten:
        forgotten.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'kept' FOR UPDATE")
        released = await service.sweep()
        assert (released.expired_count, released.released_quantity, released.more) == (2, 4, True)
        assert [(await service.item(sku)).held for sku in ("free", "kept", "other")] == [1, 3, 0]
    released = await service.sweep()
    assert (released.expired_count, released.released_quantity, released.more) == (2, 4, False)
    assert [(await service.item(sku)).held for sku in ("free", "kept", "other")] == [0, 0, 0]
    await service.verify()


async def test_a_sweep_looks_past_the_oldest_holds_when_all_of_them_lie_on_the_busy_item(service: Harness) -> None:
    await service.create_item("kept", 10)
    await service.create_item("free", 10)
    for sku in ("kept", "kept", "kept", "free", "free", "free"):
        await service.reserve({sku: 1}, ttl=Duration(seconds=30))
    service.clock.advance(timedelta(minutes=1))
    with psycopg.connect(service.owner_dsn) as forgotten:
        forgotten.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'kept' FOR UPDATE")
        assert (await service.sweep(max_count=2)).expired_count == 2
        assert (await service.item("free")).held == 1


async def test_cleanup_goes_round_a_busy_item_too(start_service: StartService) -> None:
    service = await start_service()
    await _lapsed(service)
    with psycopg.connect(service.owner_dsn) as forgotten:
        forgotten.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'kept' FOR UPDATE")
        answer = await service.reservations.Cleanup(pb.CleanupRequest())
        assert (answer.expired_count, answer.released_quantity, answer.more) == (2, 4, True)
