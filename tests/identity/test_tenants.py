"""Tenants are separate everywhere: the same names in two of them never meet."""

from collections.abc import Callable
from typing import Any

import pytest

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import Partner, new_partner

SEAT = [{"sku": "seat", "quantity": 1}]
Both = tuple[Partner, Partner]


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    return await start_service(auth="api-key")


@pytest.fixture
async def both(guarded: Harness) -> Both:
    """The client `partner` of two tenants, each of which has 5 of the sku `seat`."""
    first = await new_partner(guarded, "partner", tenant="first")
    second = await new_partner(guarded, "partner", tenant="second")
    for partner in (first, second):
        await partner.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat", "capacity": 5}))
    return first, second


def reserve(**fields: Any) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=SEAT, **fields)


async def counters(partner: Partner) -> tuple[int, int, int, int]:
    item = (await partner.inventory.GetItem(inventory.GetItemRequest(sku="seat"))).item
    return item.capacity, item.remaining, item.held, item.confirmed


async def test_the_same_sku_request_id_reference_holder_and_order_id_never_meet(both: Both) -> None:
    same = {"request_id": "once", "reference": "cart", "holder": "somebody"}
    for partner in both:
        made = await partner.reservations.Reserve(reserve(**same, duplicate_window={"seconds": 600}))
        assert not made.replayed
        confirm = pb.ConfirmRequest(reference="cart", request_id="twice", order_id="order", customer={"name": "N"})
        confirmed = await partner.reservations.Confirm(confirm)
        assert not confirmed.replayed
        assert confirmed.reservation.reservation_id == made.reservation.reservation_id
        assert await counters(partner) == (5, 4, 0, 1)
        listed = await partner.reservations.ListReservations(
            pb.ListReservationsRequest(order_id="order", include_total=True)
        )
        assert [r.reservation_id for r in listed.reservations] == [made.reservation.reservation_id]
        assert listed.total_count == 1
    for partner in both:
        assert (await partner.admin.VerifyLedger(admin.VerifyLedgerRequest())).item_count == 1


async def test_batches_of_two_tenants_with_the_same_request_ids_stay_apart(both: Both) -> None:
    request = pb.BatchReserveRequest(requests=[reserve(request_id=f"id {n}") for n in range(3)])
    made = [await partner.reservations.BatchReserve(request) for partner in both]
    ids = [result.reservation.reservation_id for answer in made for result in answer.results]
    assert not any(result.replayed for answer in made for result in answer.results)
    assert len(set(ids)) == 6


ON_A_RESERVATION: list[tuple[str, Callable[..., Any]]] = [
    ("GetReservation", pb.GetReservationRequest),
    ("Extend", pb.ExtendRequest),
    ("Confirm", pb.ConfirmRequest),
    ("Refund", pb.RefundRequest),
    ("Cancel", pb.CancelRequest),
]


async def test_another_tenants_reservation_is_not_there_whatever_the_scopes(both: Both) -> None:
    first, second = both
    held = (await first.reservations.Reserve(reserve(reference="cart"))).reservation
    for target in ({"reservation_id": held.reservation_id}, {"reference": "cart"}):
        for method, request in ON_A_RESERVATION:
            refusal = await refused(getattr(second.reservations, method)(request(**target)))
            assert (refusal.reason, refusal.metadata) == ("RESERVATION_NOT_FOUND", target), method
    events = pb.ListReservationEventsRequest(reservation_id=held.reservation_id)
    assert (await refused(second.reservations.ListReservationEvents(events))).reason == "RESERVATION_NOT_FOUND"
    listed = await second.reservations.ListReservations(
        pb.ListReservationsRequest(client="partner", reference="cart", sku="seat", include_total=True)
    )
    assert (list(listed.reservations), listed.total_count) == ([], 0)
    still = await first.reservations.GetReservation(pb.GetReservationRequest(reservation_id=held.reservation_id))
    assert still.reservation == held


async def test_another_tenants_items_are_not_there_and_do_not_change(both: Both) -> None:
    first, second = both
    await first.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "bed", "capacity": 7}))
    item: dict[str, Any] = {"sku": "bed"}
    for method, request in (
        ("GetItem", inventory.GetItemRequest(**item)),
        ("UpdateItem", inventory.UpdateItemRequest(item={**item, "capacity": 1}, update_mask={"paths": ["capacity"]})),
        ("AdjustCapacity", inventory.AdjustCapacityRequest(**item, delta=1)),
        ("TransferCapacity", inventory.TransferCapacityRequest(sku="bed", to_pool="web", quantity=1)),
        ("DeleteItem", inventory.DeleteItemRequest(**item)),
        ("CheckAvailability", inventory.CheckAvailabilityRequest(lines=[{"sku": "bed", "quantity": 1}])),
    ):
        assert (await refused(getattr(second.inventory, method)(request))).reason == "ITEM_NOT_FOUND", method
    refusal = await refused(second.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}])))
    assert refusal.reason == "ITEM_NOT_FOUND"
    listed = await second.inventory.ListItems(inventory.ListItemsRequest())
    assert [found.sku for found in listed.items] == ["seat"]
    # Its own of the same name is another one, created, adjusted, moved and deleted by itself.
    await second.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=[{"sku": "bed", "capacity": 3}]))
    await second.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(**item, delta=-1, request_id="once"))
    await second.inventory.TransferCapacity(
        inventory.TransferCapacityRequest(sku="bed", to_pool="web", quantity=2, request_id="twice")
    )
    await second.inventory.UpdateItem(
        inventory.UpdateItemRequest(item={**item, "display_name": "Bed"}, update_mask={"paths": ["display_name"]})
    )
    await second.inventory.DeleteItem(inventory.DeleteItemRequest(**item))
    left = (await first.inventory.GetItem(inventory.GetItemRequest(**item))).item
    assert (left.capacity, left.remaining, left.revision, left.display_name) == (7, 7, 1, "")
    for request_id, method, request in (
        ("once", "AdjustCapacity", inventory.AdjustCapacityRequest(**item, delta=-1)),
        ("twice", "TransferCapacity", inventory.TransferCapacityRequest(sku="bed", to_pool="web", quantity=2)),
    ):
        request.request_id = request_id
        assert not (await getattr(first.inventory, method)(request)).replayed


async def test_availability_counts_the_own_lapsed_holds_only(guarded: Harness, both: Both) -> None:
    first, second = both
    for partner, seconds in ((first, 10), (second, 3600)):
        await partner.reservations.Reserve(
            pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 5}], ttl={"seconds": seconds})
        )
    guarded.sql("UPDATE public.test_clock SET ahead = '1 minute'")
    check = inventory.CheckAvailabilityRequest(lines=SEAT)
    assert [(await partner.inventory.CheckAvailability(check)).lines[0].available for partner in both] == [5, 0]
    assert (await second.reservations.Cleanup(pb.CleanupRequest())).expired_count == 0
    assert (await first.reservations.Cleanup(pb.CleanupRequest())).expired_count == 1
    assert [await counters(partner) for partner in both] == [(5, 5, 0, 0), (5, 0, 5, 0)]


async def test_a_page_token_of_another_tenant_is_refused(both: Both) -> None:
    for partner in both:
        await partner.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "bed", "capacity": 1}))
        await partner.admin.CreateApiKey(admin.CreateApiKeyRequest(client="more", scopes=["reserve"]))
        for _ in range(2):
            await partner.reservations.Reserve(reserve())
    first, second = both
    held = [(await partner.reservations.Reserve(reserve())).reservation.reservation_id for partner in both]
    for partner, reservation_id in zip(both, held, strict=True):
        await partner.reservations.Extend(pb.ExtendRequest(reservation_id=reservation_id))
    for service, method, request in (
        ("inventory", "ListItems", inventory.ListItemsRequest(page_size=1)),
        ("reservations", "ListReservations", pb.ListReservationsRequest(page_size=1)),
        ("admin", "ListApiKeys", admin.ListApiKeysRequest(page_size=1)),
    ):
        page = await getattr(getattr(first, service), method)(request)
        request.page_token = page.next_page_token
        await getattr(getattr(first, service), method)(request)
        refusal = await refused(getattr(getattr(second, service), method)(request))
        assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "page_token"}), method
    trail = pb.ListReservationEventsRequest(reservation_id=held[0], page_size=1)
    trail.page_token = (await first.reservations.ListReservationEvents(trail)).next_page_token
    assert trail.page_token
    trail.reservation_id = held[1]
    assert (await refused(second.reservations.ListReservationEvents(trail))).reason == "INVALID_FIELD"


async def test_keys_of_another_tenant_are_not_listed_and_not_revoked(both: Both) -> None:
    first, second = both
    listed = await second.admin.ListApiKeys(admin.ListApiKeysRequest())
    assert [key.key_id for key in listed.api_keys] == [second.key_id]
    refusal = await refused(second.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=first.key_id)))
    assert (refusal.reason, refusal.metadata) == ("API_KEY_NOT_FOUND", {"key_id": first.key_id})
    made = await second.admin.CreateApiKey(admin.CreateApiKeyRequest(client="partner", scopes=["inventory.read"]))
    assert [key.key_id for key in (await second.admin.ListApiKeys(admin.ListApiKeysRequest())).api_keys] == [
        made.api_key.key_id,
        second.key_id,
    ]


async def test_a_recount_is_of_the_own_items(guarded: Harness, both: Both) -> None:
    guarded.sql("UPDATE holdsvc.item SET remaining = 4, held = 1 WHERE tenant = 'first'")
    first, second = both
    assert not (await first.admin.VerifyLedger(admin.VerifyLedgerRequest())).ok
    report = await second.admin.VerifyLedger(admin.VerifyLedgerRequest())
    assert report.ok
    assert report.item_count == 1


async def test_a_lapsed_hold_in_the_way_is_swept_in_its_own_tenant_only(guarded: Harness, both: Both) -> None:
    for partner in both:
        await partner.reservations.Reserve(
            pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 5}], ttl={"seconds": 10})
        )
    guarded.sql("UPDATE public.test_clock SET ahead = '1 minute'")
    first, second = both
    await first.reservations.Reserve(reserve())
    assert [await counters(partner) for partner in both] == [(5, 4, 1, 0), (5, 0, 5, 0)]
    states = pb.ListReservationsRequest(states=[reservation_pb2.Reservation.STATE_EXPIRED])
    assert len((await second.reservations.ListReservations(states)).reservations) == 1
