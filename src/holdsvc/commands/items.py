"""`holdsvc items`: import items from a CSV file, and list them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from holdsvc.commands import item_import, progress, target
from holdsvc.commands.options import DataDir, Dsn, Tenant
from holdsvc.ledger import items
from holdsvc.model import ItemKey

app = typer.Typer(no_args_is_help=True, help="Import and list items.")


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="CSV with the columns sku, capacity and, optionally, pool, display_name, oversell_limit."),
    ],
    tenant: Tenant = "default",
    errors_file: Annotated[
        Path | None, typer.Option("--errors", help="Where bad rows go; default: FILE.errors.csv.")
    ] = None,
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Create the items of a CSV file; rows that cannot be go to a file with the reason."""
    refused = errors_file or file.with_name(f"{file.name}.errors.csv")
    with target.opened(dsn, data_dir) as owner, progress.shown() as shown_progress:
        created, bad = item_import.import_items(owner, tenant, file, refused, shown_progress)
    typer.echo(f"{created} items created, {bad} rows refused")
    if bad:
        typer.echo(f"the refused rows are in {refused}, each with its line and why: mend it and import it", err=True)
        raise typer.Exit(1)


@app.command("list")
def list_(
    tenant: Tenant = "default",
    prefix: Annotated[str, typer.Option(help="Begin of the sku.")] = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """List a tenant's items, a JSON object a line."""
    with target.opened(dsn, data_dir) as owner:
        for item in list_items(owner, tenant, prefix):
            typer.echo(json.dumps(item))


def list_items(dsn: str, tenant: str, prefix: str) -> Iterator[dict[str, Any]]:
    """A tenant's items in order of sku and pool."""
    after = ItemKey("", "")
    while True:
        page = target.run(
            dsn,
            lambda connection, after=after: items.list_page(connection, tenant, prefix, None, after, 1000),  # type: ignore[misc]
        )
        for item in page:
            yield {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in asdict(item).items()
            }
        if len(page) < 1000:
            return
        after = ItemKey(page[-1].sku, page[-1].pool)
