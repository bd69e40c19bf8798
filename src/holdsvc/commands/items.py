"""`holdsvc items`: import items or counts of them from a CSV file, list them, stop and open their sale."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from holdsvc.commands import output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, Tenant, read
from holdsvc.errors import HoldError
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection
from holdsvc.model import Done, Item, ItemKey, Refused, SaleState

PAGE = 1000

app = typer.Typer(no_args_is_help=True, help="Import and list items, set their stock, stop and open their sale.")


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV in UTF-8, separated by commas; the first line names the columns: sku, capacity and, where wanted,"
            " pool, display_name, oversell_limit, sale_state (OPEN or CLOSED), buffer, low_at, return_pool,"
            " return_time."
        ),
    ],
    tenant: Tenant = "default",
    errors_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--errors", metavar="FILE", help="Where refused rows go. Default: FILE.errors.csv."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge every row and create nothing.")] = False,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Create the items of a CSV file; rows of which none can be made go to a file with the reason."""
    from holdsvc.commands.item_import import import_items

    refused = errors_file or file.with_name(f"{file.name}.errors.csv")
    with target.opened(dsn, data_dir, cell, tenant) as owner, output.progress() as progress:
        counts = import_items(owner, tenant, file, refused, progress, dry_run=dry_run)
    would_be = "would be " if dry_run else ""
    typer.echo(f"{counts.read} rows read: {counts.created} items {would_be}created, {counts.refused} rows refused")
    if counts.refused:
        typer.echo(f"the refused rows are in {refused}, each with its line and why: correct and import it", err=True)
        raise typer.Exit(1)


@app.command("set-stock")
def set_stock(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV in UTF-8, separated by commas; the first line names the columns: sku, on_hand (units that were"
            " there, held and sold ones included) and, where wanted, pool, count_time (as in 2026-01-31T18:00:00Z)."
        ),
    ],
    tenant: Tenant = "default",
    count_time: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TIME", help="When rows without a count_time were counted. Default: when FILE was last written."
        ),
    ] = None,
    errors_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--errors", metavar="FILE", help="Where refused rows go. Default: FILE.errors.csv."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge every row and change nothing.")] = False,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Set capacities from a CSV file of counts, corrected for what came and left since; safe to repeat."""
    from holdsvc.commands.csv_file import parse_time
    from holdsvc.commands.set_stock import set_stock

    time = None if count_time is None else read("--count-time", parse_time, count_time)
    max_age = target.settings_of(dsn, data_dir).count_max_age
    refused = errors_file or file.with_name(f"{file.name}.errors.csv")
    with target.opened(dsn, data_dir, cell, tenant) as owner, output.progress() as progress:
        counts = set_stock(owner, tenant, file, refused, progress, max_age=max_age, count_time=time, dry_run=dry_run)
    would_be = "would be " if dry_run else ""
    typer.echo(
        f"{counts.read} rows read: {counts.set} counts {would_be}set, {counts.superseded} superseded,"
        f" {counts.refused} rows refused"
    )
    if counts.refused:
        typer.echo(f"the refused rows are in {refused}, each with its line and why: correct and take it", err=True)
        raise typer.Exit(1)


@app.command("list")
def list_(
    tenant: Tenant = "default",
    prefix: Annotated[str, typer.Option(help="Begin of the sku. Default: all items.")] = "",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """List a tenant's items in order of sku and pool, a JSON object a line."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        target.run(owner, lambda connection: _write(connection, tenant, prefix))


Sku = Annotated[str, typer.Argument(help="The item's sku.")]
Pool = Annotated[str, typer.Option(help="The item's pool. Default: the default pool.")]


@app.command("close")
def close(
    sku: Sku,
    pool: Pool = "",
    tenant: Tenant = "default",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Stop the sale of an item: it takes no new holds; those that there are can still be confirmed."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        _set_sale_state(owner, tenant, ItemKey(sku, pool), SaleState.CLOSED)


@app.command("open")
def open_(
    sku: Sku,
    pool: Pool = "",
    tenant: Tenant = "default",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Open the sale of an item again."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        _set_sale_state(owner, tenant, ItemKey(sku, pool), SaleState.OPEN)


def _set_sale_state(dsn: str, tenant: str, key: ItemKey, state: SaleState) -> None:
    from holdsvc.api import convert
    from inventoryhold.v1 import item_pb2

    new = replace(convert.wanted_item(item_pb2.Item(sku=key.sku, pool=key.pool)), sale_state=state)
    caller = target.operator(tenant)
    done = target.run(dsn, lambda connection: items.update(connection, caller, new, ["sale_state"], 0))
    if isinstance(done, Refused):
        raise HoldError(done)
    assert isinstance(done, Done), done
    output.write_lines(_objects([done.value]))


async def _write(connection: Connection, tenant: str, prefix: str) -> None:
    async for found in target.parts(lambda after: items.list_page(connection, tenant, prefix, None, after, PAGE)):
        output.write_lines(_objects(found))


def _objects(page: Sequence[Item]) -> Iterator[dict[str, Any]]:
    names = Item.__slots__
    for item in page:
        yield {name: getattr(item, name) for name in names} | {"sale_state": item.sale_state.name}
