"""Pools of a key: a partner sees and takes from its own allotments only, in every rpc."""

import asyncio
from typing import Any

import pytest

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, outcome, refused
from tests.support.partners import Partner, new_partner


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    """A service with 10 units of the sku `tour` in each of the pools "", web and agency."""
    service = await start_service(auth="api-key")
    boss = await new_partner(service, "boss")
    for pool in ("", "web", "agency"):
        await boss.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "tour", "pool": pool, "capacity": 10}))
    return service


def lines(*pools: str) -> list[dict[str, Any]]:
    return [{"sku": "tour", "pool": pool, "quantity": 1} for pool in pools]


async def reserved(partner: Partner, *pools: str, **fields: Any) -> str:
    answer = await partner.reservations.Reserve(pb.ReserveRequest(lines=lines(*pools), **fields))
    return str(answer.reservation.reservation_id)


async def test_inventory_of_other_pools_is_not_there(guarded: Harness) -> None:
    web = await new_partner(guarded, "partner", pools="web")
    for pool in ("agency", "", "none such"):
        item: dict[str, Any] = {"sku": "tour", "pool": pool}
        for method, request in (
            ("GetItem", inventory.GetItemRequest(**item)),
            ("CreateItem", inventory.CreateItemRequest(item=item)),
            ("BatchCreateItems", inventory.BatchCreateItemsRequest(items=[{"sku": "new", "pool": "web"}, item])),
            (
                "UpdateItem",
                inventory.UpdateItemRequest(item={**item, "capacity": 1}, update_mask={"paths": ["capacity"]}),
            ),
            ("AdjustCapacity", inventory.AdjustCapacityRequest(**item, delta=1)),
            ("DeleteItem", inventory.DeleteItemRequest(**item)),
            ("CheckAvailability", inventory.CheckAvailabilityRequest(lines=lines("web", pool))),
            (
                "TransferCapacity",
                inventory.TransferCapacityRequest(sku="tour", from_pool="web", to_pool=pool, quantity=1),
            ),
            (
                "TransferCapacity",
                inventory.TransferCapacityRequest(sku="tour", from_pool=pool, to_pool="web", quantity=1),
            ),
        ):
            refusal = await refused(getattr(web.inventory, method)(request))
            assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", item), (method, pool)
    found = await web.inventory.GetItem(inventory.GetItemRequest(sku="tour", pool="web"))
    assert found.item.revision == 1


async def test_an_allotment_returns_to_the_keys_pools_only(guarded: Harness) -> None:
    web = await new_partner(guarded, "partner", pools="web")
    time = {"seconds": 1}
    create, update = web.inventory.CreateItem, web.inventory.UpdateItem
    item = {"sku": "new", "pool": "web", "return_time": time}
    for pool in ("agency", ""):
        refusal = await refused(create(inventory.CreateItemRequest(item={**item, "return_pool": pool})))
        assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", {"sku": "new", "pool": pool})
    await create(inventory.CreateItemRequest(item={"sku": "new", "pool": "web"}))
    for paths, pool in ((["return_time"], ""), (["return_time", "return_pool"], "agency")):
        request = inventory.UpdateItemRequest(item={**item, "return_pool": pool}, update_mask={"paths": paths})
        refusal = await refused(update(request))
        assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", {"sku": "new", "pool": pool})
    # Another key has given it a return pool that this one may not see: other fields it may set all the same.
    boss = await new_partner(guarded, "boss-2")
    mask = {"paths": ["return_time", "return_pool"]}
    await boss.inventory.UpdateItem(
        inventory.UpdateItemRequest(item={**item, "return_pool": "agency"}, update_mask=mask)
    )
    await update(inventory.UpdateItemRequest(item={**item, "buffer": 1}, update_mask={"paths": ["buffer"]}))
    mask = {"paths": ["return_time"]}
    later = inventory.UpdateItemRequest(item={**item, "return_time": {"seconds": 2}}, update_mask=mask)
    assert (await refused(update(later))).metadata["pool"] == "agency"


async def test_lists_of_items_show_the_keys_pools_only(guarded: Harness) -> None:
    two = await new_partner(guarded, "partner", pools="web,")
    listed = await two.inventory.ListItems(inventory.ListItemsRequest())
    assert [item.pool for item in listed.items] == ["", "web"]
    listed = await two.inventory.ListItems(inventory.ListItemsRequest(pool="web"))
    assert [item.pool for item in listed.items] == ["web"]
    listed = await two.inventory.ListItems(inventory.ListItemsRequest(pool="agency"))
    assert list(listed.items) == []
    first = await two.inventory.ListItems(inventory.ListItemsRequest(page_size=1))
    rest = await two.inventory.ListItems(inventory.ListItemsRequest(page_size=1, page_token=first.next_page_token))
    assert [item.pool for item in rest.items] == ["web"]
    assert rest.next_page_token == ""


async def test_nothing_is_taken_from_other_pools(guarded: Harness) -> None:
    web = await new_partner(guarded, "partner", pools="web")
    await reserved(web, "web")
    refusal = await refused(web.reservations.Reserve(pb.ReserveRequest(lines=lines("web", "agency"))))
    assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", {"sku": "tour", "pool": "agency"})
    answer = await web.reservations.BatchReserve(
        pb.BatchReserveRequest(requests=[pb.ReserveRequest(lines=lines(pool)) for pool in ("web", "agency", "")])
    )
    assert [result.WhichOneof("result") for result in answer.results] == ["reservation", "error", "error"]
    boss = await new_partner(guarded, "boss")
    listed = await boss.inventory.ListItems(inventory.ListItemsRequest())
    assert {item.pool: item.held for item in listed.items} == {"": 0, "agency": 0, "web": 2}


async def test_a_reservation_with_a_line_in_another_pool_is_not_there_for_any_key_of_the_client(
    guarded: Harness,
) -> None:
    everything = await new_partner(guarded, "partner")
    mixed = await reserved(everything, "web", "agency", reference="mixed")
    web = await new_partner(guarded, "partner", pools="web")
    targets: list[dict[str, Any]] = [{"reservation_id": mixed}, {"reference": "mixed"}]
    for target in targets:
        for method, request in (
            ("GetReservation", pb.GetReservationRequest(**target)),
            ("Confirm", pb.ConfirmRequest(**target)),
            ("Refund", pb.RefundRequest(**target)),
            ("Extend", pb.ExtendRequest(**target)),
            ("Cancel", pb.CancelRequest(**target)),
        ):
            refusal = await refused(getattr(web.reservations, method)(request))
            assert (refusal.reason, refusal.metadata) == ("RESERVATION_NOT_FOUND", target), method
    refusal = await refused(
        web.reservations.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=mixed))
    )
    assert refusal.reason == "RESERVATION_NOT_FOUND"
    for pool in (None, "web", "agency"):
        filters: dict[str, Any] = {} if pool is None else {"pool": pool}
        listed = await web.reservations.ListReservations(pb.ListReservationsRequest(include_total=True, **filters))
        assert (list(listed.reservations), listed.total_count) == ([], 0)


async def test_a_reference_means_what_the_key_may_see(guarded: Harness) -> None:
    everything = await new_partner(guarded, "partner")
    await reserved(everything, "agency", reference="cart")
    own = await reserved(everything, "web", reference="cart")
    await reserved(everything, "agency", reference="cart")
    web = await new_partner(guarded, "partner", pools="web")
    found = await web.reservations.GetReservation(pb.GetReservationRequest(reference="cart"))
    assert found.reservation.reservation_id == own
    confirmed = await web.reservations.Confirm(pb.ConfirmRequest(reference="cart"))
    assert confirmed.reservation.reservation_id == own
    refusal = await refused(everything.reservations.Cancel(pb.CancelRequest(reference="cart")))
    assert refusal.reason == "REFERENCE_AMBIGUOUS"


async def test_a_replay_shows_no_other_pools_reservation(guarded: Harness) -> None:
    everything = await new_partner(guarded, "partner")
    reservation_id = await reserved(everything, "agency")
    request = pb.ConfirmRequest(reservation_id=reservation_id, request_id="once", customer={"name": "A"})
    assert not (await everything.reservations.Confirm(request)).replayed
    assert (await everything.reservations.Confirm(request)).replayed
    web = await new_partner(guarded, "partner", pools="web")
    assert (await refused(web.reservations.Confirm(request))).reason == "RESERVATION_NOT_FOUND"


async def test_two_keys_that_send_the_same_request_at_once_are_answered_each_by_its_own_pools(guarded: Harness) -> None:
    everything = await new_partner(guarded, "partner")
    web = await new_partner(guarded, "partner", pools="web")
    for n in range(5):
        reservation_id = await reserved(everything, "agency")
        request = pb.CancelRequest(reservation_id=reservation_id, request_id=f"once {n}")
        answers = await asyncio.gather(
            *(outcome(partner.reservations.Cancel(request)) for _ in range(5) for partner in (everything, web))
        )
        assert set(answers[1::2]) == {"RESERVATION_NOT_FOUND"}
        assert [answer.reservation.reservation_id for answer in answers[0::2]] == [reservation_id] * 5


async def test_a_pool_of_a_similar_name_is_another_one(guarded: Harness) -> None:
    everything = await new_partner(guarded, "partner")
    reservation_id = await reserved(everything, "web")
    for pools in ("we", "webb", "w,eb", "WEB", ",we"):
        similar = await new_partner(guarded, "partner", pools=pools)
        refusal = await refused(similar.reservations.Cancel(pb.CancelRequest(reservation_id=reservation_id)))
        assert refusal.reason == "RESERVATION_NOT_FOUND", pools


async def test_read_all_and_write_all_end_at_the_keys_pools(guarded: Harness) -> None:
    owner = await new_partner(guarded, "owner")
    hidden, shown = await reserved(owner, "agency"), await reserved(owner, "web")
    office = await new_partner(guarded, "office", pools="web")
    listed = await office.reservations.ListReservations(pb.ListReservationsRequest(include_total=True))
    assert ([r.reservation_id for r in listed.reservations], listed.total_count) == ([shown], 1)
    await office.reservations.Cancel(pb.CancelRequest(reservation_id=shown))
    refusal = await refused(office.reservations.Cancel(pb.CancelRequest(reservation_id=hidden)))
    assert refusal.reason == "RESERVATION_NOT_FOUND"


async def test_a_recount_names_drifts_of_the_keys_pools_only(guarded: Harness) -> None:
    guarded.sql("UPDATE holdsvc.item SET remaining = 9, held = 1 WHERE pool IN ('web', 'agency')")
    web = await new_partner(guarded, "partner", pools="web")
    report = await web.admin.VerifyLedger(admin.VerifyLedgerRequest())
    assert not report.ok
    assert {drift.pool for drift in report.drifts} == {"web"}
