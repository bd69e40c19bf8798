"""The service's own clock is an hour off: holds end by the database's clock only."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from holdsvc.client import AsyncClient, errors
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2, reservation_pb2
from tests.support.harness import StartService
from tests.support.polling import until
from tests.support.replica import Replica

HOUR_S = 3600.0
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
async def test_holds_live_and_end_by_the_databases_clock(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off_s)
    service = await start_service()
    await service.create_item("seat", 2)
    first = await service.reserve({"seat": 1}, ttl=Duration(seconds=60))
    second = await service.reserve({"seat": 1}, ttl=Duration(seconds=60))
    assert abs(first.create_time.seconds - real()) < HOUR_S / 2
    assert (await service.sweep()).expired_count == 0
    assert (await service.get(first.reservation_id)).state == reservation_pb2.Reservation.STATE_HELD
    # Ids are made by the service, by the database's time: newest first stays so.
    assert second.reservation_id > first.reservation_id
    service.clock.advance(timedelta(seconds=61))
    assert (await service.get(first.reservation_id)).state == reservation_pb2.Reservation.STATE_EXPIRED
    assert (await service.sweep()).expired_count == 2
    await service.verify()


@pytest.fixture(params=["+1h", "-1h"])
def shifted(request: pytest.FixtureRequest, tmp_path: Path, migrated: str) -> Iterator[Replica]:
    if not LIBRARY.exists():
        pytest.skip("needs libfaketime (Debian: apt-get install faketime)")
    service = Replica(
        tmp_path,
        {"LD_PRELOAD": str(LIBRARY), "FAKETIME": request.param},
        dsn=migrated,
        sweep_interval="100ms",
    )
    service.start()
    yield service
    service.terminate()


async def test_a_whole_service_an_hour_off_expires_holds_in_time(shifted: Replica) -> None:
    async with AsyncClient(shifted.address) as client:
        await client.inventory.CreateItem(ipb.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=2)))
        kept = await client.reserve({"seat": 1}, ttl=timedelta(minutes=5))
        short = await client.reserve({"seat": 1}, ttl=timedelta(seconds=2))
        assert short.state == reservation_pb2.Reservation.STATE_HELD

        async def swept() -> bool:
            return (await client.inventory.GetItem(ipb.GetItemRequest(sku="seat"))).item.held <= 1

        await until(swept, pause_s=0.05)
        assert time.time() >= short.expire_time.seconds
        with pytest.raises(errors.ReservationExpired):
            await client.confirm(short.reservation_id)
        assert (await client.confirm(kept.reservation_id)).state == reservation_pb2.Reservation.STATE_CONFIRMED
