"""What the commands beside a running service do: on the database itself, as its owner."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.errors import InvalidSchemaName, UndefinedFunction, UndefinedTable
from psycopg.rows import tuple_row

from holdsvc import errors
from holdsvc.api.auth.keyring import key_id_of, make_key
from holdsvc.api.auth.scopes import ALL_SCOPES
from holdsvc.commands.progress import Progress
from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import items, keys, stock, upkeep
from holdsvc.ledger.database import Conflict, Connection, Failed, NothingRan, Unknown
from holdsvc.model import ApiKey, ItemKey
from holdsvc.settings import Settings

T = TypeVar("T")


class OperatorError(Exception):
    """A command that cannot be carried out; the message says what to do."""


@contextmanager
def owner_dsn(settings: Settings) -> Iterator[str]:
    """The DSN of the schema's owner.

    Of the settings, of the embedded database that a service runs, or else of one started for this command.
    """
    dsn = settings.effective_migrate_dsn.get_secret_value() or running_dsn(settings.data_dir)
    if dsn:
        yield dsn
        return
    if not (settings.data_dir / "pgdata").exists():
        raise OperatorError(
            f"no database: {settings.data_dir} is empty and HOLDSVC_DSN is not set; start the service once"
        )
    server = EmbeddedServer(settings.data_dir, bin_dir=settings.pg_bin)
    try:
        yield server.start()
    finally:
        server.stop()


def run(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Runs work on a connection of its own, as the schema's owner."""

    async def session() -> T:
        try:
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=tuple_row)
        except psycopg.OperationalError as error:
            raise OperatorError(f"the database does not answer: {error}") from error
        async with connection:
            await connection.execute("SET TIME ZONE 'UTC'")
            try:
                return await work(Connection(connection))
            except Failed as error:
                raise OperatorError(_refused(error)) from error
            except (NothingRan, Unknown, Conflict) as error:
                raise OperatorError(f"the database did not carry it out: {error.__cause__}") from error

    return asyncio.run(session())


def _refused(error: Failed) -> str:
    if isinstance(error.__cause__, (InvalidSchemaName, UndefinedFunction, UndefinedTable)):
        return "the database lacks the schema, or parts of it: run `holdsvc migrate up`, or start the service once"
    return f"the database refused: {error}"


def create_key(dsn: str, tenant: str, client: str, scopes: str, pools: str, lifetime: timedelta | None) -> str:
    """Creates a key and returns its secret; scopes and pools are separated by commas, an empty pool is the default."""
    wanted = list(ALL_SCOPES) if scopes == "all" else list(dict.fromkeys(s for s in _split(scopes) if s))
    unknown = [scope for scope in wanted if scope not in ALL_SCOPES]
    if unknown or not wanted:
        raise OperatorError(f"no such scope: {', '.join(unknown) or '(none given)'}; there are {', '.join(ALL_SCOPES)}")
    seen = list(dict.fromkeys(_split(pools))) if pools else []
    for name, value, longest in (("tenant", tenant, 128), ("client", client, 128), *(("pool", p, 64) for p in seen)):
        if len(value) > longest or not value.isprintable() or not (value or name == "pool"):
            raise OperatorError(f"{name} must have 1 to {longest} printable characters")
    new = make_key()

    async def create(connection: Connection) -> ApiKey | errors.HoldError:
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
        created = run(dsn, create)
    except OverflowError:
        raise OperatorError("a key cannot live that long: it ends before the year 10000, or never") from None
    if isinstance(created, errors.HoldError):
        raise created
    return new.secret


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def list_keys(dsn: str, tenant: str) -> list[dict[str, Any]]:
    """A tenant's keys, newest first, without their hashes."""
    found = run(dsn, lambda connection: keys.list_page(connection, tenant, None, 100_000))
    return [
        {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(key).items()
            if name != "secret_hash"
        }
        for key in found
    ]


def revoke_key(dsn: str, tenant: str, key: str) -> str:
    """Revokes a key, by its id or the whole of it, and returns the id; raises API_KEY_NOT_FOUND."""
    key_id = key_id_of(key)
    if run(dsn, lambda connection: keys.revoke(connection, tenant, key_id)) is None:
        raise errors.api_key_not_found(key_id)
    return key_id


def list_items(dsn: str, tenant: str, prefix: str) -> Iterator[dict[str, Any]]:
    """A tenant's items in order of sku and pool."""
    after = ItemKey("", "")
    while True:
        page = run(dsn, lambda connection, after=after: items.list_page(connection, tenant, prefix, None, after, 1000))  # type: ignore[misc]
        for item in page:
            yield {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in asdict(item).items()
            }
        if len(page) < 1000:
            return
        after = ItemKey(page[-1].sku, page[-1].pool)


def verify(dsn: str, tenant: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """Recounts a tenant, or all of them; one report each. Progress is in items."""
    for name in [tenant] if tenant else run(dsn, stock.tenants):
        yield run(dsn, lambda connection, name=name: _verify(connection, name, progress))  # type: ignore[misc]


async def _verify(connection: Connection, tenant: str, progress: Progress) -> dict[str, Any]:
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
