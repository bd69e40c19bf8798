"""What `holdsvc items import` does: it creates the items of a file in batches, and keeps account of every row."""

from pathlib import Path
from typing import NamedTuple

from holdsvc import errors
from holdsvc.commands import CommandError, item_file
from holdsvc.commands.csv_file import CsvFile, GoodRow, RefusedFile, RefusedRow
from holdsvc.commands.output import Progress
from holdsvc.commands.row_work import RowWork
from holdsvc.commands.target import lacks_schema
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Failed
from holdsvc.model import Item, ItemKey, Refused


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
    source = CsvFile(file, item_file.LAYOUT, item_file.item_of)
    try:
        with RefusedFile(errors_file, source.columns) as refused:
            work = _Import(tenant, source, refused, progress, dry_run=dry_run)
            work.run(dsn, file, "import")
            return work.counts()
    finally:
        source.close()


class _Import(RowWork[Item]):
    def __init__(
        self, tenant: str, source: CsvFile[Item], refused: RefusedFile, progress: Progress, *, dry_run: bool
    ) -> None:
        super().__init__(tenant, source, refused, progress, dry_run=dry_run)
        self._seen: set[ItemKey] = set()
        """Items of earlier rows, which a dry run does not find in the database."""
        self._created = 0

    def counts(self) -> Counts:
        assert self._read == self._created + self._refused.count
        return Counts(self._read, self._created, self._refused.count)

    def account(self) -> str:
        return (
            f"until then {self._created} items were created and {self._refused.count} rows refused. Import the file"
            " again: rows whose item exists by then are refused and change nothing"
        )

    async def take(self, connection: Connection, rows: list[GoodRow[Item]], bad: list[RefusedRow]) -> None:
        """Creates the items that are not there yet; the other rows are refused."""
        found = await items.get(connection, self._caller.tenant, [_key(row) for row in rows])
        there = {ItemKey(item.sku, item.pool) for item in found if item is not None} | self._seen
        fresh: list[GoodRow[Item]] = []
        for row in rows:
            key = _key(row)
            if key in there:
                bad.append(RefusedRow(row.row, errors.item_already_exists(*key).message))
            else:
                there.add(key)
                fresh.append(row)
        if self._dry_run:
            self._seen.update(_key(row) for row in fresh)
            self._created += len(fresh)
        else:
            self._created += await self._create_fresh(connection, fresh, bad)

    async def _create_fresh(self, connection: Connection, rows: list[GoodRow[Item]], bad: list[RefusedRow]) -> int:
        if not rows:
            return 0
        try:
            result = await items.create(connection, self._caller, [row.value for row in rows])
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


def _key(row: GoodRow[Item]) -> ItemKey:
    return ItemKey(row.value.sku, row.value.pool)
