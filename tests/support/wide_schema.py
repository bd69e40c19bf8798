"""A schema of a later release, at its widest: every table has a column for every word of the functions' text.

A statement that names a column without its table fails on it where a variable or another table has that name too.
"""

import re

import psycopg
from psycopg.sql import SQL, Identifier

from holdsvc.ledger import function_set

_COMMENT = re.compile(r"--[^\n]*")
_STRING = re.compile(r"'(?:[^']|'')*'")
_WORD = re.compile(r"\b[a-z][a-z_0-9]*\b")


def words() -> set[str]:
    """Every name in the text of the shipped functions that a column may get one day: none begins with `_`."""
    found: set[str] = set()
    for _, text in function_set.shipped().files:
        found |= {*_WORD.findall(_STRING.sub("", _COMMENT.sub("", text.lower())))}
    return found


def widen(dsn: str) -> None:
    """Adds the columns to every table of the ledger."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        tables = owner.execute(
            "SELECT c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'holdsvc'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " GROUP BY c.relname"
        ).fetchall()
        for table, columns in tables:
            # System columns are among those: xmin and ctid cannot be added.
            added = [SQL("ADD COLUMN {} text").format(Identifier(word)) for word in sorted(words() - {*columns})]
            owner.execute(SQL("ALTER TABLE holdsvc.{} {}").format(Identifier(table), SQL(", ").join(added)))
