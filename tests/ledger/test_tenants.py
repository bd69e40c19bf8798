"""Who sells is decided in the cell: a tenant that is not here, or about to leave, is changed by nobody."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from holdsvc.ledger import (
    tenant_move,  # noqa: F401 - it binds what is called
    tenants,
    upkeep,
)
from holdsvc.ledger.binding import FUNCTIONS
from holdsvc.ledger.database import Connection
from holdsvc.ledger.tenants import CellError, Moved, State
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import limit_service_pb2 as limits
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import waitlist_service_pb2 as waitlists
from inventoryhold.v1 import webhook_service_pb2 as hooks
from tests.support.harness import SET_NAME, Harness, StartService, outcome
from tests.support.limits import set_limit
from tests.support.sessions import transaction, until_blocked

LOCK = "SELECT pg_advisory_xact_lock(hashtext('holdsvc tenants'), hashtext('default'))"
FREEZE = (
    "INSERT INTO holdsvc.tenant_state (tenant, state, other_cell, version, change_time)"
    " VALUES ('default', 'FROZEN', 'b', 2, now())"
)

ENTERED = re.compile(
    r"^BEGIN\n(  \w+ := [^;]+;\n)*("
    r"  PERFORM enter_tenant\(_tenant\);\n"
    r"|  IF NOT try_enter_tenant\(_tenant\) THEN\n    RETURN;\n"
    r"|  _away := enter_tenants\(_tenant\);\n  IF _away IS NULL THEN\n    RETURN;\n  END IF;\n"
    r")",
    re.MULTILINE,
)
LEAVES_ALONE = re.compile(r"_away text\[\] := tenants_away\(\);.*\btenant <> ALL \(_away\)", re.DOTALL)

WITHOUT = {
    "claim_webhooks": "what one that has left was not told yet is sent on; it leaves alone what is on its way to here",
    "renew_webhooks": "a sender's own lease, taken by claim_webhooks",
    "point_entrances": "makes the entrance of release_expired, which asks",
    "release_webhook": "a sender's own lease, taken by claim_webhooks",
}


def test_every_function_that_writes_a_tenants_tables_asks_first_whether_the_tenant_is_here(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        bodies: dict[str, str] = dict(
            owner.execute(
                "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = %s::regnamespace", (SET_NAME,)
            ).fetchall()
        )
        tables = [
            name
            for (name,) in owner.execute(
                "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'"
                " WHERE c.relnamespace = 'holdsvc'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            )
            if name != "tenant_state"
        ]
    assert {"item", "reservation", "event", "api_key"} <= {*tables}
    writes = re.compile(rf"\b(INSERT INTO|UPDATE|DELETE FROM)\s+({'|'.join(tables)})\b")
    callers = {name: {one for one, body in bodies.items() if re.search(rf"\b{name}\(", body)} for name in bodies}
    writing = {name for name, body in bodies.items() if writes.search(body)}
    assert {"reserve", "claim_requests", "give_back"} <= writing
    while more := {caller for name in writing for caller in callers[name]} - writing:
        writing |= more
    # What no function but itself calls: from outside.
    entrances = {name for name in writing if not callers[name] - {name}}
    assert len(entrances) > 25
    loose = {name for name in entrances if not ENTERED.search(bodies[name]) and not LEAVES_ALONE.search(bodies[name])}
    assert loose == WITHOUT.keys()


def changes(service: Harness, reservation_id: str) -> dict[str, Any]:
    """A call of every kind of change."""
    line = [{"sku": "seat", "quantity": 1}]
    stub, items = service.reservations, service.inventory
    item = {"sku": "seat", "capacity": 9}
    return {
        "reserve": stub.Reserve(pb.ReserveRequest(lines=line)),
        "confirm": stub.Confirm(pb.ConfirmRequest(reservation_id=reservation_id)),
        "cancel": stub.Cancel(pb.CancelRequest(reservation_id=reservation_id)),
        "extend": stub.Extend(pb.ExtendRequest(reservation_id=reservation_id)),
        "modify": stub.Modify(
            pb.ModifyRequest(reservation_id=reservation_id, holder="h", update_mask={"paths": ["holder"]})
        ),
        "fulfil": stub.Fulfil(pb.FulfilRequest(reservation_id=reservation_id)),
        "refund": stub.Refund(pb.RefundRequest(reservation_id=reservation_id)),
        "cleanup": stub.Cleanup(pb.CleanupRequest()),
        "adjust": items.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", delta=1)),
        "transfer": items.TransferCapacity(inventory.TransferCapacityRequest(sku="seat", to_pool="web", quantity=1)),
        "create": items.CreateItem(inventory.CreateItemRequest(item={"sku": "new", "capacity": 1})),
        "update": items.UpdateItem(inventory.UpdateItemRequest(item=item, update_mask={"paths": ["capacity"]})),
        "delete": items.DeleteItem(inventory.DeleteItemRequest(sku="seat")),
        "join": service.waitlist.JoinWaitlist(waitlists.JoinWaitlistRequest(lines=line, holder="ann")),
        "limit": service.limits.SetLimit(
            limits.SetLimitRequest(limit={"limit_id": "l", "per": "PER_HOLDER", "counts": "COUNTS_HELD"})
        ),
        "delete limit": service.limits.DeleteLimit(limits.DeleteLimitRequest(limit_id="l")),
        "webhook": service.webhooks.CreateWebhook(hooks.CreateWebhookRequest(url="http://127.0.0.1:1/")),
        "key": service.admin.CreateApiKey(admin.CreateApiKeyRequest(client="more", scopes=["reserve"])),
        "revoke": service.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id="none")),
    }


async def test_a_tenant_that_is_not_here_is_changed_by_no_call(start_service: StartService) -> None:
    service = await start_service(webhook_networks="127.0.0.0/8")
    await service.create_item("seat", 9)
    made = await service.reserve({"seat": 1})
    await set_limit(service, "l", 50)
    service.sql(FREEZE)
    before = service.sql("SELECT count(*) FROM holdsvc.event")
    found = {name: await outcome(call) for name, call in changes(service, made.reservation_id).items()}
    assert found == dict.fromkeys(found, "TENANT_MOVED")
    for state in (State.COPYING, State.MOVED):
        service.sql("UPDATE holdsvc.tenant_state SET state = %s", (state,))
        assert await outcome(service.reserve({"seat": 1})) == "TENANT_MOVED"
    many = await asyncio.gather(*(outcome(service.reserve({"seat": 1})) for _ in range(20)))
    assert {*many} == {"TENANT_MOVED"}
    assert service.sql("SELECT count(*) FROM holdsvc.event") == before
    assert (await service.get(made.reservation_id)).reservation_id == made.reservation_id
    service.sql("DELETE FROM holdsvc.tenant_state")
    assert (await service.reserve({"seat": 1}, holder="ann")).reservation_id


async def test_a_change_that_waits_while_its_tenant_is_frozen_sees_the_freeze(service: Harness) -> None:
    await service.create_item("seat", 9)
    with psycopg.connect(service.owner_dsn) as mover:
        mover.execute(LOCK.encode())
        call = asyncio.ensure_future(outcome(service.reserve({"seat": 1})))
        await until_blocked(service.owner_dsn)
        mover.execute(FREEZE.encode())
        mover.commit()
        assert await call == "TENANT_MOVED"
    assert (await service.item("seat")).held == 0


async def test_a_freeze_waits_for_the_changes_that_were_let_in(service: Harness) -> None:
    await service.create_item("seat", 9)

    def freeze() -> None:
        with psycopg.connect(service.owner_dsn) as mover:
            mover.execute(LOCK.encode())
            mover.execute(FREEZE.encode())

    # Its change has been let in, and waits for an item.
    with transaction(service.owner_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
        call = asyncio.ensure_future(service.reserve({"seat": 1}))
        await until_blocked(service.owner_dsn)
        freezing = asyncio.ensure_future(asyncio.to_thread(freeze))
        await until_blocked(service.owner_dsn, 2)
        other.rollback()
        assert (await call).reservation_id
        await freezing
    assert (await service.item("seat")).held == 1


async def test_background_work_leaves_a_tenant_alone_that_is_not_here(service: Harness) -> None:
    await service.create_item("seat", 9)
    await service.reserve({"seat": 2}, ttl=timedelta(seconds=1))
    await service.create_item("bed", 3, return_pool="box", return_time={"seconds": 1})
    service.clock.advance(timedelta(days=3))
    service.sql(FREEZE)
    assert await service.sweep() == (0, 0, 0, False)
    assert await service.return_allotments() == (0, 0, False)
    with transaction(service.owner_dsn) as mover:
        # A tenant is about to leave: none is swept, and nothing waits.
        mover.execute("SELECT pg_advisory_xact_lock(hashtext('holdsvc background'), 0)")
        service.sql("DELETE FROM holdsvc.tenant_state")
        assert await service.sweep() == (0, 0, 0, False)
    assert (await service.sweep()).expired_count == 1
    assert (await service.return_allotments()).returned_count == 1


async def own(dsn: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=tuple_row)


async def test_a_database_becomes_a_cell_with_the_tenants_that_it_has(service: Harness) -> None:
    await service.create_item("seat", 9)
    async with await own(service.owner_dsn) as session:
        owner = Connection(session)
        assert await tenants.read_states(owner) == (None, [])
        with pytest.raises(CellError, match="no cell's name"):
            await tenants.place(owner, "default")
        await tenants.claim_cell(owner, "a")
        await tenants.claim_cell(owner, "a")
        with pytest.raises(CellError, match="the cell 'a' already: it cannot become 'b'"):
            await tenants.claim_cell(owner, "b")
        assert (await service.reserve({"seat": 1})).reservation_id
        with pytest.raises(Moved) as raised:
            await upkeep.release_expired(owner, "other", 1)
        assert (raised.value.state, raised.value.cell, raised.value.version) == (None, None, None)
        assert (await tenants.place(owner, "other")).version == 1
        assert (await upkeep.release_expired(owner, "other", 1)).expired_count == 0
        assert (await tenants.place(owner, "other")).state == State.HERE
        service.sql("UPDATE holdsvc.tenant_state SET state = 'MOVED', other_cell = 'b' WHERE tenant = 'other'")
        with pytest.raises(CellError, match="'other' is MOVED here, with the cell 'b'"):
            await tenants.place(owner, "other")
        found = await tenants.read_states(owner)
        assert found.cell == "a"
        assert [(one.tenant, one.state) for one in found.tenants] == [("default", "HERE"), ("other", "MOVED")]
        with pytest.raises(Moved) as raised:
            await upkeep.release_expired(owner, "other", 1)
        assert (raised.value.state, raised.value.cell, raised.value.version) == ("MOVED", "b", 1)


async def test_a_cell_is_named_when_no_change_is_under_way_that_was_let_in_before(service: Harness) -> None:
    with psycopg.connect(service.owner_dsn, options=f"-c search_path={SET_NAME},holdsvc") as first:
        # A tenant's first change, not committed yet.
        first.execute("SELECT count(*) FROM create_items('late', 'c', '', '{seat}', '{\"\"}', '{\"\"}', '{9}', '{0}')")
        async with await own(service.owner_dsn) as session:
            naming = asyncio.ensure_future(tenants.claim_cell(Connection(session), "a"))
            await until_blocked(service.owner_dsn)
            first.commit()
            await naming
            assert [one.tenant for one in (await tenants.read_states(Connection(session))).tenants] == ["late"]


async def read_since(owner: Connection, since: tenants.Mark) -> list[tuple[str, str]]:
    return [(one.tenant, one.state) for one in await tenants.read_page(owner, since, "")]


async def test_every_step_of_a_tenant_is_read_by_those_who_read_what_has_changed(service: Harness) -> None:
    first, other = UUID(int=1), UUID(int=2)
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("place_tenant", {}, "HERE"),
        ("freeze_tenant", {"to": "b", "move_id": first}, "FROZEN"),
        ("keep_tenant", {"move_id": first}, "HERE"),
        ("freeze_tenant", {"to": "b", "move_id": first}, "FROZEN"),
        ("leave_tenant", {"move_id": first}, "MOVED"),
        ("tell_moved", {"cell": "c", "version": 3}, "MOVED"),
        ("keep_here", {}, "HERE"),
        ("tell_moved", {"cell": "c", "version": 10**17}, "MOVED"),
    ]
    async with await own(service.owner_dsn) as session:
        owner = Connection(session)
        await tenants.claim_cell(owner, "a")
        await tenants.place(owner, "still")
        for name, arguments, state in steps:
            since = await tenants.read_mark(owner)
            await FUNCTIONS[name].fetch(owner, tenant="new", **arguments)
            assert await read_since(owner, since) == [("new", state)], name
        since = await tenants.read_mark(owner)
        await FUNCTIONS["tell_moved"].fetch(owner, tenant="new", cell="d", version=4)
        await FUNCTIONS["tell_moved"].fetch(owner, tenant="new", cell="a", version=10**18)
        assert await read_since(owner, since) == []
        # It comes from another cell, of which it was told before.
        await FUNCTIONS["tell_moved"].fetch(owner, tenant="late", cell="b", version=2)
        for name, arguments, state in [
            ("expect_tenant", {"from": "b", "version": 2, "move_id": other}, "COPYING"),
            ("tell_moved", {"cell": "b", "version": 5}, ""),
            ("admit_tenant", {"from": "b", "version": 3}, "HERE"),
        ]:
            since = await tenants.read_mark(owner)
            await FUNCTIONS[name].fetch(owner, tenant="late", **arguments)
            assert await read_since(owner, since) == ([("late", state)] if state else []), name
        # A transaction that began before the mark is read once it has ended.
        async with await own(service.owner_dsn) as open_session, open_session.transaction():
            await tenants.place(Connection(open_session), "slow")
            since = await tenants.read_mark(owner)
            assert await read_since(owner, since) == []
        assert await read_since(owner, since) == [("slow", "HERE")]
        # Rows that come from another database may have been written later than now.
        service.sql("UPDATE holdsvc.tenant_state SET change_xid = '999999999999' WHERE tenant = 'slow'")
        assert await read_since(owner, since) == []
