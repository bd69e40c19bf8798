"""Waitlists and rights: whose entries a key sees, takes out of the queue, and hears of."""

import asyncio
from datetime import timedelta
from typing import Any

from inventoryhold.v1 import event_pb2, item_pb2, waitlist_pb2
from inventoryhold.v1 import event_service_pb2 as epb
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as rpb
from inventoryhold.v1 import waitlist_service_pb2 as pb
from tests.support.harness import Harness, StartService, outcome
from tests.support.partners import Partner, new_partner

FIRST_FITTING = item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING
Entry = waitlist_pb2.WaitlistEntry
TYPES = [name for name in event_pb2.EventType.keys() if "WAITLIST" in name]  # noqa: SIM118


async def _guarded(start_service: StartService) -> tuple[Harness, Partner]:
    """A service with keys, and its operator, who has taken the only unit of an item in each of two pools."""
    service = await start_service(auth="api-key")
    operator = await new_partner(service, "operator")
    for pool in ("", "web"):
        item = item_pb2.Item(sku="seat", pool=pool, capacity=1, waitlist_policy=FIRST_FITTING)
        await operator.inventory.CreateItem(ipb.CreateItemRequest(item=item))
        line = item_pb2.ItemQuantity(sku="seat", pool=pool, quantity=1)
        await operator.reservations.Reserve(rpb.ReserveRequest(lines=[line], reference=f"held-{pool}"))
    return service, operator


def _join(holder: str, pool: str = "", **fields: Any) -> pb.JoinWaitlistRequest:
    return pb.JoinWaitlistRequest(lines=[{"sku": "seat", "pool": pool, "quantity": 1}], holder=holder, **fields)


async def test_a_client_sees_and_leaves_its_own_entries_only_unless_its_key_reads_or_manages_all(
    start_service: StartService,
) -> None:
    service, _ = await _guarded(start_service)
    shop = await new_partner(service, "shop", scopes=["waitlist.join"])
    kiosk = await new_partner(service, "kiosk", scopes=["waitlist.join"])
    reader = await new_partner(service, "reader", scopes=["waitlist.read", "waitlist.join"])
    manager = await new_partner(service, "manager", scopes=["waitlist.manage"])
    entry_id = (await shop.waitlist.JoinWaitlist(_join("ann"))).entry.entry_id
    get, leave = pb.GetWaitlistEntryRequest(entry_id=entry_id), pb.LeaveWaitlistRequest(entry_id=entry_id)
    every = pb.ListWaitlistEntriesRequest()
    assert await outcome(kiosk.waitlist.GetWaitlistEntry(get)) == "WAITLIST_ENTRY_NOT_FOUND"
    assert await outcome(kiosk.waitlist.LeaveWaitlist(leave)) == "WAITLIST_ENTRY_NOT_FOUND"
    assert not (await kiosk.waitlist.ListWaitlistEntries(every)).entries
    assert (await reader.waitlist.GetWaitlistEntry(get)).entry.holder == "ann"
    assert await outcome(reader.waitlist.LeaveWaitlist(leave)) == "PERMISSION_DENIED"
    assert len((await manager.waitlist.ListWaitlistEntries(every)).entries) == 1
    # The same holder of another client is somebody else.
    assert (await kiosk.waitlist.JoinWaitlist(_join("ann"))).entry.position == 2
    assert (await manager.waitlist.LeaveWaitlist(leave)).entry.state == Entry.STATE_LEFT
    assert [entry.client for entry in (await manager.waitlist.ListWaitlistEntries(every)).entries] == ["kiosk"]


async def test_a_priority_needs_the_scope_that_manages_the_queue(start_service: StartService) -> None:
    service, _ = await _guarded(start_service)
    shop = await new_partner(service, "shop", scopes=["waitlist.join"])
    desk = await new_partner(service, "desk", scopes=["waitlist.join", "waitlist.manage"])
    assert await outcome(shop.waitlist.JoinWaitlist(_join("ann", priority=1))) == "PERMISSION_DENIED"
    await shop.waitlist.JoinWaitlist(_join("ann"))
    assert (await desk.waitlist.JoinWaitlist(_join("vip", priority=1))).entry.position == 1


async def test_a_key_of_pools_joins_and_sees_what_lies_in_them(start_service: StartService) -> None:
    service, operator = await _guarded(start_service)
    web = await new_partner(service, "operator", pools="web")
    assert await outcome(web.waitlist.JoinWaitlist(_join("ann"))) == "ITEM_NOT_FOUND"
    hidden = (await operator.waitlist.JoinWaitlist(_join("ann"))).entry
    shown = (await web.waitlist.JoinWaitlist(_join("ann", "web"))).entry
    get = pb.GetWaitlistEntryRequest(entry_id=hidden.entry_id)
    assert await outcome(web.waitlist.GetWaitlistEntry(get)) == "WAITLIST_ENTRY_NOT_FOUND"
    leave = pb.LeaveWaitlistRequest(entry_id=hidden.entry_id)
    assert await outcome(web.waitlist.LeaveWaitlist(leave)) == "WAITLIST_ENTRY_NOT_FOUND"
    listed = await web.waitlist.ListWaitlistEntries(pb.ListWaitlistEntriesRequest(sku="seat"))
    assert [entry.entry_id for entry in listed.entries] == [shown.entry_id]


async def test_a_stream_tells_a_client_of_its_own_entries_from_the_join_to_the_end(start_service: StartService) -> None:
    service, operator = await _guarded(start_service)
    shop = await new_partner(service, "shop", scopes=["waitlist.join", "events.read", "confirm", "reserve"])
    kiosk = await new_partner(service, "kiosk", scopes=["waitlist.join"])
    stream = shop.events.StreamEvents(epb.StreamEventsRequest(types=TYPES))
    first = await stream.read()
    assert first.resume_token
    ann = (await shop.waitlist.JoinWaitlist(_join("ann"))).entry
    await kiosk.waitlist.JoinWaitlist(_join("ben"))
    cid = (await shop.waitlist.JoinWaitlist(_join("cid"))).entry
    await operator.reservations.Cancel(rpb.CancelRequest(reference="held-"))
    found = (await shop.waitlist.GetWaitlistEntry(pb.GetWaitlistEntryRequest(entry_id=ann.entry_id))).entry
    await shop.reservations.Confirm(rpb.ConfirmRequest(reservation_id=found.reservation_id))
    await shop.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=cid.entry_id, reason="bored"))
    told: list[event_pb2.Event] = []
    async with asyncio.timeout(30):
        while len(told) < 5:
            told += (await stream.read()).events
    stream.cancel()
    assert [(event_pb2.EventType.Name(event.type)[20:], event.waitlist_entry.holder) for event in told] == [
        ("JOINED", "ann"),
        ("JOINED", "cid"),
        ("OFFERED", "ann"),
        ("TAKEN", "ann"),
        ("LEFT", "cid"),
    ]
    offered, left = told[2].waitlist_entry, told[4].waitlist_entry
    assert (offered.state, offered.reservation_id) == (Entry.STATE_OFFERED, found.reservation_id)
    assert (left.state, left.reason, left.revision) == (Entry.STATE_LEFT, "bored", 2)
    assert (told[2].client, told[3].client) == ("", "shop")
    trail = rpb.ListReservationEventsRequest(reservation_id=found.reservation_id)
    kinds = [event.type for event in (await shop.reservations.ListReservationEvents(trail)).events]
    assert kinds == [
        event_pb2.EVENT_TYPE_RESERVED,
        event_pb2.EVENT_TYPE_WAITLIST_OFFERED,
        event_pb2.EVENT_TYPE_WAITLIST_TAKEN,
        event_pb2.EVENT_TYPE_CONFIRMED,
    ]


async def test_an_offer_outlives_the_key_that_joined(start_service: StartService) -> None:
    service, operator = await _guarded(start_service)
    gone = await new_partner(service, "shop", lifetime=timedelta(seconds=1))
    entry = (await gone.waitlist.JoinWaitlist(_join("ann"))).entry
    service.clock.advance(timedelta(seconds=5))
    await operator.reservations.Cancel(rpb.CancelRequest(reference="held-"))
    again = await new_partner(service, "shop", scopes=["waitlist.join"])
    found = await again.waitlist.GetWaitlistEntry(pb.GetWaitlistEntryRequest(entry_id=entry.entry_id))
    assert found.entry.state == Entry.STATE_OFFERED
