"""Every binding between Python and a SQL function against the database's catalogue: names, types, columns."""

import re
import typing
from datetime import date, datetime, timedelta
from types import UnionType
from typing import Any
from uuid import UUID

import psycopg
import pytest

# They bind what they call.
from holdsvc.ledger import (  # noqa: F401
    events,
    feed,
    function_set,
    items,
    keys,
    proofs,
    reservation_lists,
    reservations,
    retention,
    stock,
    tenant_move,
    upkeep,
    watched,
    webhooks,
)
from holdsvc.ledger.binding import FUNCTIONS, Function, fields
from holdsvc.ledger.events import EntrySnapshot, EventRow
from holdsvc.ledger.limits import LimitRefusal
from holdsvc.ledger.reservations import Snapshot
from tests.support.harness import SET_NAME

PYTHON_TYPES: dict[type, set[str]] = {
    bool: {"bool"},
    int: {"int2", "int4", "int8"},
    float: {"float8"},
    str: {"text"},
    bytes: {"bytea"},
    datetime: {"timestamptz"},
    date: {"date"},
    timedelta: {"interval"},
    UUID: {"uuid"},
    dict: {"jsonb"},
    list: {"jsonb"},
    Snapshot: {"jsonb"},
    LimitRefusal: {"jsonb"},
    EntrySnapshot: {"jsonb"},
    type(None): {"void"},
}

CATALOGUE = """
SELECT p.proname, p.pronargs, p.proargnames, p.proargmodes, p.proretset, r.typname,
  (SELECT array_agg(y.typname ORDER BY a.ix)
   FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY a (type, ix)
   JOIN pg_type y ON y.oid = a.type),
  (SELECT array_agg(a.attname || ' ' || y.typname ORDER BY a.attnum)
   FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = r.typrelid AND a.attnum > 0),
  has_function_privilege('holdsvc_service', p.oid, 'EXECUTE')
FROM pg_proc p JOIN pg_type r ON r.oid = p.prorettype
WHERE p.pronamespace = %s::regnamespace
"""


class Signature:
    """A function as the catalogue has it."""

    def __init__(self, row: tuple[Any, ...]) -> None:
        _, _, names, modes, _, returned, types, composite, self.of_service = row
        names, types = names or [], types or []
        modes = modes or ["i"] * len(names)
        self.arguments = [name for name, mode in zip(names, modes, strict=True) if mode in "ib"]
        outs = [(name, type_) for name, type_, mode in zip(names, types, modes, strict=True) if mode in "ot"]
        if composite:
            self.columns = [tuple(column.split(" ")) for column in composite]
        else:
            self.columns = outs or [("", returned)]


@pytest.fixture
def signatures(ledger_dsn: str) -> dict[str, Signature]:
    with psycopg.connect(ledger_dsn) as owner:
        found = {row[0]: Signature(row) for row in owner.execute(CATALOGUE.encode(), (SET_NAME,))}
    assert len(found) > 30
    return found


def fits(annotation: Any, sql_type: str) -> bool:
    """Whether a field of this annotation may hold what comes as this type."""
    if isinstance(annotation, UnionType):
        return any(fits(part, sql_type) for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is list and sql_type != "jsonb":
        element = typing.get_args(annotation)[0]
        # An array of arrays has the type of its innermost elements.
        inner = sql_type if typing.get_origin(element) is list else sql_type[1:]
        return sql_type.startswith("_") and fits(element, inner)
    plain = typing.get_origin(annotation) or annotation
    return sql_type in PYTHON_TYPES.get(plain, set())


def test_every_binding_names_the_arguments_of_its_function(signatures: dict[str, Signature]) -> None:
    wrong = {
        name: (function.arguments, signatures[name].arguments)
        for name, function in FUNCTIONS.items()
        if {f"_{argument}" for argument in function.arguments} != set(signatures[name].arguments)
    }
    assert wrong == {}


def test_every_binding_has_the_columns_of_its_function_with_fitting_types(signatures: dict[str, Signature]) -> None:
    for name, function in FUNCTIONS.items():
        columns = signatures[name].columns
        hints = typing.get_type_hints(function.row)
        if columns[0][0]:
            assert [column.removeprefix("_") for column, _ in columns] == [*fields(function.row)], name
        assert len(columns) == len(hints), name
        for (column, sql_type), (field, annotation) in zip(columns, hints.items(), strict=True):
            assert fits(annotation, sql_type), f"{name}: {field} is {annotation}, {column or 'the value'} is {sql_type}"


def test_the_service_may_execute_what_python_calls_but_for_the_owners_commands(
    signatures: dict[str, Signature],
) -> None:
    of_owner = {
        *("begin_epoch", "claim_cell", "event_days", "ledger_time", "place_tenant", "read_ended", "read_events_of_day"),
        *("admit_tenant", "expect_tenant", "forget_tenant", "freeze_tenant", "keep_here", "keep_tenant"),
        *("leave_tenant", "lift_sequences", "mark_cleaned", "note_history", "read_history_of_day"),
        *("take_over_move", "tenant_state_here"),
    }
    assert {name for name in FUNCTIONS if not signatures[name].of_service} == of_owner
    # And nothing more: a right that nothing needs is taken away. The connection adds may_read to reads itself.
    assert {name for name, signature in signatures.items() if signature.of_service} == {
        *FUNCTIONS,
        "may_read",
    } - of_owner


async def test_a_call_with_a_wrong_argument_is_refused_before_anything_is_sent() -> None:
    class Untouched:
        async def fetch(self, _sql: str, _parameters: Any = ()) -> list[tuple[Any, ...]]:
            raise AssertionError("sent")

    function: Function[Any] = FUNCTIONS["get_items"]
    with pytest.raises(TypeError, match="get_items takes tenant, sku, pool; given: tenant, skus, pool"):
        await function.fetch(Untouched(), tenant="t", skus="{}", pool="{}")


def test_every_list_of_an_events_columns_is_that_of_its_type_in_its_order() -> None:
    # They answer by position: two counts in the wrong order would go unnoticed.
    text = "\n".join(path.read_text() for path in sorted(function_set.FOLDER.glob("*.sql")))
    lists = re.findall(r"SELECT (e\.event_id, e\.occur_day.*?)\n +FROM ", text, re.DOTALL)
    wanted = [name for name in EventRow._fields if name not in ("hash", "filters")]
    assert len(lists) == 5
    for columns in lists:
        assert re.findall(r"(?:^|, |,\n +)e\.(\w+)", columns)[: len(wanted)] == wanted
