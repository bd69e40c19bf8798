"""Expiry: exact on the database's clock, in every call, swept or not."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

MINUTE = timedelta(minutes=1)


async def test_expired_then_extended_is_refused_and_nothing_revives(service: Harness) -> None:
    await service.create_item("seat", 1)
    held = await service.reserve({"seat": 1}, ttl=Duration(seconds=30))
    service.clock.advance(MINUTE)
    refusal = await refused(
        service.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id, ttl=Duration(seconds=600)))
    )
    assert refusal.reason == "RESERVATION_EXPIRED"
    assert refusal.metadata["state"] == "EXPIRED"
    assert (await service.get(held.reservation_id)).state == reservation_pb2.Reservation.STATE_EXPIRED


async def test_expired_then_confirmed_is_refused_and_sells_nothing(service: Harness) -> None:
    await service.create_item("seat", 1)
    held = await service.reserve({"seat": 1}, ttl=Duration(seconds=30))
    service.clock.advance(MINUTE)
    refusal = await refused(service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id)))
    assert refusal.reason == "RESERVATION_EXPIRED"
    assert (await service.item("seat")).confirmed == 0
    await service.verify()


async def test_a_sale_does_not_wait_for_the_sweep(service: Harness) -> None:
    await service.create_item("seat", 1)
    first = await service.reserve({"seat": 1}, ttl=Duration(seconds=30))
    service.clock.advance(MINUTE)
    answer = await service.inventory.CheckAvailability(
        inventory.CheckAvailabilityRequest(lines=[{"sku": "seat", "quantity": 1}])
    )
    assert answer.available
    second = await service.reserve({"seat": 1})
    assert second.reservation_id != first.reservation_id
    assert (await service.item("seat")).held == 1
    assert (await service.get(first.reservation_id)).state == reservation_pb2.Reservation.STATE_EXPIRED
    await service.verify()


async def test_cleanup_releases_lapsed_holds_once(service: Harness) -> None:
    await service.create_item("bed", 10)
    for _ in range(3):
        await service.reserve({"bed": 2}, ttl=Duration(seconds=30))
    kept = await service.reserve({"bed": 1}, ttl=Duration(seconds=600))
    service.clock.advance(MINUTE)
    answer = await service.reservations.Cleanup(pb.CleanupRequest(max_count=2))
    assert (answer.expired_count, answer.released_quantity, answer.more) == (2, 4, True)
    answer = await service.reservations.Cleanup(pb.CleanupRequest())
    assert (answer.expired_count, answer.released_quantity, answer.more) == (1, 2, False)
    assert (await service.item("bed")).remaining == 9
    assert (await service.get(kept.reservation_id)).state == reservation_pb2.Reservation.STATE_HELD
    await service.verify()
