"""The rows of a tenant that moves: copied from one cell to another, counted in both, removed from one."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql

from holdsvc.ledger import function_set
from holdsvc.ledger.session import SETTINGS, setting
from holdsvc.ledger.tenant_tables import LIMIT_NUMBER, TABLES, Table
from holdsvc.ledger.tenants import CellError, State

T = TypeVar("T")
Progress = Callable[[str, int, int], None]

CHUNK_BYTES = 4_000_000
"""About what one transaction writes at most. It takes half a second, and the feed of the other tenants waits for it."""

CLEAN_PAGES = 2_000
"""Pages of a table that one transaction removes rows from."""

_HEADER_BYTES = 19
"""Of a COPY in binary form: its signature, its flags, and the length of its extension, 0."""

_TRAILER = b"\xff\xff"


class Side(NamedTuple):
    """One cell of a move."""

    name: str
    dsn: str
    """That of the schema's owner."""


class _Rows(NamedTuple):
    """Rows of a table on their way."""

    select: sql.Composed
    columns: sql.Composed
    table: Table


async def copy_ahead(source: Side, sink: Side, tenant: str, move_id: UUID, progress: Progress) -> str:
    """Copies the large tables of a tenant that goes on selling; returns a mark for `copy_rest`.

    No row of the tenant may be there. It can be cancelled. Raises CellError where another process has the move by now.
    """
    return await _apart(partial(_copy_ahead, tenant=tenant, move_id=move_id, progress=progress), source, sink)


async def copy_rest(source: Side, sink: Side, tenant: str, move_id: UUID, mark: str, progress: Progress) -> None:
    """Copies what is missing of a tenant that is frozen by now: what changed since the mark, and the other tables."""
    await _apart(partial(_copy_rest, tenant=tenant, move_id=move_id, mark=mark, progress=progress), source, sink)


async def counts(side: Side, tenant: str, *, arrived: bool) -> dict[str, int]:
    """The number of a tenant's rows that a move takes along, by the table that they go to; `arrived`: where it came."""
    return await _apart(partial(_counts, tenant=tenant, arrived=arrived), side)


async def clean(side: Side, tenant: str, state: State, move_id: UUID | None, progress: Progress) -> None:
    """Removes a tenant's rows from a cell in which it has this state and this move.

    It can be cancelled, and goes on where it ended. Raises CellError where the state is another one by now.
    """
    await _apart(partial(_clean, tenant=tenant, state=state, move_id=move_id, progress=progress), side)


async def _apart(work: Callable[..., T], *sides: Side) -> T:
    """Runs work in a thread with a connection to each side, whose statements a cancel ends."""
    connections: list[psycopg.Connection] = []

    def run() -> T:
        try:
            for side in sides:
                # One by one: where the second fails, the first is closed.
                one = psycopg.connect(side.dsn, autocommit=True)
                connections.append(one)
                one.execute(*setting(SETTINGS, local=False))
            return work(*connections)
        finally:
            for connection in connections:
                connection.close()

    running = asyncio.create_task(asyncio.to_thread(run))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            for connection in connections:
                if not connection.closed:
                    connection.cancel_safe(timeout=5.0)
            await asyncio.wait([running], timeout=0.5)
        raise


def _copy_ahead(
    source: psycopg.Connection, sink: psycopg.Connection, *, tenant: str, move_id: UUID, progress: Progress
) -> str:
    _take_snapshot(source)
    # Whoever may still change a row that this snapshot shows has this transaction id or a later one.
    [(mark,)] = source.execute("SELECT (pg_snapshot_xmin(pg_current_snapshot())::xid)::text").fetchall()
    for table in TABLES:
        if table.key:
            _send(source, sink, _rows(source, sink, table, tenant, {}), tenant, move_id, progress)
    return str(mark)


def _copy_rest(
    source: psycopg.Connection, sink: psycopg.Connection, *, tenant: str, move_id: UUID, mark: str, progress: Progress
) -> None:
    _take_snapshot(source)
    numbers = _new_numbers(source, sink, tenant)
    for table in TABLES:
        rows = _rows(source, sink, table, tenant, numbers)
        if table.key:
            _send_changed(source, sink, rows, tenant, move_id, mark)
        else:
            _send(source, sink, rows, tenant, move_id, progress)
    for target in dict.fromkeys(table.target for table in TABLES if table.key):
        _remove_gone(source, sink, target, tenant, move_id)


def _take_snapshot(source: psycopg.Connection) -> None:
    """Everything is read as it is at the first statement."""
    source.autocommit = False
    source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    source.read_only = True


def _new_numbers(source: psycopg.Connection, sink: psycopg.Connection, tenant: str) -> dict[int, int]:
    """The number of each of the tenant's limits here, and one of its own there."""
    old = source.execute("SELECT limit_number FROM holdsvc.hold_limit WHERE tenant = %s AND state < 3", (tenant,))
    numbers = {}
    for (number,) in old:
        [(numbers[number],)] = sink.execute("SELECT nextval('holdsvc.limit_number')").fetchall()
    return numbers


def _rows(
    source: psycopg.Connection, sink: psycopg.Connection, table: Table, tenant: str, numbers: Mapping[int, int]
) -> _Rows:
    columns = _columns(source, table.name)
    if columns != _columns(sink, table.target):
        raise CellError(f"the table {table.target} differs between the cells: run `holdsvc migrate up` in both")
    values = dict(table.values)
    if LIMIT_NUMBER in columns and numbers:
        cases = " ".join(f"WHEN {number} THEN {new}" for number, new in numbers.items())
        values[LIMIT_NUMBER] = f"CASE t.{LIMIT_NUMBER} {cases} END"
    chosen = [
        sql.SQL("({})::{}").format(sql.SQL(values[name]), sql.SQL(type_))
        if name in values
        else sql.SQL("t.{}").format(sql.Identifier(name))
        for name, type_ in columns.items()
    ]
    return _Rows(
        sql.SQL("SELECT {} FROM holdsvc.{} t WHERE {}").format(
            sql.SQL(", ").join(chosen), sql.Identifier(table.name), _condition(table, tenant)
        ),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        table,
    )


def _condition(table: Table, tenant: str) -> sql.Composed:
    return sql.SQL("t.tenant = {} AND {}").format(sql.Literal(tenant), sql.SQL(table.where))


def _columns(connection: psycopg.Connection, table: str) -> dict[str, str]:
    """A table's columns that are stored as they are given, with their types."""
    rows = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
        " ORDER BY a.attname",
        (f"holdsvc.{table}",),
    )
    return dict(rows.fetchall())


def _send(
    source: psycopg.Connection,
    sink: psycopg.Connection,
    rows: _Rows,
    tenant: str,
    move_id: UUID,
    progress: Progress,
) -> None:
    """Streams rows in transactions of CHUNK_BYTES: a long one would hold back the feed of the sink's other tenants."""
    done = 0
    with source.cursor().copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(rows.select)) as out:
        messages = iter(out)
        # The server sends a message a row, and the header with the first of them.
        row = bytes(next(messages))
        header, row = row[:_HEADER_BYTES], row[_HEADER_BYTES:] or bytes(next(messages))
        while row != _TRAILER:
            with _writing(sink, tenant, State.COPYING, move_id) as cursor:
                into = sql.SQL("COPY holdsvc.{} ({}) FROM STDIN (FORMAT binary)").format(
                    sql.Identifier(rows.table.target), rows.columns
                )
                with cursor.copy(into) as copying:
                    copying.write(header)
                    size = 0
                    while row != _TRAILER and size < CHUNK_BYTES:
                        copying.write(row)
                        size += len(row)
                        done += 1
                        row = bytes(next(messages))
                    copying.write(_TRAILER)
            progress(f"copy {rows.table.name}", done, 0)
        for _ in messages:
            raise AssertionError("a row behind the trailer of COPY")


def _send_changed(
    source: psycopg.Connection, sink: psycopg.Connection, rows: _Rows, tenant: str, move_id: UUID, mark: str
) -> None:
    """Replaces the rows that were written since the mark.

    Of a row that was frozen long ago the age may be anything: then it is replaced by itself.
    """
    changed = sql.SQL("{} AND age(t.xmin) <= age({}::xid)").format(rows.select, sql.Literal(mark))
    _replace_temporary(source, sink, rows.table, changed, rows.columns)
    with _writing(sink, tenant, State.COPYING, move_id) as cursor:
        cursor.execute(
            sql.SQL("DELETE FROM holdsvc.{} t USING pg_temp.brought b WHERE t.tenant = b.tenant AND {}").format(
                sql.Identifier(rows.table.target), _same_key(rows.table, "b")
            )
        )
        cursor.execute(
            sql.SQL("INSERT INTO holdsvc.{} ({}) SELECT {} FROM pg_temp.brought").format(
                sql.Identifier(rows.table.target), rows.columns, rows.columns
            )
        )


def _remove_gone(source: psycopg.Connection, sink: psycopg.Connection, target: str, tenant: str, move_id: UUID) -> None:
    """Removes rows that have gone since they were copied: there are some where there are more rows than there."""
    tables = [table for table in TABLES if table.target == target]
    wanted = sum(_count(source, table, tenant) for table in tables)
    if _count(sink, Table(target), tenant) == wanted:
        return
    key = sql.SQL(", ").join(map(sql.Identifier, ("tenant", *tables[0].key)))
    kept = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM holdsvc.{} t WHERE {}").format(
            key, sql.Identifier(table.name), _condition(table, tenant)
        )
        for table in tables
    )
    _replace_temporary(source, sink, tables[0], kept, key)
    with _writing(sink, tenant, State.COPYING, move_id) as cursor:
        cursor.execute(
            sql.SQL(
                "DELETE FROM holdsvc.{} t WHERE t.tenant = {} AND NOT EXISTS (SELECT 1 FROM pg_temp.brought b WHERE {})"
            ).format(sql.Identifier(target), sql.Literal(tenant), _same_key(tables[0], "b"))
        )


def _same_key(table: Table, other: str) -> sql.Composable:
    return sql.SQL(" AND ").join(
        sql.SQL("t.{0} = {1}.{0}").format(sql.Identifier(name), sql.Identifier(other)) for name in table.key
    )


def _replace_temporary(
    source: psycopg.Connection,
    sink: psycopg.Connection,
    table: Table,
    select: sql.Composable,
    columns: sql.Composable,
) -> None:
    """Fills the table `brought` of the sink's session with these columns."""
    sink.execute("DROP TABLE IF EXISTS pg_temp.brought")
    sink.execute(
        sql.SQL("CREATE TEMPORARY TABLE brought AS SELECT {} FROM holdsvc.{} WITH NO DATA").format(
            columns, sql.Identifier(table.target)
        )
    )
    out = source.cursor().copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(select))
    into = sink.cursor().copy(sql.SQL("COPY pg_temp.brought ({}) FROM STDIN (FORMAT binary)").format(columns))
    with out as reading, into as writing:
        for data in reading:
            writing.write(data)


@contextmanager
def _writing(
    connection: psycopg.Connection, tenant: str, state: State, move_id: UUID | None
) -> Iterator[psycopg.Cursor[Any]]:
    """A transaction that writes rows of a tenant in this state: one that takes the move over waits for its end."""
    with connection.transaction(), connection.cursor() as cursor:
        found = cursor.execute(
            "SELECT 1 FROM holdsvc.tenant_state s"
            " WHERE s.tenant = %s AND s.state = %s AND s.move_id IS NOT DISTINCT FROM %s FOR SHARE",
            (tenant, state, move_id),
        ).fetchone()
        if found is None:
            raise CellError(f"another process has taken over the move of {tenant!r}: look at `holdsvc tenants list`")
        yield cursor


def _counts(connection: psycopg.Connection, *, tenant: str, arrived: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in TABLES:
        if not (arrived and table.into):
            found[table.target] = found.get(table.target, 0) + _count(connection, table, tenant)
    return found


def _count(connection: psycopg.Connection, table: Table, tenant: str) -> int:
    query = sql.SQL("SELECT count(*) FROM holdsvc.{} t WHERE {}")
    [(number,)] = connection.execute(query.format(sql.Identifier(table.name), _condition(table, tenant))).fetchall()
    return int(number)


async def drawn(side: Side) -> tuple[int, int]:
    """The last event id and the last waitlist number that a cell has drawn."""
    return await _apart(_drawn, side)


def _drawn(connection: psycopg.Connection) -> tuple[int, int]:
    [(event_id, sequence)] = connection.execute(
        "SELECT e.last_value, w.last_value FROM holdsvc.event_id e, holdsvc.waitlist_sequence w"
    ).fetchall()
    return int(event_id), int(sequence)


async def readers_behind(side: Side, tenant: str) -> list[str]:
    """The relays and webhooks that have not been told all events of a tenant that has left."""
    return await _apart(partial(_readers_behind, tenant=tenant), side)


def _readers_behind(connection: psycopg.Connection, *, tenant: str) -> list[str]:
    identity = f"{function_set.shipped().name}.feed_identity()"
    rows = connection.execute(
        f"""
        WITH last AS (
          SELECT e.event_id, e.occur_time, i._epoch || '-' AS epoch FROM holdsvc.event e, {identity} i
          WHERE e.tenant = %s ORDER BY e.event_id DESC LIMIT 1
        )
        SELECT 'relay ' || r.name FROM holdsvc.relay r, last l
        WHERE starts_with(r.epoch, l.epoch) AND r.event_id < l.event_id
        UNION ALL
        SELECT 'webhook ' || w.webhook_id FROM holdsvc.webhook w, last l
        WHERE w.tenant = %s AND w.state = 1
          AND CASE WHEN starts_with(w.epoch, l.epoch) THEN w.event_id < l.event_id ELSE w.event_time < l.occur_time END
        ORDER BY 1
        """.encode(),
        (tenant, tenant),
    )
    return [name for (name,) in rows.fetchall()]


def _clean(
    connection: psycopg.Connection, *, tenant: str, state: State, move_id: UUID | None, progress: Progress
) -> None:
    # Events first: who reads one finds what it is about.
    for table in reversed(TABLES):
        if state == State.COPYING and table.into:
            continue
        for child in _parts(connection, table.name):
            [(pages,)] = connection.execute(
                sql.SQL("SELECT pg_relation_size({}) / current_setting('block_size')::int").format(sql.Literal(child))
            ).fetchall()
            for page in range(0, int(pages) + 1, CLEAN_PAGES):
                with _writing(connection, tenant, state, move_id) as cursor:
                    cursor.execute(
                        sql.SQL(
                            "DELETE FROM {} t WHERE t.ctid >= {}::tid AND t.ctid < {}::tid AND t.tenant = {}"
                        ).format(
                            sql.SQL(child),
                            sql.Literal(f"({page},0)"),
                            sql.Literal(f"({page + CLEAN_PAGES},0)"),
                            sql.Literal(tenant),
                        )
                    )
                progress(f"remove {table.name}", min(page + CLEAN_PAGES, int(pages)), int(pages))


def _parts(connection: psycopg.Connection, table: str) -> list[str]:
    """A table, or its partitions, as SQL names them."""
    rows = connection.execute(
        "SELECT p.relid::regclass::text FROM pg_partition_tree(%s::regclass) p WHERE p.isleaf", (f"holdsvc.{table}",)
    )
    return [name for (name,) in rows.fetchall()] or [f"holdsvc.{table}"]
