"""Names of variables and of columns: a column that a later release adds breaks no function of an earlier one."""

import os
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import tuple_row

from holdsvc.ledger import (
    feed,
    keys,
    removal,
    retention,
    stock,
    tenant_move,  # noqa: F401 - it binds what is called
    tenants,
    upkeep,
    waitlist,
    watched,
    webhooks,
)
from holdsvc.ledger import limits as ledger_limits
from holdsvc.ledger.binding import FUNCTIONS, Function
from holdsvc.ledger.database import Connection
from holdsvc.ledger.proofs import holds, nothing_told
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Caller
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2, waitlist_pb2
from inventoryhold.v1 import limit_service_pb2 as limits
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import waitlist_service_pb2 as waitlists
from inventoryhold.v1 import webhook_service_pb2 as hooks
from tests.support.harness import SET_NAME, StartService, refused
from tests.support.limits import set_limit, used
from tests.support.wide_schema import widen, words

DECLARED = re.compile(r"^\s*DECLARE\b(.*?)^\s*BEGIN\b", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"\bFOR\s+(\w+)\s+IN\b")


def test_every_variable_and_argument_of_a_plpgsql_function_begins_with_an_underscore(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        functions = owner.execute(
            "SELECT p.proname, coalesce(p.proargnames, '{}'), p.prosrc"
            " FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang"
            " WHERE p.pronamespace = %s::regnamespace AND l.lanname = 'plpgsql'",
            (SET_NAME,),
        ).fetchall()
    assert len(functions) > 30
    loose = {}
    for name, arguments, body in functions:
        declared = [line.split()[0] for block in DECLARED.findall(body) for line in block.split(";") if line.split()]
        declared = [word for word in declared if word != "--"]
        names = [*arguments, *declared, *LOOP.findall(body)]
        loose[name] = [variable for variable in names if not variable.startswith(("_", "--"))]
    assert {name: found for name, found in loose.items() if found} == {}


def test_no_column_of_a_table_begins_with_an_underscore(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        found = owner.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relnamespace IN ('holdsvc'::regnamespace, 'holdsvc_migrations'::regnamespace)"
            " AND c.relkind IN ('r', 'p') AND a.attname ~ '^_'"
        ).fetchall()
    assert found == []


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The functions that are called while the test runs."""
    names: set[str] = set()
    fetch = Function.fetch

    async def noted(self: Function[Any], connection: Any, **arguments: object) -> list[Any]:
        names.add(self.name)
        return await fetch(self, connection, **arguments)

    monkeypatch.setattr(Function, "fetch", noted)
    return names


async def test_every_function_works_when_every_table_has_a_column_of_every_name_that_functions_use(
    start_service: StartService, ledger_dsn: str, called: set[str]
) -> None:
    assert len(words()) > 200
    if not os.environ.get("TEST_WIDE_SCHEMA"):
        widen(ledger_dsn)
    service = await start_service(webhook_networks="127.0.0.0/8")
    stub, items = service.reservations, service.inventory
    await service.create_item("seat", 20)
    await items.BatchCreateItems(inventory.BatchCreateItemsRequest(items=[{"sku": "bed", "capacity": 5}]))
    line = {"sku": "seat", "quantity": 1}
    taken = pb.ReserveRequest(
        lines=[line], holder="ann", reference="cart", request_id="once", duplicate_window=timedelta(minutes=1)
    )
    first = (await stub.Reserve(taken)).reservation
    assert (await stub.Reserve(taken)).reservation == first
    again = pb.ReserveRequest(lines=[line], holder="ann", duplicate_window=timedelta(minutes=1))
    assert (await refused(stub.Reserve(again))).reason == "DUPLICATE_RESERVATION"
    assert (await refused(service.reserve({"seat": 20}))).reason == "CAPACITY_EXCEEDED"
    assert (await refused(service.reserve({"none": 1}))).reason == "ITEM_NOT_FOUND"
    await stub.Extend(pb.ExtendRequest(reference="cart"))
    sold = await stub.Confirm(pb.ConfirmRequest(reference="cart", lines=[line], request_id="sold"))
    await stub.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id, lines=[line]))
    await stub.Refund(pb.RefundRequest(reservation_id=first.reservation_id, lines=[line]))
    several = await service.reserve([("seat", "", 2), ("bed", "", 1)])
    await stub.Cancel(pb.CancelRequest(reservation_id=several.reservation_id))
    for wanted in (
        pb.ListReservationsRequest(include_total=True),
        pb.ListReservationsRequest(client="dev"),
        pb.ListReservationsRequest(sku="seat"),
        pb.ListReservationsRequest(holder="ann"),
        pb.ListReservationsRequest(reference="cart", pool=""),
        pb.ListReservationsRequest(order_id=sold.reservation.order_id),
    ):
        assert (await stub.ListReservations(wanted)).reservations
    await stub.GetReservation(pb.GetReservationRequest(reference="cart"))
    await of_holds_that_change(service)
    await stub.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=first.reservation_id))
    await of_capacity(items)
    await items.UpdateItem(
        inventory.UpdateItemRequest(item={"sku": "bed", "capacity": 6}, update_mask={"paths": ["capacity"]})
    )
    await items.DeleteItem(inventory.DeleteItemRequest(sku="bed"))
    await items.ListItems(inventory.ListItemsRequest())
    await service.item("seat")
    await items.CheckAvailability(inventory.CheckAvailabilityRequest(lines=[line]))
    for selection in (inventory.WatchInventoryRequest(), inventory.WatchInventoryRequest(items=[{"sku": "seat"}])):
        watching = items.WatchInventory(selection)
        await watching.read()
        watching.cancel()
    streaming = service.events.StreamEvents(events.StreamEventsRequest(from_oldest=True))
    await streaming.read()
    streaming.cancel()
    # What has lapsed is swept on demand, then by the sweep.
    for units in (18, 17):
        await service.reserve({"seat": units}, ttl=timedelta(seconds=1))
        service.clock.advance(timedelta(seconds=2))
        await service.reserve({"seat": units}, ttl=timedelta(seconds=1))
        service.clock.advance(timedelta(seconds=2))
        await service.sweep()
    await stub.Cleanup(pb.CleanupRequest())
    made = await service.admin.CreateApiKey(admin.CreateApiKeyRequest(client="more", scopes=["reserve"]))
    await service.admin.ListApiKeys(admin.ListApiKeysRequest())
    await service.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=made.api_key.key_id))
    await of_the_background(service)
    await service.verify()
    assert {*FUNCTIONS} - called == set()


async def of_capacity(items: Any) -> None:
    """What sets and moves units."""
    await items.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", delta=1))
    await items.ExplainAvailability(inventory.ExplainAvailabilityRequest(sku="seat"))
    await items.BatchSetStock(inventory.BatchSetStockRequest(counts=[{"sku": "seat", "on_hand": 22}]))
    await items.TransferCapacity(inventory.TransferCapacityRequest(sku="seat", to_pool="web", quantity=1))


async def of_holds_that_change(service: Any) -> None:
    """Modify, a partial Cancel, a rescue, Fulfil and a return; and waitlists."""
    stub = service.reservations
    # Long enough for the next calls, whose plans take long on tables so wide.
    made = await service.reserve({"seat": 2}, reference="other", ttl=timedelta(minutes=5))
    grown = pb.ModifyRequest(
        reference="other", lines=[{"sku": "seat", "quantity": 3}], update_mask={"paths": ["lines"]}
    )
    await stub.Modify(grown)
    part = [{"sku": "seat", "quantity": 1}]
    await stub.Cancel(pb.CancelRequest(reservation_id=made.reservation_id, lines=part))
    service.clock.advance(timedelta(minutes=5, seconds=1))
    await stub.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id, rescue=True))
    await stub.Fulfil(pb.FulfilRequest(reservation_id=made.reservation_id, lines=part))
    await stub.Refund(pb.RefundRequest(reservation_id=made.reservation_id))
    await of_waitlists(service)


ENDED = [waitlist_pb2.WaitlistEntry.STATE_LAPSED, waitlist_pb2.WaitlistEntry.STATE_LEFT]


async def of_waitlists(service: Any) -> None:
    """A queue of two that is served, lapses, is left, read and listed."""
    await service.create_item("bunk", 1, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_STRICT)
    held = await service.reserve({"bunk": 1})
    line = {"bunk": 1}
    first = await service.join(line, "ann", request_id="join")
    assert await service.join(line, "ann", request_id="join") == first
    assert (await refused(service.join(line, "ann"))).reason == "ALREADY_WAITING"
    await service.join(line, "ben", expire_time=held.expire_time)
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))
    offer = (await service.entry(first.entry_id)).reservation_id
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=offer))
    later = await service.join(line, "cid")
    service.clock.advance(timedelta(hours=1))
    await service.sweep()
    await service.waitlist.LeaveWaitlist(waitlists.LeaveWaitlistRequest(entry_id=later.entry_id))
    for wanted in (
        waitlists.ListWaitlistEntriesRequest(states=[*ENDED, waitlist_pb2.WaitlistEntry.STATE_WAITING]),
        waitlists.ListWaitlistEntriesRequest(states=ENDED, sku="bunk"),
        waitlists.ListWaitlistEntriesRequest(states=ENDED, holder="ann"),
    ):
        assert (await service.waitlist.ListWaitlistEntries(wanted)).entries


async def of_limits(service: Any) -> None:
    """A limit of holders and one of clients, from their building to their removal."""
    window = {"counts": "COUNTS_HELD_AND_CONFIRMED", "window": timedelta(hours=1)}
    for limit_id, terms in (("each", window), ("all", {"per": "PER_CLIENT"})):
        made = await set_limit(service, limit_id, 50, **terms)
        assert made.state == limits.Limit.STATE_ACTIVE
        await used(service, limit_id, "ann")
    limited = pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}], holder="ann", reference="limited")
    await service.reservations.Reserve(limited)
    await service.reservations.Extend(pb.ExtendRequest(reference="limited"))
    for units in (2, 1):
        change = pb.ModifyRequest(
            reference="limited", lines=[{"sku": "seat", "quantity": units}], update_mask={"paths": ["lines"]}
        )
        await service.reservations.Modify(change)
    await service.reservations.Confirm(pb.ConfirmRequest(reference="limited"))
    await service.reservations.Refund(pb.RefundRequest(reference="limited"))
    held = await service.reserve({"seat": 1}, holder="ann")
    assert (await refused(service.reserve({"seat": 99}, holder="ann"))).reason == "LIMIT_EXCEEDED"
    await service.verify()
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))
    await service.limits.ListLimits(limits.ListLimitsRequest())
    await service.limits.DeleteLimit(limits.DeleteLimitRequest(limit_id="all"))


async def of_webhooks(service: Any) -> None:
    """A webhook from its creation to its end, and what a sender calls."""
    stub = service.webhooks
    made = await stub.CreateWebhook(hooks.CreateWebhookRequest(url="http://127.0.0.1:1/", sku_prefix="none"))
    id_ = made.webhook.webhook_id
    assert (await stub.ListWebhooks(hooks.ListWebhooksRequest())).webhooks
    await stub.TestWebhook(hooks.TestWebhookRequest(webhook_id=id_))
    # Its own sender would be in the way.
    await service.cell.sender.stop()
    lease = timedelta(seconds=30)
    async with service.cell.database.connection() as connection:
        await webhooks.enable(connection, Caller("default", "dev", "", frozenset()), id_)
        service.sql("UPDATE holdsvc.webhook SET due_time = '-infinity', lease_id = NULL")
        [taken] = await webhooks.claim(connection, lease, 10)
        report = webhooks.Report(taken, taken.place, succeeded=True)
        assert await webhooks.renew(connection, lease, [report]) == {taken.lease_id}
        failed = webhooks.Attempt("STATUS", 500, 0.0)
        await webhooks.release(connection, taken, failed, pause=lease, failing_max=lease)
        assert await webhooks.place_at(connection, "default", datetime(2026, 1, 1, tzinfo=UTC)) is not None
        assert (await webhooks.totals(connection)).failing == 1
    await stub.DeleteWebhook(hooks.DeleteWebhookRequest(webhook_id=id_))


async def of_moves(owner: Connection) -> None:
    """A tenant that is placed, stays after all, leaves, is expected again, not awaited, and let in."""
    first, other = uuid4(), uuid4()
    await tenants.place(owner, "new")
    for name, arguments, then in (
        ("tenant_state_here", {}, "HERE"),
        ("freeze_tenant", {"to": "b", "move_id": first}, "FROZEN"),
        ("take_over_move", {"former_id": first, "move_id": other}, "FROZEN"),
        ("keep_tenant", {"move_id": other}, "HERE"),
        ("freeze_tenant", {"to": "b", "move_id": first}, "FROZEN"),
        ("leave_tenant", {"move_id": first}, "MOVED"),
        ("mark_cleaned", {"move_id": first}, "MOVED"),
        ("expect_tenant", {"from": "b", "version": 3, "move_id": other}, "COPYING"),
        ("note_history", {"history": "h", "move_id": other}, "COPYING"),
        ("admit_tenant", {"from": "b", "version": 4}, "HERE"),
    ):
        [state] = [row.state for row in await FUNCTIONS[name].fetch(owner, tenant="new", **arguments)]
        assert state == then
    arrival = await tenants.arrival(owner, "new")
    assert arrival is not None
    assert (arrival.history, arrival.last_event_id) == ("h", 0)
    await FUNCTIONS["expect_tenant"].fetch(owner, tenant="late", **{"from": "b"}, version=1, move_id=first)
    assert await FUNCTIONS["forget_tenant"].fetch(owner, tenant="late", move_id=first) == []
    await FUNCTIONS["lift_sequences"].fetch(owner, event_id=10**6, waitlist_sequence=10**6)
    found = [(one.tenant, one.version) for one in (await tenants.read_states(owner)).tenants]
    assert found == [("default", 1), ("new", 4)]
    mark = await tenants.read_mark(owner)
    await tenants.tell_moved(owner, "new", "b", 5)
    assert [one.state for one in await tenants.read_page(owner, mark, "")] == ["MOVED"]
    [[may]] = await owner.fetch(f"SELECT {SET_NAME}.may_read('default')")
    assert may
    with pytest.raises(Moved):
        await owner.fetch(f"SELECT {SET_NAME}.may_read('new')")
    assert (await tenants.keep_here(owner, "new")).version > 5


async def of_the_background(service: Any) -> None:
    """What loops, commands and the relay call, and what LimitService and webhooks call."""
    await of_limits(service)
    # An allotment that is due and followed, for what returns it.
    await service.create_item("bed", 3, low_at=1, return_pool="box", return_time={"seconds": 1})
    await of_webhooks(service)
    async with service.cell.database.connection() as connection:
        await ledger_limits.totals(connection)
        await ledger_limits.purge_subjects(connection, ledger_limits.FIRST_SUBJECT)
        await upkeep.purge_requests(connection, timedelta(0))
        await upkeep.purge_stock_moves(connection, timedelta(0))
        await removal.remove(connection, timedelta(days=1))
        await waitlist.totals(connection, "default")
        assert await waitlist.purge(connection, timedelta(0)) > 0
        await upkeep.create_event_partitions(connection)
        await retention.drop_day(connection, 1)
        assert await retention.purge_brought(connection, 1) == 0
        await keys.find(connection, "none")
        assert await stock.tenants(connection) == ["default"]
        await stock.totals(connection, "default", 3)
        await stock.holds(connection)
        await stock.oldest_lapsed_hold_age_s(connection)
        await stock.oldest_transactions(connection)
        await feed.identity(connection)
        end = feed.Position((await feed.last(connection)).last_event_id, date.max)
        everything, start = [feed.Filter(None)], feed.Position(0, date(2026, 1, 1))
        found, _ = await feed.read(connection, everything, start, end, limit=100)
        assert await watched.changes(connection, feed.Position(0, found[0].day), [1, 2], 10)
        history = (await feed.identity(connection)).history
        await feed.save_relay_position(connection, "relay", history, feed.Position(1, date(2026, 1, 1)))
        anchor = await feed.last(connection)
        told = nothing_told(feed.Position(0, date(2026, 1, 1)), everything[0], proven=True)
        assert not await holds(connection, told._replace(event_id=anchor.last_event_id), everything[0])
        assert await feed.relay_position(connection, "relay") is not None
        await FUNCTIONS["find_locked_items"].fetch(connection, tenant="default", sku="{seat}", pool='{""}')
        await FUNCTIONS["find_locked_targets"].fetch(
            connection, tenant="default", client="{dev}", target="{NULL}", reference="{cart}"
        )
        # Sweeps skip items that others keep locked.
        await upkeep._RELEASE.one(connection, tenant=None, max_count=10, skip_busy=True)
        assert (await upkeep._RETURN.one(connection, tenant=None, max_count=10, skip_busy=True)).returned_count == 1
    async with await psycopg.AsyncConnection.connect(
        service.owner_dsn, autocommit=True, row_factory=tuple_row
    ) as owner:
        own = Connection(owner)
        day = (await retention.days(own))[-1].day
        assert await retention.events_of(own, day, 0)
        assert await retention.brought_of(own, day, ("", 0)) == []
        assert [page async for page in removal.pages(own, None, None, str(UUID(int=0)))]
        await retention.begin_epoch(own)
        await keys.now(own)
        await tenants.claim_cell(own, "a")
        await of_moves(own)
        await owner.execute("SELECT * FROM holdsvc.release_expired_reservations()")
        await owner.execute(f"SELECT {SET_NAME}.feature_refusal('none')".encode())
