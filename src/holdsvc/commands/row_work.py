"""What commands that carry out a CSV file row by row have in common: batches, progress, and an account of every row."""

from abc import ABC, abstractmethod
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import typer

from holdsvc.commands import CommandError
from holdsvc.commands.csv_file import CsvFile, GoodRow, RefusedFile, RefusedRow
from holdsvc.commands.output import Progress
from holdsvc.commands.target import operator, run
from holdsvc.ledger.database import Connection

V = TypeVar("V")

BATCH = 500


class RowWork(ABC, Generic[V]):
    """Takes the rows of a file in batches; rows that have no effect go to a file, each with its reason."""

    def __init__(
        self, tenant: str, source: CsvFile[V], refused: RefusedFile, progress: Progress, *, dry_run: bool
    ) -> None:
        self._caller = operator(tenant)
        self._source = source
        self._refused = refused
        self._progress = progress
        self._dry_run = dry_run
        self._read = 0

    @abstractmethod
    async def take(self, connection: Connection, rows: list[GoodRow[V]], bad: list[RefusedRow]) -> None:
        """Carries out a batch; adds the rows that have no effect to `bad`."""

    @abstractmethod
    def account(self) -> str:
        """What was done before the work was stopped, and what to do."""

    def run(self, dsn: str, file: Path, verb: str) -> None:
        """Takes all rows. Raises CommandError, which says what was done before."""
        try:
            run(dsn, lambda connection: self._batches(connection, f"{verb} {file.name}"))
        except CommandError as error:
            raise CommandError(f"{error}; {self.account()}") from error
        except OSError as error:
            raise CommandError(f"reading {file} or writing refused rows: {error.strerror}; {self.account()}") from error
        except KeyboardInterrupt:
            typer.echo(f"holdsvc: {self.account()}", err=True)
            raise

    async def _batches(self, connection: Connection, what: str) -> None:
        rows = self._source.rows()
        while batch := list(islice(rows, BATCH)):
            self._progress(what, self._read, self._source.row_estimate)
            bad = [row for row in batch if isinstance(row, RefusedRow)]
            await self.take(connection, [row for row in batch if isinstance(row, GoodRow)], bad)
            self._refused.add(sorted(bad, key=lambda each: each.row.line))
            self._read += len(batch)
        self._progress(what, self._read, self._read)
