"""What `holdsvc items import` does: it creates the items of a file in batches, and keeps account of every row."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import typer

from holdsvc import errors
from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.commands.item_file import GoodRow, ItemFile, RefusedFile, RefusedRow
from holdsvc.commands.output import Progress
from holdsvc.commands.target import CommandError, lacks_schema, run
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection, Failed
from holdsvc.model import Caller, ItemKey, Refused

BATCH = 500
CLIENT = "holdsvc-cli"


class Counts(NamedTuple):
    """What became of the rows."""

    read: int
    created: int
    refused: int


def import_items(
    dsn: str, tenant: str, file: Path, errors_file: Path, progress: Progress, *, dry_run: bool = False
) -> Counts:
    """Creates the items of a CSV file; rows of which none is made go to `errors_file`, each with its reason.

    Every row read is either created or refused. `dry_run` judges each row and creates nothing. Raises CommandError,
    which says how many were created before.
    """
    if file.resolve() == errors_file.resolve():
        raise CommandError(f"{file} is the file to import: name another one for the refused rows with --errors")
    source = ItemFile(file)
    try:
        with RefusedFile(errors_file, source.columns) as refused:
            return _Import(tenant, source, refused, progress, dry_run=dry_run).run(dsn, file)
    finally:
        source.close()


class _Import:
    def __init__(
        self, tenant: str, source: ItemFile, refused: RefusedFile, progress: Progress, *, dry_run: bool
    ) -> None:
        self._caller = Caller(tenant, CLIENT, "", frozenset(ALL_SCOPES))
        self._source = source
        self._refused = refused
        self._progress = progress
        self._dry_run = dry_run
        self._seen: set[ItemKey] = set()
        """Items of earlier rows, which a dry run does not find in the database."""
        self._read = self._created = 0

    def run(self, dsn: str, file: Path) -> Counts:
        try:
            run(dsn, lambda connection: self._batches(connection, f"import {file.name}"))
        except CommandError as error:
            raise CommandError(f"{error}; {self._account()}") from error
        except OSError as error:
            raise CommandError(
                f"reading {file} or writing refused rows: {error.strerror}; {self._account()}"
            ) from error
        except KeyboardInterrupt:
            typer.echo(f"holdsvc: {self._account()}", err=True)
            raise
        assert self._read == self._created + self._refused.count
        return Counts(self._read, self._created, self._refused.count)

    def _account(self) -> str:
        return (
            f"until then {self._created} items were created and {self._refused.count} rows refused. Import the file"
            " again: rows whose item exists by then are refused and change nothing"
        )

    async def _batches(self, connection: Connection, what: str) -> None:
        rows = self._source.rows()
        while batch := list(islice(rows, BATCH)):
            self._progress(what, self._read, self._source.row_estimate)
            bad = [row for row in batch if isinstance(row, RefusedRow)]
            good = [row for row in batch if isinstance(row, GoodRow)]
            self._created += await self._create(connection, good, bad)
            self._refused.add(sorted(bad, key=lambda each: each.row.line))
            self._read += len(batch)
        self._progress(what, self._read, self._read)

    async def _create(self, connection: Connection, rows: list[GoodRow], bad: list[RefusedRow]) -> int:
        """Creates the items that are not there yet; returns how many, and adds the other rows to `bad`."""
        found = await items.get(connection, self._caller.tenant, [_key(row) for row in rows])
        there = {ItemKey(item.sku, item.pool) for item in found if item is not None} | self._seen
        fresh: list[GoodRow] = []
        for row in rows:
            key = _key(row)
            if key in there:
                bad.append(RefusedRow(row.row, errors.item_already_exists(*key).message))
            else:
                there.add(key)
                fresh.append(row)
        if self._dry_run:
            self._seen.update(_key(row) for row in fresh)
            return len(fresh)
        return await self._create_fresh(connection, fresh, bad)

    async def _create_fresh(self, connection: Connection, rows: list[GoodRow], bad: list[RefusedRow]) -> int:
        if not rows:
            return 0
        try:
            result = await items.create(connection, self._caller, [row.item for row in rows])
            if not isinstance(result, Refused):
                return len(rows)
            why = result.message
        except Failed as error:
            if lacks_schema(error):
                raise
            why = f"the database refused it: {error}"
        if len(rows) == 1:
            bad.append(RefusedRow(rows[0].row, why))
            return 0
        # One of them is at fault, or was created by another caller a moment ago: halves, until it stands alone.
        half = len(rows) // 2
        return sum([await self._create_fresh(connection, part, bad) for part in (rows[:half], rows[half:])])


def _key(row: GoodRow) -> ItemKey:
    return ItemKey(row.item.sku, row.item.pool)
