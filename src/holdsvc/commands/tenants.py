"""`holdsvc tenants`: where tenants live, and moves of them between cells."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, TypeVar

import typer

from holdsvc.cell_file import CellAddress
from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, TenantName
from holdsvc.ledger import stock, tenant_move, tenants, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.tenant_move import Cell
from holdsvc.ledger.tenants import State, TenantState

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="List, place and move the tenants of cells.")


@app.command("list")
def list_(cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List the tenants of each cell with their states, a JSON object a line."""
    target.over_cells(dsn, data_dir, cell, lambda owner, _name: output.write_lines(target.run(owner, _listed)))


@app.command("place")
def place(
    tenant: TenantName,
    cell: Annotated[str, typer.Option("--cell", metavar="NAME", help="The cell that it is to live in.")],
) -> None:
    """Let a new tenant live in a cell; its first key does so, too."""
    with target.opened_for(None, None, cell, tenant):
        typer.echo(f"{tenant} lives in {cell}")


@app.command("move")
def move(
    tenant: TenantName,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="The cell that it goes to.")],
) -> None:
    """Move a tenant to another cell, or go on with a move that has broken off."""
    addresses = target.cells()
    found = _states(addresses, tenant)
    sink = target.named(addresses, to)
    arriving = found.get(to)
    if arriving is not None and arriving.state == State.COPYING:
        source = target.named(addresses, arriving.other_cell or "")
    else:
        source = _home(addresses, found, tenant)
    with output.progress() as progress:
        moving = _between(source, sink, lambda a, b: tenant_move.move(a, b, tenant, progress))
    typer.echo(
        f"{tenant} lives in {to} (version {moving.version}): {moving.row_count} rows, copied in"
        f" {moving.ahead_s:.1f} s, frozen for {moving.frozen_s:.1f} s."
        f" `holdsvc tenants clean` removes its rows from {source.name}"
    )


@app.command("abort")
def abort(tenant: TenantName) -> None:
    """Give a move up: what was copied is removed, then the tenant goes on where it was."""
    addresses = target.cells()
    found = _states(addresses, tenant)
    pairs: list[tuple[str | None, str | None]]
    pairs = [(each.other_cell, name) for name, each in found.items() if each.state == State.COPYING]
    pairs += [(name, each.other_cell) for name, each in found.items() if each.state == State.FROZEN]
    if not pairs:
        raise CommandError(f"no move of {tenant} is under way")
    source, sink = (target.named(addresses, name or "") for name in pairs[0])
    with output.progress() as progress:
        _between(source, sink, lambda a, b: tenant_move.abort(a, b, tenant, progress))
    typer.echo(f"{tenant} stays in {source.name}")


@app.command("keep")
def keep(
    tenant: TenantName,
    cell: Annotated[str, typer.Option("--cell", metavar="NAME", help="The cell with the rows that count.")],
) -> None:
    """Decide that a tenant lives in a cell, whatever others say: after the loss of the cell that it had moved to."""
    owner = target.owner_of(target.named(target.cells(), cell))
    state = target.run(owner, lambda connection: tenants.keep_here(connection, tenant))
    typer.echo(f"{tenant} lives in {cell} (version {state.version})")


@app.command("clean")
def clean(
    tenant: TenantName,
    *,
    untold: Annotated[
        bool, typer.Option("--untold", help="Also events that relays and webhooks were not told yet.")
    ] = False,
) -> None:
    """Remove the rows of a tenant from the cells that it has left."""
    addresses = target.cells()
    left = {name: each for name, each in _states(addresses, tenant).items() if each.state == State.MOVED}
    if not left:
        raise CommandError(f"{tenant} has left no cell")
    with output.progress() as progress:
        for name, each in left.items():
            source, sink = target.named(addresses, name), target.named(addresses, each.other_cell or "")
            _between(source, sink, lambda a, b: tenant_move.clean(a, b, tenant, progress, untold=untold))
            typer.echo(f"{name} has no rows of {tenant} any more")


async def _listed(connection: Connection) -> list[dict[str, object]]:
    states = await tenants.read_states(connection)
    if states.cell is None:
        return [{"tenant": name, "state": State.HERE} for name in await stock.tenants(connection)]
    return [
        {
            "cell": states.cell,
            "tenant": each.tenant,
            "state": each.state,
            "other_cell": each.other_cell,
            "version": each.version,
            "change_time": each.change_time,
        }
        for each in states.tenants
    ]


def _states(addresses: Sequence[CellAddress], tenant: str) -> dict[str, TenantState]:
    """What each cell says of a tenant, by the cell's name; all must answer."""
    found = {}
    for address in addresses:
        state = target.run(target.owner_of(address), lambda connection: tenants.state_of(connection, tenant))
        if state is not None:
            found[address.name] = state
    return found


def _home(addresses: Sequence[CellAddress], found: dict[str, TenantState], tenant: str) -> CellAddress:
    homes = {each.version: name for name, each in found.items() if each.state in (State.HERE, State.FROZEN)}
    if not homes:
        raise CommandError(f"{tenant} is in no cell: `holdsvc tenants list` shows all")
    return target.named(addresses, homes[max(homes)])


def _between(source: CellAddress, sink: CellAddress, work: Callable[[Cell, Cell], Awaitable[T]]) -> T:
    """Runs work on two cells."""

    async def carried_out() -> T:
        async with AsyncExitStack() as stack:
            cells = []
            for address in (source, sink):
                opened = tenant_move.opened(address.name, address.owner)
                cell = await stack.enter_async_context(opened)
                await stack.enter_async_context(upkeep.function_set_used(cell.session))
                cells.append(cell)
            return await work(*cells)

    with target.failures():
        return asyncio.run(carried_out())
