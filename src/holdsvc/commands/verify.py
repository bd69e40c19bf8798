"""`holdsvc verify`: recount every item's counters from its reservations."""

import json
from collections.abc import Iterator
from time import monotonic
from typing import Annotated, Any

import typer

from holdsvc.commands import output, target
from holdsvc.commands.options import CellName, DataDir, Dsn
from holdsvc.commands.output import Progress
from holdsvc.ledger import stock, upkeep
from holdsvc.ledger.database import Connection


def verify(
    tenant: Annotated[str, typer.Option(help="Only this tenant. Default: all of them.")] = "",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Recount every item's counters from its reservations; exit code 1 when any differs."""
    reports: list[dict[str, Any]] = []
    with output.progress() as progress:
        if tenant:
            with target.opened(dsn, data_dir, cell, tenant) as owner:
                reports += recount(owner, tenant, progress)
        else:
            target.over_cells(dsn, data_dir, cell, lambda owner, _: reports.extend(recount(owner, "", progress)))
    for report in reports:
        typer.echo(json.dumps(report))
    drifts = sum(len(report["drifts"]) for report in reports)
    items, reservations = (sum(report[name] for report in reports) for name in ("item_count", "reservation_count"))
    counted = f"{items} items of {len(reports)} tenants against {reservations} reservations"
    if drifts:
        typer.echo(f"the ledger has drifted: {drifts} counters differ; recounted {counted}", err=True)
        raise typer.Exit(1)
    typer.echo(f"ok: recounted {counted}")


def recount(dsn: str, tenant: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """Recounts a tenant, or all of them; one report each. Progress is in items."""
    for name in [tenant] if tenant else target.run(dsn, stock.tenants):
        yield target.run(dsn, lambda connection, name=name: _recount(connection, name, progress))  # type: ignore[misc]


async def _recount(connection: Connection, tenant: str, progress: Progress) -> dict[str, Any]:
    began = monotonic()
    total = (await stock.totals(connection, tenant, 0))[0].items
    report: dict[str, Any] = {"tenant": tenant, "item_count": 0, "reservation_count": 0, "drifts": []}
    after: str | None = ""
    while after is not None:
        progress(f"verify {tenant}", report["item_count"], total)
        step = await upkeep.verify_step(connection, tenant, after)
        report["item_count"] += step.item_count
        report["reservation_count"] += step.reservation_count
        report["drifts"] += [drift._asdict() for drift in step.drifts]
        after = step.last_sku
    progress(f"verify {tenant}", report["item_count"], report["item_count"])
    report["seconds"] = round(monotonic() - began, 3)
    return report
