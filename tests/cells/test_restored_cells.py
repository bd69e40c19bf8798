"""A cell that was put back to a time before a move: what any other cell or process knows of the tenant counts."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from holdsvc.api.cells import Cells
from holdsvc.api.known_tenants import Home, KnownTenants
from holdsvc.cell_file import CellAddress
from holdsvc.commands import target
from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import tenants
from holdsvc.settings import SettingsError
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.cells.conftest import StartCells
from tests.cells.test_routing import create, reserve
from tests.support.cells import TwoCells
from tests.support.databases import created, database_of
from tests.support.harness import Harness, outcome, refused
from tests.support.partners import Partner
from tests.support.polling import until

NOWHERE = CellAddress("south", SecretStr("host=127.0.0.1 port=1 dbname=none connect_timeout=1"))


@pytest.fixture(autouse=True)
def _start_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for the cells that answer: of one that comes later nothing is known at the start.
    monkeypatch.setattr("holdsvc.process.worker.AWAIT_ALL_S", 2.0)


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """The data of a server of the test's own, which is put back."""
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(folder: Path, servers: ExitStack) -> tuple[EmbeddedServer, str]:
    server = EmbeddedServer(folder, settings={"fsync": "off", "full_page_writes": "off"})
    servers.callback(server.stop)
    return server, server.start()


async def move(cells: TwoCells, tenant: str, service: Harness, caller: Partner) -> None:
    """Moves a tenant to the south, where it is heard of."""
    await asyncio.to_thread(cells.freeze, tenant)
    await asyncio.to_thread(cells.finish_move, tenant)
    await caller.reservations.Reserve(reserve("seat"))
    await service.service.places.step()


def states(cells: TwoCells, cell: CellAddress) -> list[tuple[str, str | None, int, bool]]:
    return cells.sql(cell, "SELECT state, other_cell, version, cleaned FROM tenant_state")


async def test_a_cell_put_back_to_a_time_before_a_move_sells_nothing_of_it_while_the_other_is_away(
    cells: TwoCells, folder: Path, servers: ExitStack, start_cells: StartCells, server_dsn: str, tmp_path: Path
) -> None:
    # South and east are cells of the tests' server; north is put back.
    server, dsn = start(folder, servers)
    north = CellAddress("north", SecretStr(dsn))
    with created(server_dsn, database_of(cells.south.owner)) as third:
        east = CellAddress("east", SecretStr(third))
        cells.sql(east, "UPDATE cell SET name = 'east'")
        pair = await asyncio.to_thread(TwoCells.joined, dsn, cells.south.owner)
        tenant, secret = await asyncio.to_thread(pair.new_tenant, north)
        server.stop()
        shutil.copytree(folder, tmp_path / "backup")
        server.start()
        service = await start_cells([*pair, east])
        caller = Partner(service.channel, secret)
        await create(caller, "seat", 10)
        await move(pair, tenant, service, caller)
        assert states(pair, east) == [("MOVED", "south", 2, True)], "it had no part in the move, and was told"
        await service.stop()
        server.stop()
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "backup", folder)
        server.start()
        assert states(pair, north) == [("HERE", None, 1, False)]

        fresh = await start_cells([north, NOWHERE, east])
        refusal = await refused(Partner(fresh.channel, secret).reservations.Reserve(reserve("seat")))
        assert refusal.reason == "DATABASE_UNAVAILABLE"
        assert states(pair, north) == [("MOVED", "south", 2, False)], "it refuses by itself from now on"
        await fresh.stop()
        # Also to a process that asks no other cell.
        alone = await start_cells([north, NOWHERE])
        refusal = await refused(Partner(alone.channel, secret).reservations.Reserve(reserve("seat")))
        assert refusal.reason == "DATABASE_UNAVAILABLE"

        # The south is lost: an operator decides.
        kept = await asyncio.to_thread(target.run, dsn, lambda connection: tenants.keep_here(connection, tenant))
        assert kept.version > 10**15
        await alone.service.places.step()
        caller = Partner(alone.channel, secret)
        item = inventory.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=3))

        async def is_served() -> bool:
            return bool(await outcome(caller.inventory.CreateItem(item)) != "DATABASE_UNAVAILABLE")

        await until(is_served, timeout_s=10, pause_s=0.05)
        await caller.reservations.Reserve(reserve("seat"))
        await alone.service.places.step()
        await alone.stop()
        # And if it comes back after all, it hears of it.
        again = await start_cells([north, cells.south, east])
        for cell in (cells.south, east):
            [(state, other, version, _)] = states(pair, cell)
            assert (state, other, version) == ("MOVED", "north", kept.version)
        await Partner(again.channel, secret).reservations.Reserve(reserve("seat"))


async def test_what_a_machine_remembers_counts_where_no_cell_knows_better(
    cells: TwoCells, start_cells: StartCells, tmp_path: Path
) -> None:
    service = await start_cells(state_dir=str(tmp_path))
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 10)
    await move(cells, tenant, service, caller)
    await service.stop()
    # As a backup has it.
    cells.sql(cells.north, "UPDATE tenant_state SET state = 'HERE', other_cell = NULL, version = 1")
    fresh = await start_cells([cells.north, NOWHERE], state_dir=str(tmp_path))
    refusal = await refused(Partner(fresh.channel, secret).reservations.Reserve(reserve("seat")))
    assert refusal.reason == "DATABASE_UNAVAILABLE"
    assert states(cells, cells.north) == [("MOVED", "south", 2, False)]
    await fresh.stop()
    back = await start_cells(state_dir=str(tmp_path))
    await Partner(back.channel, secret).reservations.Reserve(reserve("seat"))
    (tmp_path / "tenants.json").write_text("[]")
    with pytest.raises(SettingsError, match=r"tenants\.json cannot be read"):
        Cells(back.service.cells, tmp_path)


async def test_a_tenant_that_had_come_after_the_backup_is_refused_until_an_operator_brings_it_back(
    cells: TwoCells, start_cells: StartCells
) -> None:
    service = await start_cells()
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller = Partner(service.channel, secret)
    await create(caller, "seat", 10)
    await move(cells, tenant, service, caller)
    await service.stop()
    # As a backup of the south has it.
    for table in ("tenant_state", "reservation_line", "reservation", "item", "request", "api_key"):
        cells.sql(cells.south, f"DELETE FROM {table}")
    fresh = await start_cells()
    caller = Partner(fresh.channel, secret)
    assert await outcome(caller.reservations.Reserve(reserve("seat"))) == "TENANT_MOVED"
    await fresh.stop()
    north = cells.north.owner
    await asyncio.to_thread(target.run, north, lambda connection: tenants.keep_here(connection, tenant))
    again = await start_cells()
    await Partner(again.channel, secret).reservations.Reserve(reserve("seat"))


async def test_two_processes_of_a_machine_remember_what_each_of_them_has_heard(
    start_cells: StartCells, tmp_path: Path
) -> None:
    service = await start_cells()
    both = [KnownTenants(tmp_path) for _ in range(2)]
    for known, tenant in zip(both, ("one", "two"), strict=True):
        known.learn(tenant, Home(2, "south"))
    both[0].share()
    assert [*both[1].share()] == ["one"]
    assert [*both[0].share()] == ["two"]
    assert not both[0].learn("two", Home(1, "north")), "that was before"
    again = Cells(service.service.cells, tmp_path)
    assert again.of("two").name == "south"
    assert both[1].homes == both[0].homes


async def test_a_process_that_has_not_heard_of_a_move_reads_what_the_caller_has_done_since(
    cells: TwoCells, start_cells: StartCells
) -> None:
    first, second = [await start_cells() for _ in range(2)]
    tenant, secret = await asyncio.to_thread(cells.new_tenant, cells.north)
    caller, late = Partner(first.channel, secret), Partner(second.channel, secret)
    await create(caller, "seat", 10)
    for partner in (caller, late):
        await partner.reservations.Reserve(reserve("seat"))
    await asyncio.to_thread(cells.freeze, tenant)
    assert await outcome(late.inventory.GetItem(inventory.GetItemRequest(sku="seat"))) != "TENANT_MOVED"
    await asyncio.to_thread(cells.finish_move, tenant)
    made = (await caller.reservations.Reserve(reserve("seat", 3))).reservation
    found = (
        await late.reservations.GetReservation(pb.GetReservationRequest(reservation_id=made.reservation_id))
    ).reservation
    assert found.reservation_id == made.reservation_id
    assert (await late.inventory.GetItem(inventory.GetItemRequest(sku="seat"))).item.held == 5
