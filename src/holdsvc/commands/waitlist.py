"""`holdsvc waitlist`: who waits for units."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Optional

import typer

from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, Tenant
from holdsvc.entries import EntryState, WaitlistEntry
from holdsvc.ledger import waitlist
from holdsvc.ledger.database import Connection

PAGE = 1000

app = typer.Typer(no_args_is_help=True, help="List who waits for units.")


@app.callback()
def family() -> None:
    """Lists who waits for units."""


@app.command("list")
def list_(
    *,
    sku: Annotated[str, typer.Option(help="With a line of this sku. Default: of any.")] = "",
    pool: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With a line of the sku in this pool; empty: the default pool. Default: any pool."),
    ] = None,
    holder: Annotated[str, typer.Option(help="Of this holder. Default: of every holder.")] = "",
    client: Annotated[str, typer.Option(help="Of this client. Default: of every client.")] = "",
    states: Annotated[
        str, typer.Option(help="In these states, separated by commas: WAITING, OFFERED, TAKEN, LAPSED, LEFT.")
    ] = "WAITING,OFFERED",
    tenant: Tenant = "default",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """List a tenant's waitlist entries in the order of the queue, a JSON object a line."""
    if pool is not None and not sku:
        raise CommandError("--pool needs --sku")
    wanted = waitlist.Filter(client or None, _states(states), sku or None, pool, holder or None)
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        target.run(owner, lambda connection: _write(connection, tenant, wanted))


def _states(text: str) -> list[EntryState]:
    names = [name.strip().upper() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in EntryState.__members__]
    if unknown or not names:
        raise CommandError(
            f"no such state: {', '.join(unknown) or '(none given)'}; there are {', '.join(EntryState.__members__)}"
        )
    return sorted({EntryState[name] for name in names})


async def _write(connection: Connection, tenant: str, wanted: waitlist.Filter) -> None:
    async for entries in target.parts(lambda after: waitlist.list_page(connection, tenant, wanted, None, after, PAGE)):
        output.write_lines(_objects(entries))


def _objects(page: Sequence[WaitlistEntry]) -> Iterator[dict[str, Any]]:
    for entry in page:
        yield asdict(entry) | {
            "state": entry.state.name,
            "pass_reason": entry.pass_reason.name,
            "lines": [line._asdict() for line in entry.lines],
        }
