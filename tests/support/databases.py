"""Databases of a test's own on the run's server."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_numbers = itertools.count(1)


@contextmanager
def created(server_dsn: str, template: str = "template1") -> Iterator[str]:
    """The DSN of a copy of a database, for as long as the block runs."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode())
    yield make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def copy_rows(source: psycopg.Connection, sink: psycopg.Connection, table: str, columns: str, where: str = "") -> None:
    """Adds rows of a table of one database to the same table of another."""
    reading, writing = source.cursor(), sink.cursor()
    with (
        reading.copy(f"COPY (SELECT {columns} FROM {table} {where}) TO STDOUT (FORMAT binary)".encode()) as rows,
        writing.copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)".encode()) as into,
    ):
        for row in rows:
            into.write(row)


def database_of(dsn: str) -> str:
    """The name of the database, to copy from."""
    return str(conninfo_to_dict(dsn)["dbname"])
