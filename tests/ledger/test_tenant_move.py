"""A move of a tenant: whatever is killed, one cell sells, no acknowledged hold is missing, and all rows come along."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from holdsvc.ledger import events, holds, items, keys, removal, retention, tenant_copy, tenant_move, tenants, upkeep
from holdsvc.ledger import limits as ledger_limits
from holdsvc.ledger.tenant_move import Cell
from holdsvc.ledger.tenant_tables import STAYS, TABLES
from holdsvc.ledger.tenants import CellError
from holdsvc.model import Caller, Done, ItemKey
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import webhook_service_pb2 as hooks
from tests.support.databases import created
from tests.support.harness import StartService
from tests.support.holds import CALLER, reserves, stock
from tests.support.limits import set_limit
from tests.support.moves import Callers, killed_after, silent, two_cells

STEPS = ["expect_tenant", "freeze_tenant", "lift_sequences", "leave_tenant", "admit_tenant"]
BEFORE_THE_DECISION = ["expect_tenant", "freeze_tenant", "lift_sequences"]


@pytest.fixture
def other_dsn(server_dsn: str, _template: str) -> Iterator[str]:
    """A second migrated database."""
    with created(server_dsn, _template) as dsn:
        yield dsn


@pytest.fixture
async def cells(ledger_dsn: str, other_dsn: str) -> AsyncIterator[tuple[Cell, Cell]]:
    """Two cells; the first has a tenant with an item."""
    async with tenant_move.opened("", ledger_dsn) as only:
        await items.create(only.session, CALLER, stock(["seat"]))
    async with two_cells(ledger_dsn, other_dsn) as both:
        yield both


def test_every_table_with_a_tenant_is_moved_or_said_to_stay(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        found = {
            name
            for (name,) in owner.execute(
                "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'"
                " WHERE c.relnamespace = 'holdsvc'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            )
        }
        columns = owner.execute(
            "SELECT attname, atttypid FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
            " AND attrelid = 'holdsvc.event'::regclass"
            " EXCEPT SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'holdsvc.event_history'::regclass"
        ).fetchall()
    assert {table.name for table in TABLES} | STAYS.keys() == found
    assert columns == []


async def held_in(cell: Cell) -> set[str]:
    rows = await cell.session.fetch("SELECT reservation_id::text FROM holdsvc.reservation WHERE state = 1")
    return {id_ for (id_,) in rows}


async def ids_in(cell: Cell) -> set[str]:
    rows = await cell.session.fetch("SELECT reservation_id::text FROM holdsvc.reservation")
    return {id_ for (id_,) in rows}


async def states(cell: Cell) -> list[tuple[str, str | None, int]]:
    return [(one.state, one.other_cell, one.version) for one in (await tenants.read_states(cell.session)).tenants]


async def is_sound(cell: Cell, callers: Callers) -> None:
    """The one cell that has the tenant has every acknowledged hold, and its counters are right."""
    acknowledged = {id_ for ids in callers.held.values() for id_ in ids}
    assert acknowledged <= await held_in(cell)
    recount = await upkeep.verify_step(cell.session, "default", "")
    assert recount.drifts == []


async def test_whatever_step_a_move_is_killed_at_another_goes_on_and_no_acknowledged_hold_is_missing(
    cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = cells
    callers = Callers(a.side.dsn, b.side.dsn)
    running = asyncio.create_task(callers.run())
    # There and back again, with a kill at each step.
    for number, step in enumerate(STEPS):
        source, sink = (a, b) if number % 2 == 0 else (b, a)
        await callers.progress()
        with killed_after(step, monkeypatch):
            await tenant_move.move(source, sink, "default", silent)
        await callers.progress()
        moving = await tenant_move.move(source, sink, "default", silent)
        assert moving.version == number + 2
        assert await states(source) == [("MOVED", sink.name, number + 2)]
        assert await states(sink) == [("HERE", None, number + 2)]
        await callers.progress()
        await is_sound(sink, callers)
        await tenant_move.clean(source, sink, "default", silent)
        assert await held_in(source) == set()
    callers.end()
    await running
    await is_sound(b, callers)
    assert all(callers.held.values())
    assert callers.refused > 0


async def test_a_move_that_was_killed_before_the_decision_can_be_given_up(
    cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = cells
    callers = Callers(a.side.dsn, b.side.dsn)
    running = asyncio.create_task(callers.run())
    for step in BEFORE_THE_DECISION:
        await callers.progress()
        with killed_after(step, monkeypatch):
            await tenant_move.move(a, b, "default", silent)
        # An abort that is killed goes on, too.
        with killed_after("forget_tenant", monkeypatch):
            await tenant_move.abort(a, b, "default", silent)
        assert await states(b) == []
        await tenant_move.abort(a, b, "default", silent)
        assert await states(a) == [("HERE", None, 1)]
        assert await held_in(b) == set()
    with killed_after("leave_tenant", monkeypatch):
        await tenant_move.move(a, b, "default", silent)
    with pytest.raises(CellError, match="can only go on"):
        await tenant_move.abort(a, b, "default", silent)
    callers.end()
    await running
    await tenant_move.move(a, b, "default", silent)
    await is_sound(b, callers)
    assert callers.held[b.side.dsn] == []


async def test_a_mover_that_dies_by_sigkill_in_the_middle_of_the_copy_leaves_what_another_one_replaces(
    cells: tuple[Cell, Cell],
) -> None:
    a, b = cells
    await holds.reserve(a.session, "default", reserves(["seat"] * 300))
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.support.moves", a.side.dsn, b.side.dsn], check=False, timeout=60
    )
    assert ended.returncode == -9
    assert await states(a) == [("FROZEN", "b", 1)]
    assert len(await held_in(b)) == 300
    moving = await tenant_move.move(a, b, "default", silent)
    assert moving.row_count == 300 * 4 + 2
    assert await held_in(a) == await held_in(b)


class Gate:
    """Stops the next mover between its freeze and its copy, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._copy = tenant_copy.copy_rest
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(tenant_copy, "copy_rest", self._stop)

    async def _stop(self, *arguments: Any) -> None:
        self._monkeypatch.setattr(tenant_copy, "copy_rest", self._copy)
        self.reached.set()
        await self.opened.wait()
        await self._copy(*arguments)


async def test_a_mover_that_was_taken_over_decides_and_writes_nothing_any_more(
    cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = cells
    for other in (tenant_move.abort, tenant_move.move):
        gate = Gate(monkeypatch)
        first = asyncio.create_task(tenant_move.move(a, b, "default", silent))
        await gate.reached.wait()
        await other(a, b, "default", silent)
        gate.opened.set()
        with pytest.raises(CellError, match="another process"):
            await first
    assert await states(b) == [("HERE", None, 2)]
    assert await states(a) == [("MOVED", "b", 2)]


async def test_what_stands_in_the_way_of_a_move_is_said(cells: tuple[Cell, Cell]) -> None:
    a, b = cells
    for source, sink, words in (
        (b, a, "'default' cannot leave b: there it is not known"),
        (a, a, "a is the cell where the tenant is"),
        (a, Cell(b.side._replace(name="c"), b.session), "the database of c is the cell 'b'"),
    ):
        with pytest.raises(CellError, match=words):
            await tenant_move.move(source, sink, "default", silent)
    with pytest.raises(CellError, match="nothing can be removed"):
        await tenant_move.clean(a, b, "default", silent)
    await tenants.place(b.session, "default")
    with pytest.raises(CellError, match="HERE in b: it cannot come there"):
        await tenant_move.move(a, b, "default", silent)
    await b.session.fetch("DELETE FROM holdsvc.tenant_state RETURNING 1")
    await tenant_move.move(a, b, "default", silent)
    with pytest.raises(CellError, match="run `holdsvc tenants clean`"):
        await tenant_move.move(b, a, "default", silent)


async def everything(service: Any) -> None:
    """Makes a row of a tenant in every table."""
    await service.create_item("seat", 20, low_at=18)
    await service.create_item("bed", 5, return_pool="box", return_time={"seconds": 1})
    await service.create_item("bunk", 1, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_STRICT)
    await set_limit(service, "each", 50)
    await set_limit(service, "all", 50, per="PER_CLIENT")
    stub = service.reservations
    first = await service.reserve({"seat": 2}, holder="ann", reference="cart", request_id="once")
    await stub.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id))
    await stub.Fulfil(pb.FulfilRequest(reservation_id=first.reservation_id, lines=[{"sku": "seat", "quantity": 1}]))
    await stub.Refund(pb.RefundRequest(reservation_id=first.reservation_id, lines=[{"sku": "seat", "quantity": 1}]))
    await service.reserve({"seat": 1}, holder="ben")
    grown = pb.ModifyRequest(reference="", update_mask={"paths": ["lines"]}, lines=[{"sku": "seat", "quantity": 3}])
    held = await service.reserve({"seat": 1}, holder="cid")
    grown.reservation_id = held.reservation_id
    await stub.Modify(grown)
    ended = await service.reserve({"seat": 1}, holder="dot")
    await stub.Cancel(pb.CancelRequest(reservation_id=ended.reservation_id))
    await service.reserve({"bunk": 1}, holder="eva")
    await service.join({"bunk": 1}, "fay")
    await service.join({"bunk": 1}, "gus")
    await service.inventory.BatchSetStock(inventory.BatchSetStockRequest(counts=[{"sku": "seat", "on_hand": 30}]))
    await service.webhooks.CreateWebhook(hooks.CreateWebhookRequest(url="http://127.0.0.1:1/", sku_prefix="none"))
    service.sql("INSERT INTO holdsvc.quarantine VALUES ('default', %s, 'made', now())", (held.reservation_id,))
    await service.admin.CreateApiKey(admin.CreateApiKeyRequest(client="shop", scopes=["reserve"]))


async def table_rows(cell: Cell, *, arrived: bool) -> dict[str, list[str]]:
    """The tenant's rows of every table, limits by their ids."""
    found: dict[str, list[str]] = {}
    for table in TABLES:
        if arrived and table.into:
            continue
        rows = await cell.session.fetch(
            f"""
            SELECT (to_jsonb(t) - 'limit_number' - 'build_mark' - 'lease_id' || jsonb_build_object('limit', (
              SELECT h.limit_id FROM holdsvc.hold_limit h
              WHERE h.limit_number::text = to_jsonb(t) ->> 'limit_number' AND h.tenant = t.tenant)))::text
            FROM holdsvc.{table.name} t WHERE t.tenant = 'default'
            """
        )
        found.setdefault(table.target, []).extend(row for (row,) in rows)
    return {name: sorted(rows) for name, rows in found.items()}


async def told(cell: Cell) -> dict[str, Any]:
    """What the ledger's reads tell of the tenant."""
    owner = cell.session
    [page] = [page async for page in removal.pages(owner, "default", None, "00000000-0000-0000-0000-000000000000")]
    trails = []
    for _, reservation in page.reservations:
        trails += await events.list_of_reservation(owner, "default", reservation.reservation_id, reservation, 0, 100)
    days = await retention.days(owner)
    exported = []
    for day in days:
        exported += await retention.events_of(owner, day.day, 0)
        exported += await retention.brought_of(owner, day.day, ("", 0))
    return {
        "reservations": page.reservations,
        "trails": trails,
        "exported": [event for event in exported if event.tenant == "default"],
        "items": await items.get(owner, "default", [ItemKey("seat", ""), ItemKey("bunk", "")]),
        "limits": await ledger_limits.list_page(owner, "default", "", 10),
        "usage": await ledger_limits.usage(owner, "default", "each", "dev", "ann"),
        "keys": await keys.list_page(owner, "default", None, 10),
    }


CHANGES = (
    "UPDATE holdsvc.reservation SET reason = 'changed' WHERE holder = 'ann' RETURNING 1",
    "UPDATE holdsvc.event SET reason = 'changed' WHERE tenant = 'default' AND type = 1 RETURNING 1",
    "DELETE FROM holdsvc.request WHERE reservation_id <> %s RETURNING 1",
)
"""What happens between the copy and the freeze, in the tables that are copied before."""


async def test_a_tenant_with_rows_of_every_kind_is_the_same_after_its_move_and_after_a_second_one(
    start_service: StartService, ledger_dsn: str, other_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(webhook_networks="127.0.0.0/8")
    await everything(service)
    await service.stop()
    # Events and entries of the other cell have higher numbers already, or lower ones.
    async with two_cells(ledger_dsn, other_dsn) as (a, b):
        await tenants.place(b.session, "busy")
        busy = Caller("busy", "dev", "", frozenset())
        await items.create(b.session, busy, stock([f"i{number}" for number in range(3)]))
        [request] = reserves(["seat"])
        await holds.reserve(a.session, "default", [replace(request, holder="hal")])
        before: dict[str, Any] = {}
        stored: dict[str, list[str]] = {}
        freeze = tenant_move._freeze

        async def late(source: Cell, *arguments: Any) -> None:
            if source is a:
                for change in CHANGES:
                    assert await a.session.fetch(change, (request.reservation_id,) if "%s" in change else ())
                before.update(await told(a))
                stored.update(await table_rows(a, arrived=False))
                assert all(stored.values()), [name for name, rows in stored.items() if not rows]
            await freeze(source, *arguments)

        monkeypatch.setattr(tenant_move, "_freeze", late)
        for source, sink in ((a, b), (b, a)):
            await tenant_move.move(source, sink, "default", silent)
            assert await told(sink) == before
            assert await table_rows(sink, arrived=True) == stored
            if source is a:
                with pytest.raises(CellError, match="not told yet of all that 'default' did in a: webhook "):
                    await tenant_move.clean(source, sink, "default", silent)
            await tenant_move.clean(source, sink, "default", silent, untold=source is a)
            assert not any((await table_rows(source, arrived=False)).values())
        # Its limits still count, a request id is still known, and what it does comes after what it did.
        [again] = await holds.reserve(a.session, "default", [replace(request, holder="hal")])
        assert isinstance(again, Done)
        assert again.replayed
        [more] = await holds.reserve(a.session, "default", [replace(reserves(["seat"])[0], holder="hal")])
        assert isinstance(more, Done)
        assert (await ledger_limits.usage(a.session, "default", "each", "dev", "hal")).held == 2  # type: ignore[union-attr]
        [made] = await events.list_of_reservation(a.session, "default", more.value.reservation_id, more.value, 0, 10)
        assert made.event_id > max(event.event.event_id for event in before["exported"])
        # Retention finds the events that it brought.
        service.clock.advance(timedelta(days=40))
        await upkeep.release_expired(a.session, None, 1000)
        while (await removal.remove(a.session, timedelta(days=1))).more:
            pass
        kept = {reservation.reservation_id for _, reservation in before["reservations"]} - await ids_in(a)
        assert kept
        for id_ in kept:
            assert await events.owner_of_removed(a.session, "default", id_) is not None
        assert await retention.purge_brought(a.session, 30) > 0
