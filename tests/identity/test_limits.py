"""Limits of a client: off unless set, and answered with when to come back."""

import asyncio

import grpc
import grpc.aio
import pytest

from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.endless import endless_streams
from tests.support.harness import Refusal, StartService, outcome, refusal_of, refused
from tests.support.partners import Partner, new_partner, new_secret
from tests.support.polling import success

LIST = inventory.ListItemsRequest()


def delay_of(refusal: Refusal) -> float:
    return float(refusal.details["RetryInfo"].retry_delay.ToTimedelta().total_seconds())


async def test_calls_beyond_a_clients_rate_are_refused_with_the_time_to_come_back(start_service: StartService) -> None:
    service = await start_service(auth="api-key", client_calls_per_second=2)
    partner = await new_partner(service, "partner")
    answers = await asyncio.gather(*(outcome(partner.inventory.ListItems(LIST)) for _ in range(20)))
    assert 2 <= sum(answer != "RATE_LIMITED" for answer in answers) < 20
    refusals = [await refused_once(partner) for _ in range(3)]
    for refusal in refusals:
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (refusal.reason, refusal.metadata) == ("RATE_LIMITED", {"limit": "calls per second of a client"})
        assert 0 < delay_of(refusal) <= 0.5
    await asyncio.sleep(delay_of(refusals[-1]) + 0.01)
    await partner.inventory.ListItems(LIST)


async def refused_once(partner: Partner) -> Refusal:
    """The next refusal: the bucket may have got a token meanwhile."""
    while True:
        try:
            await partner.inventory.ListItems(LIST)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)


async def test_a_rate_is_a_clients_and_not_a_keys_or_a_tenants(start_service: StartService) -> None:
    service = await start_service(auth="api-key", client_calls_per_second=0.001)
    first, rotated = await new_partner(service, "partner"), await new_partner(service, "partner")
    await first.inventory.ListItems(LIST)
    refusal = await refused(rotated.inventory.ListItems(LIST))
    assert refusal.reason == "RATE_LIMITED"
    assert delay_of(refusal) > 900
    await (await new_partner(service, "another")).inventory.ListItems(LIST)
    await (await new_partner(service, "partner", tenant="another")).inventory.ListItems(LIST)


async def test_the_limit_comes_before_the_scope_and_counts_what_is_refused(start_service: StartService) -> None:
    service = await start_service(auth="api-key", client_calls_per_second=0.001)
    partner = await new_partner(service, "partner", scopes=["reserve"])
    assert (await refused(partner.inventory.ListItems(LIST))).reason == "PERMISSION_DENIED"
    assert (await refused(partner.inventory.ListItems(LIST))).reason == "RATE_LIMITED"


async def test_no_limit_is_set_by_itself(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    assert (service.settings.client_calls_per_second, service.settings.client_streams_max) == (0, 0)
    partner = await new_partner(service, "partner")
    answers = await asyncio.gather(*(outcome(partner.inventory.ListItems(LIST)) for _ in range(300)))
    assert "RATE_LIMITED" not in answers


async def test_streams_beyond_a_clients_number_are_refused_until_one_ends(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    secret, other = await new_secret(service, "partner"), await new_secret(service, "another")
    async with endless_streams(service, streams_max=2) as streams:
        open_ones = [await streams.open(secret) for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await streams.open(secret)
        refusal = refusal_of(error.value)
        assert (refusal.reason, refusal.metadata) == ("RATE_LIMITED", {"limit": "open streams of a client"})
        assert delay_of(refusal) > 0
        await streams.open(other)
        open_ones[0].cancel()
        await success(lambda: streams.open(secret), grpc.aio.AioRpcError)
        with pytest.raises(grpc.aio.AioRpcError):
            await streams.open(secret)


async def test_cleanup_has_a_rate_of_its_own_for_each_tenant(start_service: StartService) -> None:
    service = await start_service(auth="api-key", cleanup_rate_per_second=0.001)
    partner = await new_partner(service, "partner")
    await partner.reservations.Cleanup(pb.CleanupRequest())
    other_client = await new_partner(service, "another")
    refusal = await refused(other_client.reservations.Cleanup(pb.CleanupRequest()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert delay_of(refusal) > 900
    elsewhere = await new_partner(service, "partner", tenant="another")
    await elsewhere.reservations.Cleanup(pb.CleanupRequest())
