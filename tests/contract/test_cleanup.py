"""Cleanup: the sweep's work, now; its limits."""

from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import new_caller


async def _lapse(service: Harness, count: int) -> None:
    entry = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 2}], ttl=Duration(seconds=10))
    for at in range(0, count, 1000):
        requests = [entry] * min(1000, count - at)
        await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=requests))
    service.clock.advance(timedelta(seconds=11))


async def _cleanup(service: Harness, max_count: int = 0) -> tuple[int, int, bool]:
    answer = await service.reservations.Cleanup(pb.CleanupRequest(max_count=max_count))
    return answer.expired_count, answer.released_quantity, answer.more


async def test_max_count_bounds_one_call_and_0_reads_as_1000(service: Harness) -> None:
    await service.create_item("bed", 10_000)
    await _lapse(service, 1003)
    assert await _cleanup(service, 1) == (1, 2, True)
    assert await _cleanup(service) == (1000, 2000, True)
    assert await _cleanup(service, 2**31 - 1) == (2, 4, False)
    assert await _cleanup(service) == (0, 0, False)
    item = await service.item("bed")
    assert (item.remaining, item.held) == (10_000, 0)
    await service.verify()


async def test_a_negative_max_count_is_refused(service: Harness) -> None:
    refusal = await refused(_cleanup(service, -1))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "max_count")


async def test_more_calls_than_the_rate_are_refused_and_told_when_to_come_back(start_service: StartService) -> None:
    service = await start_service(cleanup_rate_per_second=0.001)
    await _cleanup(service)
    refusal = await refused(_cleanup(service))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.metadata["limit"]
    assert 900 < refusal.details["RetryInfo"].retry_delay.seconds <= 1000


async def test_a_tenant_cleans_up_its_own_holds_only_at_its_own_rate(start_service: StartService) -> None:
    service = await start_service(auth="api-key", cleanup_rate_per_second=0.001)
    callers = {tenant: new_caller(service, "shop", tenant=tenant) for tenant in ("default", "another")}
    request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)], ttl=Duration(seconds=10))
    for tenant, metadata in callers.items():
        service.sql("SELECT create_items(%s, 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{5}', '{0}')", (tenant,))
        await service.reservations.Reserve(request, metadata=metadata)
    service.clock.advance(timedelta(seconds=11))
    for metadata in callers.values():
        answer = await service.reservations.Cleanup(pb.CleanupRequest(), metadata=metadata)
        assert (answer.expired_count, answer.more) == (1, False)


async def test_one_hold_that_contradicts_its_item_is_quarantined_and_the_others_are_swept(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    bad = await service.reserve({"bed": 2}, ttl=timedelta(seconds=5))
    for _ in range(3):
        await service.reserve({"tour": 1}, ttl=timedelta(seconds=5))
    # More than the item holds: as a fault, or a hand in the database, might leave it.
    service.sql(
        "UPDATE holdsvc.reservation_line SET quantity = 9 WHERE reservation_id = %s RETURNING 1", (bad.reservation_id,)
    )
    service.clock.advance(timedelta(seconds=10))
    swept = await service.reservations.Cleanup(pb.CleanupRequest())
    assert (swept.expired_count, swept.released_quantity, swept.more) == (3, 3, False)
    [[quarantined, error]] = service.sql("SELECT reservation_id::text, error FROM holdsvc.quarantine")
    assert quarantined == bad.reservation_id
    assert "held units" in error
    assert (await service.item("tour")).remaining == 10
    again = await service.reservations.Cleanup(pb.CleanupRequest())
    assert (again.expired_count, again.more) == (0, False)
