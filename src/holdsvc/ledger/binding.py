"""Calls of the ledger's functions, joined to SQL by name: named arguments, explicit columns, typed rows.

Each function that Python calls is bound once, beside its caller: its name, its arguments and a NamedTuple whose fields
are the columns of its answer. Arguments begin with `_` in SQL, so that no column of a table collides with them, and go
without it here. A test compares every binding with the database's catalogue.
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from holdsvc.ledger import function_set

R = TypeVar("R", bound=tuple[Any, ...])

FUNCTIONS: "dict[str, Function[Any]]" = {}
"""Every bound function, by name."""


class Nothing(NamedTuple):
    """The answer of a function that returns nothing."""

    nothing: None


class Number(NamedTuple):
    """The answer of a function that returns a count."""

    number: int


class Statements(Protocol):
    """What runs a statement: a connection."""

    async def fetch(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows."""


class Function(Generic[R]):
    """A function of the set that belongs to this code."""

    __slots__ = ("arguments", "name", "row", "sql")

    def __init__(self, name: str, row: type[R], arguments: Sequence[str], sql: str) -> None:
        self.name = name
        self.row = row
        self.arguments = tuple(arguments)
        self.sql = sql

    async def fetch(self, connection: Statements, **arguments: object) -> list[R]:
        """Calls it with all of its arguments and returns its rows. Raises what `Connection.fetch` raises."""
        if arguments.keys() != set(self.arguments):
            raise TypeError(f"{self.name} takes {', '.join(self.arguments)}; given: {', '.join(arguments)}")
        rows = await connection.fetch(self.sql, [arguments[name] for name in self.arguments])
        return [self.row(*row) for row in rows]

    async def one(self, connection: Statements, **arguments: object) -> R:
        """Calls it and returns its only row."""
        [row] = await self.fetch(connection, **arguments)
        return row


def bind(name: str, row: type[R], *arguments: str) -> Function[R]:
    """Binds a function that answers with rows of a composite type of its set."""
    return _bound(name, row, arguments, f"SELECT {', '.join(fields(row))} FROM")


def bind_out(name: str, row: type[R], *arguments: str) -> Function[R]:
    """Binds a function that answers with OUT arguments, whose names begin with `_`."""
    return _bound(name, row, arguments, f"SELECT {', '.join(f'_{field}' for field in fields(row))} FROM")


def bind_scalar(name: str, row: type[R], *arguments: str) -> Function[R]:
    """Binds a function that answers with one value, or with rows of one value."""
    return _bound(name, row, arguments, "SELECT")


def fields(row: type[tuple[Any, ...]]) -> tuple[str, ...]:
    """The names of a NamedTuple's fields."""
    names: tuple[str, ...] = row._fields  # type: ignore[attr-defined]
    return names


def _bound(name: str, row: type[R], arguments: Sequence[str], select: str) -> Function[R]:
    named = ", ".join(f"_{argument} => %s" for argument in arguments)
    # The name comes first, for lists of sessions that show the beginning of a statement.
    function = Function(name, row, arguments, f"/* {name} */ {select} {function_set.shipped().name}.{name}({named})")
    FUNCTIONS[name] = function
    return function
