"""How a database becomes a cell: it takes the key of the first cell's tokens, and then its name.

All cells sign tokens with one key, so that a token of a stream or a page is worth something wherever its tenant lives.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg

from holdsvc.ledger import feed, owner_sessions, tenants, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Failed
from holdsvc.ledger.schema_files import ConnectionRefused, MigrationError
from holdsvc.ledger.tenants import CellError

T = TypeVar("T")

DEFAULT_TENANT = "default"

_SHARE_KEY = "UPDATE holdsvc.feed_state SET token_key = %s RETURNING true"


def join(dsn: str, name: str, first_dsn: str) -> bool:
    """Makes a database the cell `name`; False: it is already. Both DSNs are of the schema's owner.

    Raises MigrationError where the database is another cell, and ConnectionRefused where it or, for a new cell, the
    first one does not answer.
    """

    async def read_name(connection: Connection) -> str | None:
        return (await tenants.read_states(connection)).cell

    present = _run(dsn, read_name)
    if present == name:
        return False
    if present is not None:
        raise MigrationError(f"The database is the cell {present!r}: the file of HOLDSVC_CELLS calls it {name!r}")
    key = _run(first_dsn, feed.identity).token_key

    async def become(connection: Connection) -> None:
        await connection.fetch(_SHARE_KEY, (key,))
        await tenants.claim_cell(connection, name)

    _run(dsn, become)
    return True


def place_default(dsns: Sequence[str]) -> None:
    """Places the tenant of AUTH=off in the first cell where it is in none. For the schema's owner."""

    async def has_default(connection: Connection) -> bool:
        return any(each.tenant == DEFAULT_TENANT for each in (await tenants.read_states(connection)).tenants)

    async def place(connection: Connection) -> None:
        await tenants.place(connection, DEFAULT_TENANT)

    if not any(_run(dsn, has_default) for dsn in dsns):
        _run(dsns[0], place)


def _run(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    async def carried_out() -> T:
        try:
            async with owner_sessions.opened(dsn) as connection, upkeep.function_set_used(connection):
                return await work(connection)
        except psycopg.OperationalError as error:
            raise ConnectionRefused(f"No connection to the database: {str(error).strip()}") from error
        except (CellError, Failed) as error:
            raise MigrationError(f"The database cannot become a cell: {error}") from error

    return asyncio.run(carried_out())
