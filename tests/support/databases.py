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


def database_of(dsn: str) -> str:
    """The name of the database, to copy from."""
    return str(conninfo_to_dict(dsn)["dbname"])
