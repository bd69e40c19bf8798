"""The database that a command works on: which one it is, and a session in it as the owner of the schema."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg.errors import InvalidSchemaName, UndefinedFunction, UndefinedTable
from psycopg.rows import tuple_row

from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import upkeep
from holdsvc.ledger.database import Conflict, Connection, Failed, NothingRan, Unknown
from holdsvc.ledger.primary import find_primary
from holdsvc.ledger.tenants import Moved
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.model import Caller
from holdsvc.postgres import check_version, with_connect_timeout
from holdsvc.settings import Settings
from holdsvc.telemetry import logs

CONNECT_TIMEOUT_S = 10
"""The longest wait for a connection to each host of a DSN that says nothing else."""

CLIENT = "holdsvc-cli"

T = TypeVar("T")


class CommandError(Exception):
    """A command that cannot be carried out; the message says what to do."""


def operator(tenant: str) -> Caller:
    """Who changes a tenant's stock from the command line: all rights, and no key."""
    return Caller(tenant, CLIENT, "", frozenset(ALL_SCOPES))


def settings_of(dsn: str | None, data_dir: Path | None) -> Settings:
    """The settings of a command: a target that its flags name replaces the one that the environment names."""
    if dsn and data_dir:
        raise CommandError("--dsn and --data-dir name two databases: give one of them")
    if dsn:
        return Settings.load(dsn=dsn, migrate_dsn="")
    if data_dir:
        return Settings.load(data_dir=data_dir, dsn="", migrate_dsn="")
    return Settings.load()


@contextmanager
def opened(dsn: str | None, data_dir: Path | None) -> Iterator[str]:
    """The owner's DSN of the database that the flags or the environment name.

    An embedded database that no service runs is started for the time of the block.
    """
    settings = settings_of(dsn, data_dir)
    # Standard output is for what the command prints.
    logs.configure("warning", sys.stderr)
    with owner_dsn(settings) as found:
        yield found


@contextmanager
def owner_dsn(settings: Settings) -> Iterator[str]:
    """The DSN of the schema's owner.

    Of the settings, of the embedded database that a service runs, or else of one started for this command.
    """
    dsn = settings.effective_migrate_dsn.get_secret_value() or running_dsn(settings.data_dir)
    if dsn:
        yield with_connect_timeout(dsn, CONNECT_TIMEOUT_S)
        return
    if not (settings.data_dir / "pgdata").exists():
        raise CommandError(
            f"{settings.data_dir} holds no database, and HOLDSVC_DSN is not set: name one with --data-dir or --dsn,"
            " or start the service once"
        )
    server = EmbeddedServer(settings.data_dir, bin_dir=settings.pg_bin)
    try:
        yield server.start()
    finally:
        server.stop()


def run(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Runs work on a connection of its own, as the schema's owner."""

    async def carried_out() -> T:
        try:
            chosen = await find_primary(dsn)
            connection = await psycopg.AsyncConnection.connect(chosen, autocommit=True, row_factory=tuple_row)
        except psycopg.OperationalError as error:
            raise CommandError(f"the database does not answer: {error}") from error
        async with connection:
            try:
                check_version(connection.info.server_version)
            except ValueError as error:
                raise CommandError(str(error)) from None
            await connection.execute("SET TIME ZONE 'UTC'")
            session = Connection(connection)
            try:
                async with upkeep.function_set_used(session):
                    return await work(session)
            except SetTooOld as error:
                raise CommandError(str(error)) from error
            except Failed as error:
                raise CommandError(_refused(error)) from error
            except Moved as error:
                raise CommandError(f"the tenant is not in this cell: {error}") from error
            except (NothingRan, Unknown, Conflict) as error:
                raise CommandError(f"the database did not carry it out: {error.__cause__}") from error

    return asyncio.run(carried_out())


def lacks_schema(error: Failed) -> bool:
    """Whether the database refused a statement because the schema, or a part of it, is missing."""
    return isinstance(error.__cause__, (InvalidSchemaName, UndefinedFunction, UndefinedTable))


def _refused(error: Failed) -> str:
    if lacks_schema(error):
        return "the database lacks the schema, or parts of it: run `holdsvc migrate up`, or start the service once"
    return f"the database refused: {error}"
