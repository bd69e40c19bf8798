"""Targets by reference: exactly one reservation that the call could act on, within the calling client."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import Metadata, new_caller

Reservation = reservation_pb2.Reservation
CHANGES = ("Confirm", "Cancel", "Extend", "Refund")


def _call(service: Harness, rpc: str, reference: str, metadata: Metadata = ()) -> Awaitable[Any]:
    request = getattr(pb, f"{rpc}Request")(reference=reference)
    return getattr(service.reservations, rpc)(request, metadata=metadata)  # type: ignore[no-any-return]


async def _reserve_as(service: Harness, metadata: Metadata, sku: str, pool: str, reference: str) -> Reservation:
    line = item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=1)
    request = pb.ReserveRequest(lines=[line], reference=reference)
    return (await service.reservations.Reserve(request, metadata=metadata)).reservation


async def test_each_call_finds_the_one_reservation_with_the_reference(service: Harness) -> None:
    await service.create_item("bed", 5)
    held = await service.reserve({"bed": 1}, reference="cart-1")
    assert (await _call(service, "GetReservation", "cart-1")).reservation == held
    for rpc in ("Extend", "Confirm", "Refund"):
        answer = await _call(service, rpc, "cart-1")
        assert answer.reservation.reservation_id == held.reservation_id
    held = await service.reserve({"bed": 1}, reference="cart-2")
    assert (await _call(service, "Cancel", "cart-2")).reservation.reservation_id == held.reservation_id


async def test_several_that_the_call_could_act_on_are_ambiguous(service: Harness) -> None:
    await service.create_item("bed", 5)
    first = await service.reserve({"bed": 1}, reference="cart-1")
    second = await service.reserve({"bed": 1}, reference="cart-1")
    for rpc in ("Confirm", "Cancel", "Extend", "GetReservation"):
        refusal = await refused(_call(service, rpc, "cart-1"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_AMBIGUOUS")
        assert refusal.metadata == {"reference": "cart-1"}
    for held in (first, second):
        await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    assert (await refused(_call(service, "Refund", "cart-1"))).reason == "REFERENCE_AMBIGUOUS"
    assert (await service.item("bed")).confirmed == 2


async def test_only_those_that_the_call_could_act_on_count(service: Harness) -> None:
    await service.create_item("bed", 5)
    sold = await service.reserve({"bed": 1}, reference="cart-1")
    await _call(service, "Confirm", "cart-1")
    lapsed = await service.reserve({"bed": 1}, reference="cart-1", ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    held = await service.reserve({"bed": 1}, reference="cart-1")
    assert (await _call(service, "Extend", "cart-1")).reservation.reservation_id == held.reservation_id
    assert (await _call(service, "Refund", "cart-1")).reservation.reservation_id == sold.reservation_id
    assert (await _call(service, "Cancel", "cart-1")).reservation.reservation_id == held.reservation_id
    assert (await service.get(lapsed.reservation_id)).state == Reservation.STATE_EXPIRED


@pytest.mark.parametrize("rpc", ["Confirm", "Cancel", "Extend"])
async def test_without_one_the_newest_match_decides_the_refusal(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 1}, reference="cart-1")
    await _call(service, "Confirm", "cart-1")
    newest = await service.reserve({"bed": 1}, reference="cart-1")
    await _call(service, "Cancel", "cart-1")
    refusal = await refused(_call(service, rpc, "cart-1"))
    assert refusal.reason == "RESERVATION_ALREADY_CANCELLED"
    assert refusal.metadata["reservation_id"] == newest.reservation_id
    newest = await service.reserve({"bed": 1}, reference="cart-1", ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    refusal = await refused(_call(service, rpc, "cart-1"))
    assert (refusal.reason, refusal.metadata["reservation_id"]) == ("RESERVATION_EXPIRED", newest.reservation_id)


async def test_confirm_by_reference_again_is_replayed(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 1}, reference="cart-1")
    first = await _call(service, "Confirm", "cart-1")
    again = await _call(service, "Confirm", "cart-1")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation == first.reservation


async def test_an_unknown_reference_and_one_in_other_letters_is_not_found(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 1}, reference="cart-1")
    await service.reserve({"bed": 1})
    for rpc in (*CHANGES, "GetReservation"):
        for reference in ("CART-1", "cart-", "cart-1 ", "%"):
            refusal = await refused(_call(service, rpc, reference))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
            assert refusal.metadata == {"reference": reference}


async def test_a_reference_counts_within_the_calling_client(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    here, there = new_caller(service, "shop"), new_caller(service, "agency")
    elsewhere = new_caller(service, "shop", tenant="another")
    service.sql("SELECT create_items('default', 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{5}', '{0}')")
    mine = await _reserve_as(service, here, "bed", "", "cart-1")
    theirs = await _reserve_as(service, there, "bed", "", "cart-1")
    # Both keys may read and write all reservations of the tenant: a reference still means the caller's own.
    assert (await _call(service, "Extend", "cart-1", here)).reservation.reservation_id == mine.reservation_id
    assert (await _call(service, "Extend", "cart-1", there)).reservation.reservation_id == theirs.reservation_id
    third = new_caller(service, "web")
    for rpc in (*CHANGES, "GetReservation"):
        for caller in (third, elsewhere):
            assert (await refused(_call(service, rpc, "cart-1", caller))).reason == "RESERVATION_NOT_FOUND"


async def test_a_reference_means_no_reservation_in_a_pool_that_the_key_does_not_see(
    start_service: StartService,
) -> None:
    service = await start_service(auth="api-key")
    service.sql("SELECT create_items('default', 'x', '', '{bed,bed}', '{a,b}', '{\"\",\"\"}', '{5,5}', '{0,0}')")
    callers = {pool: new_caller(service, "shop", pools=[pool]) for pool in "ab"}
    held = {pool: await _reserve_as(service, callers[pool], "bed", pool, "cart-1") for pool in "ab"}
    for rpc in ("GetReservation", "Extend", "Confirm", "Refund"):
        for pool, caller in callers.items():
            answer = await _call(service, rpc, "cart-1", caller)
            assert answer.reservation.reservation_id == held[pool].reservation_id
