"""The database that a command works on: which one it is, and a session in it as the owner of the schema."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import psycopg
import typer
from psycopg.errors import InvalidSchemaName, UndefinedFunction, UndefinedTable

from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.cell_file import CellAddress
from holdsvc.commands import CommandError
from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.errors import HoldError
from holdsvc.ledger import owner_sessions, tenants, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown, Unreplicated
from holdsvc.ledger.schema_files import MigrationError
from holdsvc.ledger.tenants import CellError, Moved, State, TenantState
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.model import Caller, Part
from holdsvc.settings import Settings
from holdsvc.telemetry import logs

CLIENT = "holdsvc-cli"

T = TypeVar("T")


def operator(tenant: str) -> Caller:
    """Who changes a tenant's stock from the command line: all rights, and no key."""
    return Caller(tenant, CLIENT, "", frozenset(ALL_SCOPES))


def settings_of(dsn: str | None, data_dir: Path | None) -> Settings:
    """The settings of a command: a target that its flags name replaces the one that the environment names."""
    if dsn and data_dir:
        raise CommandError("--dsn and --data-dir name two databases: give one of them")
    if dsn:
        return Settings.load(dsn=dsn, migrate_dsn="", cells="")
    if data_dir:
        return Settings.load(data_dir=data_dir, dsn="", migrate_dsn="", cells="")
    return Settings.load()


@contextmanager
def opened(dsn: str | None, data_dir: Path | None, cell: str = "", tenant: str | None = None) -> Iterator[str]:
    """The owner's DSN of the database that the flags or the environment name.

    Of several cells the one that is named, or that of the tenant which the command is about. An embedded database that
    no service runs is started for the time of the block.
    """
    settings = _configured(dsn, data_dir)
    if settings.cells is not None:
        yield owner_of(chosen(settings.addresses, cell, tenant))
        return
    named(settings.addresses, cell)
    with owner_dsn(settings) as found:
        yield found


@contextmanager
def opened_for(dsn: str | None, data_dir: Path | None, cell: str, tenant: str) -> Iterator[str]:
    """The same for a command that begins a tenant: one that is in no cell is placed in the named or only one."""
    settings = _configured(dsn, data_dir)
    if settings.cells is None:
        with opened(dsn, data_dir, cell) as found:
            yield found
        return
    addresses = settings.addresses
    present = home(addresses, tenant) or _placed(addresses, cell, tenant)
    if cell and present is not named(addresses, cell):
        raise CommandError(f"the tenant {tenant!r} is in the cell {present.name}, not in {cell}")
    yield present.owner


def _placed(addresses: Sequence[CellAddress], cell: str, tenant: str) -> CellAddress:
    """Places a tenant that is in no cell in the named or only one; returns where it is then.

    `home` has asked every database before which cell it is.
    """
    wanted = chosen(addresses, cell, tenant) if cell or len(addresses) == 1 else _unplaced(addresses, tenant)
    # The same cell for all commands, in whatever order their files name the cells.
    arbiter = min(addresses, key=lambda address: address.name)
    try:
        with owner_sessions.placing(arbiter.owner, tenant):
            present = home(addresses, tenant)
            if present is None:
                run(wanted.owner, lambda connection: tenants.place(connection, tenant))
            return present or wanted
    except psycopg.Error as error:
        raise CommandError(f"the database of {arbiter.name} broke off: {error}") from error


def over_cells(dsn: str | None, data_dir: Path | None, cell: str, work: Callable[[str, str], None]) -> None:
    """Runs work, which takes the owner's DSN and the name, on each cell or the named one.

    Raises CommandError at the end if any failed.
    """
    settings = _configured(dsn, data_dir)
    if settings.cells is None or cell:
        with opened(dsn, data_dir, cell) as owner:
            work(owner, cell)
        return
    failed = []
    for address in settings.addresses:
        typer.echo(f"cell {address.name}", err=True)
        try:
            work(owner_of(address), address.name)
        except (CommandError, MigrationError, HoldError) as error:
            failed.append(address.name)
            typer.echo(f"holdsvc: {address.name}: {error}", err=True)
    if failed:
        raise CommandError(f"not done in {', '.join(failed)}; the other cells are done")


def _configured(dsn: str | None, data_dir: Path | None) -> Settings:
    # Standard output is for what the command prints.
    logs.configure("warning", sys.stderr)
    return settings_of(dsn, data_dir)


def cells() -> list[CellAddress]:
    """The cells of HOLDSVC_CELLS, for commands that are about several of them."""
    settings = _configured(None, None)
    if settings.cells is None:
        raise CommandError("there is one database, which has no name; HOLDSVC_CELLS names several")
    return settings.addresses


def owner_of(address: CellAddress) -> str:
    """The DSN of the schema's owner in a cell; raises CommandError where the database is another cell.

    One that is no cell yet may be made one.
    """

    async def check(session: Connection) -> None:
        try:
            await tenants.check_cell(session, address.name, joining=True)
        except Failed as error:
            if not lacks_schema(error):
                raise

    _in_session(address.owner, check)
    return address.owner


@contextmanager
def owner_dsn(settings: Settings) -> Iterator[str]:
    """The DSN of the schema's owner.

    Of the settings, of the embedded database that a service runs, or else of one started for this command.
    """
    [address] = settings.addresses
    dsn = address.owner or running_dsn(settings.data_dir)
    if dsn:
        yield dsn
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


def chosen(addresses: Sequence[CellAddress], cell: str, tenant: str | None) -> CellAddress:
    """The cell of this name, or else the only one, or else the tenant's; raises CommandError."""
    if cell:
        return named(addresses, cell)
    if len(addresses) == 1:
        return addresses[0]
    if tenant is None:
        raise CommandError(f"there are several cells: name one with --cell: {_names(addresses)}")
    found = home(addresses, tenant)
    return found or _unplaced(addresses, tenant)


def _unplaced(addresses: Sequence[CellAddress], tenant: str) -> NoReturn:
    raise CommandError(
        f"the tenant {tenant!r} is in no cell: say with --cell where its first key is to be, or place it with"
        f" `holdsvc tenants place`; there are {_names(addresses)}"
    )


def named(addresses: Sequence[CellAddress], cell: str) -> CellAddress:
    """The cell of this name; raises CommandError."""
    for address in addresses:
        if address.name == cell:
            return address
    if not addresses[0].name:
        raise CommandError("--cell: there is one database, which has no name; HOLDSVC_CELLS names several")
    raise CommandError(f"there is no cell {cell!r}: the file of HOLDSVC_CELLS has {_names(addresses)}")


def home(addresses: Sequence[CellAddress], tenant: str) -> CellAddress | None:
    """Where a tenant lives; None: in no cell. Raises CommandError where a cell that may have it does not answer."""
    found: list[tuple[TenantState, CellAddress]] = []
    silent: list[str] = []
    for address in addresses:
        try:
            state = run(owner_of(address), lambda connection: tenants.state_of(connection, tenant))
        except CommandError as error:
            silent.append(f"{address.name}: {error}")
            continue
        if state is not None:
            found.append((state, address))
    latest = max((each.version for each, _ in found), default=0)
    for each, address in found:
        if each.version == latest and each.state in (State.HERE, State.FROZEN):
            return address
    if silent:
        raise CommandError(f"no cell that answers has the tenant {tenant!r}, and others do not: {'; '.join(silent)}")
    if found:
        raise CommandError(f"the tenant {tenant!r} is being moved: see `holdsvc tenants list`")
    return None


def _names(addresses: Sequence[CellAddress]) -> str:
    return ", ".join(address.name for address in addresses)


def run(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Runs work on a connection of its own, as the schema's owner."""

    async def with_set(session: Connection) -> T:
        async with upkeep.function_set_used(session):
            return await work(session)

    return _in_session(dsn, with_set)


def _in_session(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    async def carried_out() -> T:
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(owner_sessions.opened(dsn))
            except psycopg.OperationalError as error:
                raise CommandError(f"the database does not answer: {error}") from error
            except ValueError as error:
                raise CommandError(str(error)) from None
            return await work(session)

    with failures():
        return asyncio.run(carried_out())


@contextmanager
def failures() -> Iterator[None]:
    """Makes of what the ledger raises what a command says."""
    try:
        yield
    except (SetTooOld, CellError) as error:
        raise CommandError(str(error)) from error
    except Failed as error:
        raise CommandError(_refused(error)) from error
    except Moved as error:
        raise CommandError(f"the tenant is not in this cell: {error}") from error
    except Unreplicated as error:
        raise CommandError(
            "it was carried out, but the wait for a standby was cancelled: it is lost if this server is"
        ) from error
    except (NothingRan, Unknown, Conflict) as error:
        raise CommandError(f"the database did not carry it out: {error.__cause__}") from error
    except psycopg.Error as error:
        raise CommandError(f"the database broke off: {error}") from error


def lacks_schema(error: Failed) -> bool:
    """Whether the database refused a statement because the schema, or a part of it, is missing."""
    return isinstance(error.__cause__, (InvalidSchemaName, UndefinedFunction, UndefinedTable))


def _refused(error: Failed) -> str:
    if lacks_schema(error):
        return "the database lacks the schema, or parts of it: run `holdsvc migrate up`, or start the service once"
    return f"the database refused: {error}"


async def parts(read: Callable[[list[str] | None], Awaitable[Part[T]]]) -> AsyncIterator[Sequence[T]]:
    """A whole list in parts; `read` reads the part after a place."""
    rows, after = await read(None)
    yield rows
    while after is not None:
        rows, after = await read(after)
        yield rows
