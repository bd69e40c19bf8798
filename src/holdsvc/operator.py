"""What the commands beside a running service do: on the database itself, as its owner."""

import asyncio
import csv
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from holdsvc import errors
from holdsvc.api.scopes import ALL_SCOPES
from holdsvc.engine.keyring import make_key
from holdsvc.ledger import items, keys, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.embedded import EmbeddedServer, running_dsn
from holdsvc.model import ApiKey, Caller, Item, ItemKey
from holdsvc.settings import Settings

T = TypeVar("T")

IMPORT_BATCH = 500
CLIENT = "holdsvc-cli"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


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


def _run(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    async def session() -> T:
        try:
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=tuple_row)
        except psycopg.OperationalError as error:
            raise OperatorError(f"the database does not answer: {error}") from error
        async with connection:
            await connection.execute("SET TIME ZONE 'UTC'")
            return await work(Connection(connection))

    return asyncio.run(session())


def create_key(dsn: str, tenant: str, client: str, scopes: str, pools: str, lifetime: timedelta | None) -> str:
    """Creates a key and returns its secret. Scopes and pools are separated by commas; an empty pool is the default one."""
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
        created = _run(dsn, create)
    except OverflowError:
        raise OperatorError("a key cannot live that long: it ends before the year 10000, or never") from None
    if isinstance(created, errors.HoldError):
        raise created
    return new.secret


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def list_keys(dsn: str, tenant: str) -> list[dict[str, Any]]:
    """A tenant's keys, newest first, without their hashes."""
    found = _run(dsn, lambda connection: keys.list_page(connection, tenant, None, 100_000))
    return [
        {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(key).items()
            if name != "secret_hash"
        }
        for key in found
    ]


def revoke_key(dsn: str, tenant: str, key_id: str) -> None:
    """Revokes a key; raises API_KEY_NOT_FOUND."""
    if _run(dsn, lambda connection: keys.revoke(connection, tenant, key_id)) is None:
        raise errors.api_key_not_found(key_id)


def import_items(dsn: str, tenant: str, file: Path, errors_file: Path) -> tuple[int, int]:
    """Creates the items of a CSV file; returns how many, and how many rows went to `errors_file`."""
    caller = Caller(tenant, CLIENT, "", frozenset(ALL_SCOPES))
    good: list[tuple[dict[str, str], Item]] = []
    bad: list[tuple[dict[str, str], str]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source)
            missing = {"sku", "capacity"} - set(reader.fieldnames or ())
            if missing:
                raise OperatorError(f"{file} lacks the columns {', '.join(sorted(missing))}")
            for row in reader:
                try:
                    good.append((row, _item(row)))
                except ValueError as error:
                    bad.append((row, str(error)))
    except OSError as error:
        raise OperatorError(f"cannot read {file}: {error.strerror}") from error

    async def create(connection: Connection) -> int:
        created = 0
        for start in range(0, len(good), IMPORT_BATCH):
            created += await _create(connection, caller, good[start : start + IMPORT_BATCH], bad)
        return created

    created = _run(dsn, create)
    if bad:
        with errors_file.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, [*(name for name in bad[0][0] if name), "error"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows([{**row, "error": why} for row, why in bad])
    return created, len(bad)


async def _create(
    connection: Connection,
    caller: Caller,
    rows: list[tuple[dict[str, str], Item]],
    bad: list[tuple[dict[str, str], str]],
) -> int:
    """Creates a batch of items; halves it until the rows that are there already stand alone."""
    if len({(item.sku, item.pool) for _, item in rows}) == len(rows):
        result = await items.create(connection, caller, [item for _, item in rows])
        if not isinstance(result, errors.HoldError):
            return len(rows)
        if len(rows) == 1:
            bad.append((rows[0][0], result.message))
            return 0
    middle = len(rows) // 2
    return await _create(connection, caller, rows[:middle], bad) + await _create(connection, caller, rows[middle:], bad)


def _item(row: dict[str, str]) -> Item:
    sku, pool = (row.get("sku") or "").strip(), (row.get("pool") or "").strip()
    if not 1 <= len(sku) <= 128 or len(pool) > 64 or not (sku + pool).isprintable():
        raise ValueError("sku must have 1 to 128 printable characters, pool at most 64")
    numbers = []
    for name in ("capacity", "oversell_limit"):
        text = (row.get(name) or "").strip() or ("0" if name == "oversell_limit" else "")
        if not (text.isascii() and text.isdigit()) or int(text) > 10**15:
            raise ValueError(f"{name} must be a whole number from 0 to 10^15, not {text!r}")
        numbers.append(int(text))
    name = (row.get("display_name") or "").strip()[:256]
    return Item(sku, pool, name, numbers[0], 0, 0, 0, numbers[1], 0, None, _NEVER)


def list_items(dsn: str, tenant: str, prefix: str) -> Iterator[dict[str, Any]]:
    """A tenant's items in order of sku and pool."""
    after = ItemKey("", "")
    while True:
        page = _run(dsn, lambda connection, after=after: items.list_page(connection, tenant, prefix, None, after, 1000))  # type: ignore[misc]
        for item in page:
            yield {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in asdict(item).items()
            }
        if len(page) < 1000:
            return
        after = ItemKey(page[-1].sku, page[-1].pool)


def verify(dsn: str, tenant: str) -> Iterator[dict[str, Any]]:
    """Recounts a tenant, or all of them; one report each."""

    async def tenants(connection: Connection) -> list[str]:
        return [row[0] for row in await connection.fetch("SELECT * FROM holdsvc.tenants()")]

    for name in [tenant] if tenant else _run(dsn, tenants):
        yield _run(dsn, lambda connection, name=name: _verify(connection, name))  # type: ignore[misc]


async def _verify(connection: Connection, tenant: str) -> dict[str, Any]:
    report: dict[str, Any] = {"tenant": tenant, "item_count": 0, "reservation_count": 0, "drifts": []}
    after: str | None = ""
    while after is not None:
        step = await upkeep.verify_step(connection, tenant, after)
        report["item_count"] += step.item_count
        report["reservation_count"] += step.reservation_count
        report["drifts"] += [drift._asdict() for drift in step.drifts]
        after = step.last_sku
    return report


def health(settings: Settings, address: str, timeout_s: float, *, liveness: bool) -> str:
    """Asks a service for its health: SERVING, NOT_SERVING or UNREACHABLE."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = address or settings.listen.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - nothing is bound
    if settings.tls_cert is not None:
        credentials = grpc.ssl_channel_credentials(root_certificates=settings.tls_cert.read_bytes())
        channel = grpc.secure_channel(target, credentials)
    else:
        channel = grpc.insecure_channel(target)
    with channel:
        request = health_pb2.HealthCheckRequest(service="liveness" if liveness else "")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError:
            return "UNREACHABLE"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
