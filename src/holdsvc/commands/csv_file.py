"""CSV files, read strictly, and the file of the rows that were refused.

No text of an item may contain a line break, so each line is a row and gets a verdict of its own: a quote too many makes
one bad row and never swallows the rows behind it.
"""

import csv
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, NamedTuple, Self, TextIO, TypeVar

from holdsvc.commands import CommandError

V = TypeVar("V")

OWN_COLUMNS = ("line", "error", "text")
"""Columns of the file of refused rows; an import passes over them, so that a corrected one can be imported."""

LINE_MAX = 64 * 1024
"""Bytes of the longest line that is read; all texts of an item at full length take 4 KB."""

_CELL = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=,|\Z)|([^",]*)(?=,|\Z)')
_NUMBER = re.compile(r" *(-?[0-9]{1,18}) *", re.ASCII)


class Layout(NamedTuple):
    """The columns that a file may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional


class Row(NamedTuple):
    """A row of the file."""

    line: int
    cells: dict[str, str]
    text: str
    """The whole line where it cannot be split into cells, or else empty."""


@dataclass(frozen=True, slots=True)
class GoodRow(Generic[V]):
    """A row that says something."""

    row: Row
    value: V


class RefusedRow(NamedTuple):
    """A row that has no effect, and why."""

    row: Row
    why: str


class CsvFile(Generic[V]):
    """A file of rows, open from its construction to `close`; raises CommandError where it is none as a whole.

    `parse` makes a row's value of its cells, and raises ValueError with what is wrong with them.
    """

    def __init__(self, path: Path, layout: Layout, parse: Callable[[dict[str, str]], V]) -> None:
        self._path = path
        self._layout = layout
        self._parse = parse
        try:
            self.row_estimate = _line_count(path)
            self._source: BinaryIO = path.open("rb")
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror}") from error
        self._line = 0
        try:
            self.columns = self._header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._source.close()

    def _header(self) -> list[str]:
        line = (self._read() or b"").removeprefix(b"\xef\xbb\xbf")
        try:
            columns = _cells(_text(line))
        except ValueError as error:
            raise CommandError(f"{self._path}, line 1: {error}") from error
        faults = _header_faults(columns, self._layout)
        if faults:
            raise CommandError(
                f"{self._path}, line 1: {'; '.join(faults)}. The first line names the columns, separated by commas:"
                f" {', '.join(self._layout.required)} and, where wanted, {', '.join(self._layout.optional)}"
            )
        return columns

    def rows(self) -> Iterator[GoodRow[V] | RefusedRow]:
        """Yields a verdict for each row, in order; empty lines are no rows. Raises OSError."""
        while (line := self._read()) is not None:
            if line:
                yield self._verdict(line)

    def _verdict(self, line: bytes) -> GoodRow[V] | RefusedRow:
        try:
            text = _text(line)
            cells = _cells(text)
            if len(cells) != len(self.columns):
                raise ValueError(
                    f"{len(cells)} cells under {len(self.columns)} columns: a cell with a comma in it needs quotes"
                )
        except ValueError as error:
            return RefusedRow(Row(self._line, {}, line.decode("utf-8", "backslashreplace")), str(error))
        row = Row(self._line, dict(zip(self.columns, cells, strict=True)), "")
        try:
            return GoodRow(row, self._parse(row.cells))
        except ValueError as error:
            return RefusedRow(row, str(error))

    def _read(self) -> bytes | None:
        """The next line without its end, cut off behind LINE_MAX bytes; None at the end of the file."""
        line = self._source.readline(LINE_MAX + 1)
        if not line:
            return None
        self._line += 1
        if not line.endswith(b"\n"):
            while (rest := self._source.readline(LINE_MAX)) and not rest.endswith(b"\n"):
                pass
        return line.removesuffix(b"\n").removesuffix(b"\r")


def _line_count(path: Path) -> int:
    """Lines behind the first one of a regular file; 0 for a pipe, which can be read once only."""
    if not path.is_file():
        return 0
    with path.open("rb") as source:
        return sum(part.count(b"\n") for part in iter(lambda: source.read(1 << 20), b"")) - 1


def _text(line: bytes) -> str:
    if len(line) > LINE_MAX:
        raise ValueError(f"the line has more than {LINE_MAX} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{line[error.start]:02x} at place {error.start + 1} is not UTF-8: save the file in that encoding"
        ) from error


def _cells(text: str) -> list[str]:
    """The cells of a line of CSV (RFC 4180); raises ValueError."""
    cells = []
    place = 0
    while match := _CELL.match(text, place):
        quoted, plain = match.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        if match.end() == len(text):
            return cells
        place = match.end() + 1
    if text[place] != '"':
        raise ValueError(
            "a quote inside a cell that does not begin with one: put the cell in quotes, and double the quote"
        )
    raise ValueError(
        "a quote is opened and not closed at the end of its cell: remove it, or double it inside the quotes"
    )


def _header_faults(columns: list[str], layout: Layout) -> list[str]:
    if columns == [""]:
        return ["it is empty"]
    known = {*layout.columns, *OWN_COLUMNS}
    if len(columns) == 1 and columns[0] not in known:
        for name, separator in ((";", ";"), ("tabs", "\t"), ("|", "|"), ("line ends of the old Mac", "\r")):
            if separator in columns[0]:
                return [f"the columns are separated by {name}, not by commas"]
    faults = [f"the column {name!r} stands there twice" for name in dict.fromkeys(columns) if columns.count(name) > 1]
    for name in dict.fromkeys(columns):
        if name not in known:
            near = difflib.get_close_matches(name.strip().lower(), layout.columns, n=1)
            faults.append(f"there is no column {name[:40]!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    faults += [f"the column {name} is missing" for name in layout.required if name not in columns]
    return faults


def whole_number(name: str, text: str) -> int:
    """The number in a cell; raises ValueError."""
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ValueError(f"{name}: must be a whole number in digits, not {text[:40]!r}")
    return int(match[1])


def parse_time(text: str) -> datetime:
    """Reads a time with its zone, as in 2026-01-31T18:00:00Z; raises ValueError."""
    try:
        time = datetime.fromisoformat(text.strip())
        # Midnight of the first day in a zone east of UTC is in no year.
        utc = time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, OverflowError):
        utc = None
    if utc is None:
        raise ValueError(f"{text[:40]!r} is no time with its zone: write it as in 2026-01-31T18:00:00Z")
    return utc


def time_cell(name: str, text: str) -> datetime:
    """The time in a cell; raises ValueError."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class RefusedFile:
    """The file of refused rows, begun before the first row is read; it gets its name where it has a row."""

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        """Raises CommandError where it cannot be written."""
        self._path = path
        self._part = path
        self.count = 0
        names = ("line", *(name for name in columns if name not in OWN_COLUMNS), "error", "text")
        try:
            if path.exists() and not path.is_file():  # a device or a pipe; opening a folder fails
                self._sink: TextIO = path.open("w", newline="", encoding="utf-8")
            else:
                self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
                self._sink = self._part.open("x", newline="", encoding="utf-8")
        except OSError as error:
            raise CommandError(
                f"cannot write the refused rows to {path}: {error.strerror}; name another file with --errors"
            ) from error
        self._writer = csv.DictWriter(self._sink, names, extrasaction="ignore")
        self._writer.writeheader()

    def add(self, refused: Iterable[RefusedRow]) -> None:
        """Writes refused rows; raises OSError."""
        for row, why in refused:
            self._writer.writerow({**row.cells, "line": row.line, "error": why, "text": row.text})
            self.count += 1
        self._sink.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # `add` has flushed every row, or raised
            self._sink.close()
        if self._part == self._path:
            return
        if self.count:
            self._part.replace(self._path)
        else:
            self._part.unlink()
