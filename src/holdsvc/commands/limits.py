"""`holdsvc limits`: how many units a holder or a client may have at once."""

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Any, Optional

import typer

from holdsvc import errors
from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, Tenant, check_rules, read
from holdsvc.durations import format_duration, parse_duration
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import limits
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import Limit, LimitState, LimitTerms, LimitUsage, Per
from inventoryhold.v1 import limit_service_pb2 as pb

PAGE = 1000

BUILD_WAIT_S = 10.0
"""How long `set` waits for older transactions before it leaves the rest to a running service."""

BUILD_PAUSE_S = 0.05

app = typer.Typer(no_args_is_help=True, help="Set, list and delete limits, and tell how much of one is used.")

LimitId = Annotated[str, typer.Argument(metavar="LIMIT", help="The limit's name.", show_default=False)]


@app.command("set")
def set_(
    *,
    limit_id: LimitId,
    most: Annotated[int, typer.Option("--max", help="The most units.")],
    per: Annotated[str, typer.Option(help="Whose units are added up: `holder` or `client`.")] = "holder",
    counts: Annotated[
        str, typer.Option(help="Which units count: `held`, or `held-and-confirmed` (only per holder).")
    ] = "held",
    prefix: Annotated[str, typer.Option(help="Begin of the sku of its items. Default: all items.")] = "",
    pool: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The pool of its items; empty: the default pool. Default: all pools."),
    ] = None,
    window: Annotated[
        str, typer.Option(metavar="DURATION", help="How long confirmed units count, as in 30d; empty: without end.")
    ] = "",
    tenant: Tenant = "default",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Create a limit, or change the maximum and the window of one; print it as a JSON object."""
    terms = _terms(
        limit_id, most, per, counts, prefix, pool, read("--window", parse_duration, window) if window else None
    )
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        found = target.run(owner, lambda connection: _set(connection, tenant, terms))
    output.write_lines([_object(found)])
    if found.state is LimitState.BUILDING:
        typer.echo("older transactions are running: a service goes on building it when they have ended", err=True)


@app.command("list")
def list_(tenant: Tenant = "default", cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List a tenant's limits, a JSON object a line."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        found = target.run(owner, lambda connection: limits.list_page(connection, tenant, "", PAGE))
    output.write_lines(map(_object, found))


@app.command("delete")
def delete(
    limit_id: LimitId, tenant: Tenant = "default", cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None
) -> None:
    """Delete a limit: it refuses nothing from then on."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        unwrap(target.run(owner, lambda connection: limits.delete(connection, tenant, limit_id)))
    typer.echo(f"deleted {limit_id}")


@app.command("usage")
def usage(
    limit_id: LimitId,
    client: Annotated[str, typer.Option(help="The client.")],
    holder: Annotated[str, typer.Option(help="The holder; only where the limit is one per holder.")] = "",
    tenant: Tenant = "default",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Tell how much of a limit a holder or a client uses, as a JSON object."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        used = target.run(owner, lambda connection: _usage(connection, tenant, limit_id, client, holder))
    output.write_lines([used._asdict() | {"used": used.held + used.confirmed}])


def _terms(
    limit_id: str, most: int, per: str, counts: str, prefix: str, pool: str | None, window: timedelta | None
) -> LimitTerms:
    """The limit that the options name; raises CommandError with every rule of the contract that it breaks."""
    from holdsvc.api.limits import contradictions, terms_of

    try:
        wanted = pb.Limit(
            limit_id=limit_id,
            sku_prefix=prefix,
            pool=pool,
            per=f"PER_{per.upper()}",
            counts=f"COUNTS_{counts.upper()}".replace("-", "_"),
            max_quantity=most,
            window=window,
        )
        check_rules(pb.SetLimitRequest(limit=wanted), *contradictions(wanted))
    except ValueError as error:
        raise CommandError(str(error)) from None
    return terms_of(wanted)


async def _set(connection: Connection, tenant: str, terms: LimitTerms) -> Limit:
    found = unwrap(await limits.set_limit(connection, tenant, terms)).value
    end = time.monotonic() + BUILD_WAIT_S
    while found.state is LimitState.BUILDING and time.monotonic() < end:
        built = await limits.build(connection, tenant, terms.limit_id)
        if built.waiting:
            await asyncio.sleep(BUILD_PAUSE_S)
        elif not built.busy:
            break
    return await limits.get(connection, tenant, terms.limit_id) or found


async def _usage(connection: Connection, tenant: str, limit_id: str, client: str, holder: str) -> LimitUsage:
    found = await limits.get(connection, tenant, limit_id)
    if found is not None and found.terms.per is Per.HOLDER and not holder:
        raise CommandError(f"--holder: the limit {limit_id!r} counts the units of a holder")
    used = await limits.usage(connection, tenant, limit_id, client, holder)
    if used is None:
        raise HoldError(errors.limit_not_found(limit_id))
    return used


def _object(limit: Limit) -> dict[str, Any]:
    terms = limit.terms._asdict()
    window = limit.terms.window
    named = {"per": limit.terms.per.name, "counts": limit.terms.counts.name, "state": limit.state.name}
    times = {"create_time": limit.create_time, "update_time": limit.update_time}
    return terms | named | times | {"window": None if window is None else format_duration(window)}
