"""Waitlists: joining, the order of offers, and what an entry may become."""

import asyncio
import functools
from datetime import timedelta
from typing import Any

import grpc
import pytest

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2, waitlist_pb2
from inventoryhold.v1 import reservation_service_pb2 as rpb
from inventoryhold.v1 import waitlist_service_pb2 as pb
from tests.contract.lines import counters, wanted
from tests.support.harness import Harness, outcome, refused
from tests.support.limits import set_limit, used

Entry = waitlist_pb2.WaitlistEntry
FIRST_FITTING = item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING
STRICT = item_pb2.Item.WAITLIST_POLICY_STRICT


async def _sold_out(service: Harness, sku: str = "seat", capacity: int = 1, policy: Any = FIRST_FITTING) -> str:
    """An item of which all units are held; returns the hold's id."""
    await service.create_item(sku, capacity, waitlist_policy=policy)
    return (await service.reserve({sku: capacity})).reservation_id


async def _cancel(service: Harness, reservation_id: str, **quantities: int) -> None:
    request = rpb.CancelRequest(
        reservation_id=reservation_id, lines=[{"sku": sku, "quantity": n} for sku, n in quantities.items()]
    )
    await service.reservations.Cancel(request)


async def _states(service: Harness, *entries: Entry) -> list[str]:
    return [Entry.State.Name((await service.entry(entry.entry_id)).state)[6:] for entry in entries]


async def test_units_that_a_cancel_frees_are_held_for_the_first_who_waits_when_it_answers(service: Harness) -> None:
    held = await _sold_out(service)
    ann = await service.join({"seat": 1}, "ann", reference="cart-1", metadata={"a": "1"})
    ben = await service.join({"seat": 1}, "ben")
    assert (ann.state, ann.position, ben.position) == (Entry.STATE_WAITING, 1, 2)
    assert (await service.item("seat")).waiting == 2
    await _cancel(service, held)
    ann, ben = await service.entry(ann.entry_id), await service.entry(ben.entry_id)
    assert (ann.state, ben.state, ben.position) == (Entry.STATE_OFFERED, Entry.STATE_WAITING, 1)
    offer = await service.get(ann.reservation_id)
    assert (offer.holder, offer.reference, dict(offer.metadata)) == ("ann", "cart-1", {"a": "1"})
    assert (offer.waitlist_entry_id, len(offer.lines), offer.lines[0].quantity) == (ann.entry_id, 1, 1)
    assert counters(await service.item("seat")) == (1, 0, 1, 0)
    assert (await refused(service.reserve({"seat": 1}))).reason == "CAPACITY_EXCEEDED"
    await service.reservations.Confirm(rpb.ConfirmRequest(reservation_id=ann.reservation_id))
    assert await _states(service, ann, ben) == ["TAKEN", "WAITING"]
    await service.verify()


async def test_free_units_are_offered_at_the_join(service: Harness) -> None:
    await service.create_item("seat", 2, waitlist_policy=FIRST_FITTING)
    entry = await service.join({"seat": 2}, "ann", offer_ttl=timedelta(minutes=5))
    assert entry.state == Entry.STATE_OFFERED
    offer = await service.get(entry.reservation_id)
    assert offer.expire_time.ToDatetime() - offer.create_time.ToDatetime() == timedelta(minutes=5)
    assert counters(await service.item("seat")) == (2, 0, 2, 0)


async def test_a_higher_priority_comes_first_and_then_who_joined_first(service: Harness) -> None:
    held = await _sold_out(service, capacity=3)
    ann = await service.join({"seat": 1}, "ann")
    ben = await service.join({"seat": 1}, "ben")
    vip = await service.join({"seat": 1}, "vip", priority=5)
    last = await service.join({"seat": 1}, "last", priority=-5)
    assert [(await service.entry(each.entry_id)).position for each in (vip, ann, ben, last)] == [1, 2, 3, 4]
    listed = await service.waitlist.ListWaitlistEntries(pb.ListWaitlistEntriesRequest(sku="seat"))
    assert [entry.holder for entry in listed.entries] == ["vip", "ann", "ben", "last"]
    await _cancel(service, held, seat=2)
    assert await _states(service, vip, ann, ben, last) == ["OFFERED", "OFFERED", "WAITING", "WAITING"]
    await service.verify()


async def test_first_fitting_passes_who_wants_more_and_lets_a_hold_take_what_nobody_can_use(service: Harness) -> None:
    held = await _sold_out(service, capacity=4)
    big = await service.join({"seat": 3}, "big")
    small = await service.join({"seat": 1}, "small")
    await _cancel(service, held, seat=2)
    assert await _states(service, big, small) == ["WAITING", "OFFERED"]
    await service.reserve({"seat": 1})
    assert (await service.item("seat")).remaining == 0
    await service.verify()


async def test_strict_lets_nobody_pass_and_shows_nothing_available_while_somebody_waits(service: Harness) -> None:
    held = await _sold_out(service, capacity=4, policy=STRICT)
    big = await service.join({"seat": 3}, "big")
    small = await service.join({"seat": 1}, "small")
    await _cancel(service, held, seat=2)
    assert await _states(service, big, small) == ["WAITING", "WAITING"]
    line = item_pb2.ItemQuantity(sku="seat", quantity=1)
    assert not (await service.inventory.CheckAvailability(ipb.CheckAvailabilityRequest(lines=[line]))).available
    refusal = await refused(service.reserve({"seat": 1}))
    assert (refusal.reason, refusal.metadata["available"]) == ("CAPACITY_EXCEEDED", "0")
    await service.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=big.entry_id))
    assert await _states(service, big, small) == ["LEFT", "OFFERED"]
    await service.reserve({"seat": 1})
    await service.verify()


async def test_a_strict_head_that_wants_more_than_there_can_ever_be_is_passed_and_says_so(service: Harness) -> None:
    held = await _sold_out(service, capacity=2, policy=STRICT)
    greedy = await service.join({"seat": 3}, "greedy")
    modest = await service.join({"seat": 1}, "modest")
    await _cancel(service, held, seat=1)
    assert await _states(service, greedy, modest) == ["WAITING", "OFFERED"]
    assert (await service.entry(greedy.entry_id)).pass_reason == Entry.PASS_REASON_UNSERVABLE
    await service.inventory.AdjustCapacity(ipb.AdjustCapacityRequest(sku="seat", delta=3))
    assert await _states(service, greedy) == ["OFFERED"]
    await service.verify()


async def test_an_entry_with_two_items_is_served_once_both_are_there(service: Harness) -> None:
    bed, tour = await _sold_out(service, "bed"), await _sold_out(service, "tour")
    both = await service.join({"bed": 1, "tour": 1}, "ann")
    alone = await service.join({"tour": 1}, "ben")
    await _cancel(service, bed)
    assert await _states(service, both) == ["WAITING"]
    # Nobody who waits can use the bed alone.
    again = await service.reserve({"bed": 1})
    await _cancel(service, tour)
    assert await _states(service, both, alone) == ["WAITING", "OFFERED"]
    await _cancel(service, again.reservation_id)
    assert await _states(service, both) == ["WAITING"]
    await _cancel(service, (await service.entry(alone.entry_id)).reservation_id)
    assert await _states(service, both, alone) == ["OFFERED", "LEFT"]
    await service.verify()


async def test_many_blocked_by_another_item_do_not_hide_one_who_fits(service: Harness) -> None:
    bed = await _sold_out(service, "bed")
    await _sold_out(service, "tour")
    blocked = [await service.join({"bed": 1, "tour": 1}, f"holder-{n}") for n in range(5)]
    fits = await service.join({"bed": 1}, "ann")
    await _cancel(service, bed)
    assert await _states(service, fits, *blocked[:1]) == ["OFFERED", "WAITING"]
    await service.verify()


async def test_an_offer_that_is_cancelled_or_lapses_passes_on(service: Harness) -> None:
    held = await _sold_out(service)
    entries = [await service.join({"seat": 1}, name, offer_ttl=timedelta(seconds=60)) for name in "abc"]
    await _cancel(service, held)
    await _cancel(service, (await service.entry(entries[0].entry_id)).reservation_id)
    assert await _states(service, *entries) == ["LEFT", "OFFERED", "WAITING"]
    service.clock.advance(timedelta(seconds=61))
    # Before any sweep: the offer is over to every caller, and its units are not for others.
    assert await _states(service, *entries) == ["LEFT", "LAPSED", "WAITING"]
    assert (await refused(service.reserve({"seat": 1}))).reason == "CAPACITY_EXCEEDED"
    assert await _states(service, *entries) == ["LEFT", "LAPSED", "OFFERED"]
    await service.verify()


async def test_the_sweep_passes_on_what_has_lapsed(service: Harness) -> None:
    await service.create_item("seat", 1, waitlist_policy=FIRST_FITTING)
    await service.reserve({"seat": 1}, ttl=timedelta(seconds=60))
    entry = await service.join({"seat": 1}, "ann")
    service.clock.advance(timedelta(seconds=61))
    await service.sweep()
    assert await _states(service, entry) == ["OFFERED"]
    await service.verify()


async def test_an_entry_lapses_at_its_time_and_unblocks_a_strict_queue(service: Harness) -> None:
    held = await _sold_out(service, capacity=2, policy=STRICT)
    now = (await service.get(held)).create_time.ToDatetime()
    first = await service.join({"seat": 2}, "ann", expire_time=now + timedelta(seconds=60))
    second = await service.join({"seat": 1}, "ben")
    await _cancel(service, held, seat=1)
    assert await _states(service, first, second) == ["WAITING", "WAITING"]
    service.clock.advance(timedelta(seconds=61))
    assert await _states(service, first, second) == ["LAPSED", "WAITING"]
    await service.sweep()
    assert await _states(service, first, second) == ["LAPSED", "OFFERED"]
    await service.verify()


async def test_every_way_in_which_units_become_free_serves_the_queue_before_it_answers(service: Harness) -> None:
    stub, items = service.reservations, service.inventory

    async def served(act: Any) -> None:
        entry = await service.join({"seat": 1}, f"holder-{len(offers)}")
        assert entry.state == Entry.STATE_WAITING
        await act()
        offers.append((await service.entry(entry.entry_id)).reservation_id)
        assert offers[-1]

    offers: list[str] = []
    held = await _sold_out(service, capacity=10)
    await served(lambda: _cancel(service, held, seat=1))
    lines = [rpb.LineChange(sku="seat", quantity=8)]
    await served(
        lambda: stub.Modify(rpb.ModifyRequest(reservation_id=held, lines=lines, update_mask={"paths": ["lines"]}))
    )
    part = [item_pb2.ItemQuantity(sku="seat", quantity=7)]
    await served(lambda: stub.Confirm(rpb.ConfirmRequest(reservation_id=held, lines=part)))
    one = [item_pb2.ItemQuantity(sku="seat", quantity=1)]
    await served(lambda: stub.Refund(rpb.RefundRequest(reservation_id=held, lines=one)))
    await stub.Fulfil(rpb.FulfilRequest(reservation_id=held, lines=one))
    await served(
        lambda: stub.Refund(rpb.RefundRequest(reservation_id=held, lines=one, units=rpb.RefundRequest.UNITS_FULFILLED))
    )
    await served(lambda: items.AdjustCapacity(ipb.AdjustCapacityRequest(sku="seat", delta=1)))
    await service.create_item("seat", 1, pool="web")
    await served(lambda: items.TransferCapacity(ipb.TransferCapacityRequest(sku="seat", from_pool="web", quantity=1)))
    capacity = (await service.item("seat")).capacity
    for fields in ({"capacity": capacity + 1}, {"oversell_limit": 1}):
        update = ipb.UpdateItemRequest(item={"sku": "seat", **fields}, update_mask={"paths": list(fields)})
        await served(functools.partial(items.UpdateItem, update))
    service.clock.advance(timedelta(minutes=31))
    await served(lambda: stub.Cleanup(rpb.CleanupRequest()))
    await service.verify()


async def test_a_call_that_frees_more_items_than_one_serve_takes_serves_them_all_before_it_answers(
    service: Harness,
) -> None:
    skus = [f"seat-{number}" for number in range(60)]
    await service.inventory.BatchCreateItems(
        ipb.BatchCreateItemsRequest(
            items=[item_pb2.Item(sku=sku, capacity=1, waitlist_policy=FIRST_FITTING) for sku in skus]
        )
    )
    held = await service.reserve(dict.fromkeys(skus, 1))
    entries = await asyncio.gather(*(service.join({sku: 1}, "ann") for sku in skus))
    await _cancel(service, held.reservation_id)
    assert await _states(service, *entries) == ["OFFERED"] * len(skus)


async def test_a_closed_sale_and_a_policy_that_is_off_pause_the_queue(service: Harness) -> None:
    held = await _sold_out(service)
    entry = await service.join({"seat": 1}, "ann")

    async def update(**fields: Any) -> None:
        request = ipb.UpdateItemRequest(item={"sku": "seat", **fields}, update_mask={"paths": list(fields)})
        await service.inventory.UpdateItem(request)

    await update(sale_state=item_pb2.Item.SALE_STATE_CLOSED)
    await _cancel(service, held)
    assert await _states(service, entry) == ["WAITING"]
    await update(waitlist_policy=item_pb2.Item.WAITLIST_POLICY_OFF)
    await update(sale_state=item_pb2.Item.SALE_STATE_OPEN)
    assert await _states(service, entry) == ["WAITING"]
    refusal = await refused(service.join({"seat": 1}, "ben"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WAITLIST_CLOSED")
    assert refusal.metadata == {"sku": "seat", "pool": ""}
    taken = await service.reserve({"seat": 1})
    await _cancel(service, taken.reservation_id)
    await update(waitlist_policy=FIRST_FITTING)
    assert await _states(service, entry) == ["OFFERED"]
    await service.verify()


async def test_a_holder_waits_once_for_an_item_and_may_wait_again_after_the_end(service: Harness) -> None:
    held = await _sold_out(service)
    first = await service.join({"seat": 1}, "ann")
    refusal = await refused(service.join({"seat": 1}, "ann"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_WAITING")
    assert refusal.metadata == {"entry_id": first.entry_id}
    await _cancel(service, held)
    assert (await refused(service.join({"seat": 1}, "ann"))).reason == "ALREADY_WAITING"
    service.clock.advance(timedelta(minutes=31))
    # Its offer has lapsed; the units that it frees are there for the new entry.
    again = await service.join({"seat": 1}, "ann")
    assert (again.state, await _states(service, first)) == (Entry.STATE_OFFERED, ["LAPSED"])
    await service.verify()


async def test_a_repeated_join_is_replayed_with_the_entry_as_it_is(service: Harness) -> None:
    held = await _sold_out(service)
    request = pb.JoinWaitlistRequest(lines=[{"sku": "seat", "quantity": 1}], holder="ann", request_id="one")
    answers = await asyncio.gather(*(service.waitlist.JoinWaitlist(request) for _ in range(5)))
    assert len({answer.entry.entry_id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False, True, True, True, True]
    await _cancel(service, held)
    again = await service.waitlist.JoinWaitlist(request)
    assert (again.replayed, again.entry.state) == (True, Entry.STATE_OFFERED)
    request.holder = "ben"
    assert (await refused(service.waitlist.JoinWaitlist(request))).reason == "REQUEST_ID_REUSED"


async def test_leaving_twice_changes_nothing_and_what_has_ended_stays_as_it_is(service: Harness) -> None:
    held = await _sold_out(service)
    left, taken = await service.join({"seat": 1}, "ann"), await service.join({"seat": 1}, "ben")
    leave = pb.LeaveWaitlistRequest(entry_id=left.entry_id, reason="bought elsewhere")
    first = (await service.waitlist.LeaveWaitlist(leave)).entry
    assert (first.state, first.reason, first.revision) == (Entry.STATE_LEFT, "bought elsewhere", 2)
    assert (await service.waitlist.LeaveWaitlist(leave)).entry == first
    await _cancel(service, held)
    offer = (await service.entry(taken.entry_id)).reservation_id
    await service.reservations.Confirm(rpb.ConfirmRequest(reservation_id=offer))
    still = (await service.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=taken.entry_id))).entry
    assert still.state == Entry.STATE_TAKEN
    assert (await service.get(offer)).state == 2
    unknown = pb.GetWaitlistEntryRequest(entry_id="00000000-0000-4000-8000-000000000000")
    assert (await refused(service.waitlist.GetWaitlistEntry(unknown))).reason == "WAITLIST_ENTRY_NOT_FOUND"


async def test_leaving_an_offer_cancels_it_and_passes_it_on(service: Harness) -> None:
    held = await _sold_out(service)
    ann, ben = await service.join({"seat": 1}, "ann"), await service.join({"seat": 1}, "ben")
    await _cancel(service, held)
    left = (await service.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=ann.entry_id))).entry
    assert left.state == Entry.STATE_LEFT
    assert (await service.get(left.reservation_id)).state == 3
    assert await _states(service, ann, ben) == ["LEFT", "OFFERED"]
    await service.verify()


async def test_growth_and_rescue_come_after_those_who_wait(service: Harness) -> None:
    await service.create_item("seat", 2, waitlist_policy=FIRST_FITTING)
    mine = await service.reserve({"seat": 1}, ttl=timedelta(minutes=10))
    await service.reserve({"seat": 1}, ttl=timedelta(seconds=60))
    entry = await service.join({"seat": 1}, "ann")
    service.clock.advance(timedelta(seconds=61))
    grow = rpb.ModifyRequest(reservation_id=mine.reservation_id, lines=wanted(seat=2), update_mask={"paths": ["lines"]})
    assert (await refused(service.reservations.Modify(grow))).reason == "CAPACITY_EXCEEDED"
    assert await _states(service, entry) == ["OFFERED"]
    behind = await service.join({"seat": 1}, "ben")
    service.clock.advance(timedelta(minutes=10))
    rescue = rpb.ConfirmRequest(reservation_id=mine.reservation_id, rescue=True)
    assert await outcome(service.reservations.Confirm(rescue)) == "CAPACITY_EXCEEDED"
    assert await _states(service, entry, behind) == ["OFFERED", "OFFERED"]
    await service.verify()


async def test_an_item_for_which_somebody_waits_is_not_deleted(service: Harness) -> None:
    held = await _sold_out(service)
    entry = await service.join({"seat": 2}, "ann")
    await _cancel(service, held)
    delete = ipb.DeleteItemRequest(sku="seat")
    assert (await refused(service.inventory.DeleteItem(delete))).reason == "CAPACITY_IN_USE"
    await service.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=entry.entry_id))
    await service.inventory.DeleteItem(delete)


@pytest.mark.parametrize("policy", [FIRST_FITTING, STRICT])
async def test_a_waiter_whose_limit_is_used_up_is_passed_with_the_reason_on_its_entry(
    service: Harness, policy: item_pb2.Item.WaitlistPolicy
) -> None:
    held = await _sold_out(service, capacity=3, policy=policy)
    await service.create_item("seat-2", 2)
    await set_limit(service, "each", 2, sku_prefix="seat")
    other = await service.reserve({"seat-2": 2}, holder="ann")
    ann, ben, cid = [await service.join({"seat": 1}, name) for name in ("ann", "ben", "cid")]
    await _cancel(service, held, seat=1)
    assert await _states(service, ann, ben, cid) == ["WAITING", "OFFERED", "WAITING"]
    assert (await service.entry(ann.entry_id)).pass_reason == Entry.PASS_REASON_LIMIT
    # What it has elsewhere counts no more: at the next serve its turn comes before that of who came later.
    await _cancel(service, other.reservation_id)
    await _cancel(service, held, seat=1)
    assert await _states(service, ann, ben, cid) == ["OFFERED", "OFFERED", "WAITING"]
    assert await used(service, "each", "ann") == 1
    await service.verify()
