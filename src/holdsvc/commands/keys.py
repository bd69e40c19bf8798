"""`holdsvc keys`: create, list and revoke API keys."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.api_keys import ApiKey
from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, Tenant, check_rules, read
from holdsvc.durations import parse_duration
from holdsvc.errors import unwrap
from holdsvc.ledger import keys
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer
from inventoryhold.v1 import admin_service_pb2

PAGE = 1000

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")


@app.command("create")
def create(
    *,
    client: Annotated[str, typer.Option(help="The client that calls with it.")],
    tenant: Tenant = "default",
    scopes: Annotated[
        str, typer.Option(help="What it may do, separated by commas; `all` for every scope.")
    ] = "reserve,confirm,inventory.read",
    pools: Annotated[
        str,
        typer.Option(
            help="The pools that it may see and take from, separated by commas; an empty one among them is the default"
            " pool, as in `,web`. Empty: all."
        ),
    ] = "",
    expires_in: Annotated[str, typer.Option(help="When it ends, from now, as in 90d; empty: never.")] = "",
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Create an API key and print it: it is shown this once."""
    lifetime = read("--expires-in", parse_duration, expires_in) if expires_in else None
    with target.opened_for(dsn, data_dir, cell, tenant) as owner:
        typer.echo(create_key(owner, tenant, client, scopes, pools, lifetime))


@app.command("list")
def list_(tenant: Tenant = "default", cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List a tenant's API keys, newest first, a JSON object a line."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        output.write_lines(list_keys(owner, tenant))


@app.command("revoke")
def revoke(
    key_id: str, tenant: Tenant = "default", cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None
) -> None:
    """Revoke an API key, by its id or the whole of it."""
    with target.opened(dsn, data_dir, cell, tenant) as owner:
        typer.echo(f"revoked {revoke_key(owner, tenant, key_id)}")


def create_key(dsn: str, tenant: str, client: str, scopes: str, pools: str, lifetime: timedelta | None) -> str:
    """Creates a key and returns its secret; scopes and pools are separated by commas, an empty pool is the default."""
    wanted = list(ALL_SCOPES) if scopes == "all" else [scope for scope in _split(scopes) if scope]
    unknown = [scope for scope in wanted if scope not in ALL_SCOPES]
    if unknown or not wanted:
        raise CommandError(f"no such scope: {', '.join(unknown) or '(none given)'}; there are {', '.join(ALL_SCOPES)}")
    seen = _split(pools) if pools else []
    try:
        check_rules(admin_service_pb2.CreateApiKeyRequest(client=client, scopes=wanted, pools=seen))
    except ValueError as error:
        raise CommandError(str(error)) from None
    from holdsvc.api.auth.keyring import make_key

    new = make_key(tenant)

    async def create(connection: Connection) -> Answer[ApiKey]:
        return await keys.create(
            connection,
            tenant=tenant,
            key_id=new.key_id,
            client=client,
            secret_hash=new.secret_hash,
            scopes=wanted,
            pools=seen,
            expire_time=None if lifetime is None else await keys.now(connection) + lifetime,
            creator_id=None,
        )

    try:
        created = target.run(dsn, create)
    except OverflowError:
        raise CommandError("a key cannot live that long: it ends before the year 10000, or never") from None
    unwrap(created)
    return new.secret


def _split(text: str) -> list[str]:
    """The parts between commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def list_keys(dsn: str, tenant: str) -> list[dict[str, Any]]:
    """A tenant's keys, newest first, without their hashes."""

    async def read_all(connection: Connection) -> list[ApiKey]:
        found = page = await keys.list_page(connection, tenant, None, PAGE)
        while len(page) == PAGE:
            page = await keys.list_page(connection, tenant, (page[-1].create_time, page[-1].key_id), PAGE)
            found = found + page
        return found

    return [
        {name: value for name, value in asdict(key).items() if name != "secret_hash"}
        for key in target.run(dsn, read_all)
    ]


def revoke_key(dsn: str, tenant: str, key: str) -> str:
    """Revokes a key, by its id or the whole of it, and returns the id; raises API_KEY_NOT_FOUND."""
    from holdsvc.api.auth.keyring import key_id_of

    key_id = key_id_of(key)
    unwrap(target.run(dsn, lambda connection: keys.revoke(connection, tenant, key_id)))
    return key_id
