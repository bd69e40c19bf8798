"""What `holdsvc items set-stock` does: it sets capacities from a file of counts, and keeps account of every row."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from holdsvc.change_requests import SetStock
from holdsvc.commands import CommandError
from holdsvc.commands.csv_file import CsvFile, GoodRow, Layout, RefusedFile, RefusedRow, time_cell, whole_number
from holdsvc.commands.options import check_rules
from holdsvc.commands.output import Progress
from holdsvc.commands.row_work import RowWork
from holdsvc.ledger import counts, items
from holdsvc.ledger.database import Connection
from holdsvc.model import Done, ItemKey, Refused
from inventoryhold.v1 import inventory_service_pb2 as pb

LAYOUT = Layout(("sku", "on_hand"), ("pool", "count_time"))

SWEEP_ROUNDS = 100
"""How often rows are judged again after a sweep of their items."""


class Count(NamedTuple):
    """What a row says."""

    sku: str
    pool: str
    on_hand: int
    time: datetime


class Counts(NamedTuple):
    """What became of the rows."""

    read: int
    set: int
    superseded: int
    refused: int


def set_stock(
    dsn: str,
    tenant: str,
    file: Path,
    errors_file: Path,
    progress: Progress,
    *,
    max_age: timedelta,
    count_time: datetime | None = None,
    dry_run: bool = False,
) -> Counts:
    """Sets capacities from the counts of a CSV file; rows that cannot be go to `errors_file`, each with its reason.

    Every row read is set, superseded or refused. A row without a time has `count_time`, or else the time at which the
    file was last written: both are the same when the file is taken again, so that the second time changes nothing that
    happened in between. `dry_run` judges each row and changes nothing. Raises CommandError, which says what was done.
    """
    if file.resolve() == errors_file.resolve():
        raise CommandError(f"{file} is the file of counts: name another one for the refused rows with --errors")
    source = CsvFile(file, LAYOUT, _reader(count_time or _written(file)))
    try:
        with RefusedFile(errors_file, source.columns) as refused:
            work = _SetStock(tenant, source, refused, progress, max_age=max_age, dry_run=dry_run)
            work.run(dsn, file, "set stock from")
            return work.counts()
    finally:
        source.close()


def _written(file: Path) -> datetime:
    try:
        written = file.stat().st_mtime if file.is_file() else None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    # A pipe is written now.
    return datetime.now(UTC) if written is None else datetime.fromtimestamp(written, UTC)


def _reader(count_time: datetime) -> Callable[[dict[str, str]], Count]:
    """Makes counts of rows; those without a time have `count_time`."""

    def read(cells: dict[str, str]) -> Count:
        on_hand = whole_number("on_hand", cells["on_hand"])
        time = time_cell("count_time", cells["count_time"]) if cells.get("count_time") else count_time
        count = Count(cells["sku"], cells.get("pool", ""), on_hand, time)
        check_rules(pb.StockCount(sku=count.sku, pool=count.pool, on_hand=on_hand, count_time=time))
        return count

    return read


class _SetStock(RowWork[Count]):
    def __init__(
        self,
        tenant: str,
        source: CsvFile[Count],
        refused: RefusedFile,
        progress: Progress,
        *,
        max_age: timedelta,
        dry_run: bool,
    ) -> None:
        super().__init__(tenant, source, refused, progress, dry_run=dry_run)
        self._max_age = max_age
        self._seen: set[int] = set()
        """Hashes of the items of earlier rows."""
        self._set = self._superseded = 0

    def counts(self) -> Counts:
        assert self._read == self._set + self._superseded + self._refused.count
        return Counts(self._read, self._set, self._superseded, self._refused.count)

    def account(self) -> str:
        return (
            f"until then {self._set} counts were set, {self._superseded} were superseded and {self._refused.count} rows"
            " refused. Take the same file again: what has happened since the counts is kept"
        )

    async def take(self, connection: Connection, rows: list[GoodRow[Count]], bad: list[RefusedRow]) -> None:
        """Sets capacities; rows of items that an earlier row names are refused."""
        fresh = []
        for row in rows:
            key = hash(row.value[:2])
            if key in self._seen:
                bad.append(RefusedRow(row.row, "an earlier row counts the same item"))
            else:
                self._seen.add(key)
                fresh.append(row)
        for _ in range(SWEEP_ROUNDS):
            if not fresh:
                return
            fresh = await self._judged(connection, fresh, bad)
        bad += [RefusedRow(row.row, "its holds lapse faster than they are swept: try again") for row in fresh]

    async def _judged(
        self, connection: Connection, rows: list[GoodRow[Count]], bad: list[RefusedRow]
    ) -> list[GoodRow[Count]]:
        """Judges rows; returns those that must be judged again, whose items have been swept."""
        outcomes = await counts.set_stock(
            connection,
            self._caller.tenant,
            [self._request(row.value) for row in rows],
            max_age=self._max_age,
            dry_run=self._dry_run,
        )
        again = []
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Done):
                self._superseded += outcome.value.superseded
                self._set += not outcome.value.superseded
            elif isinstance(outcome, Refused):
                bad.append(RefusedRow(row.row, _why(outcome)))
            elif self._dry_run:
                # Its lapsed holds make room.
                self._set += 1
            else:
                again.append(row)
        if again:
            await items.sweep(connection, self._caller.tenant, [ItemKey(*row.value[:2]) for row in again])
        return again

    def _request(self, count: Count) -> SetStock:
        return SetStock(self._caller, "", b"", count.sku, count.pool, count.on_hand, count.time, 0)


def _why(refused: Refused) -> str:
    return "; ".join(f"{each.field}: {each.description}" for each in refused.violations) or refused.message
