"""`holdsvc items import`: items from a CSV file, and a file of the rows that cannot be, ready to be mended."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from holdsvc import errors
from holdsvc.api.auth.scopes import ALL_SCOPES
from holdsvc.commands.progress import Progress
from holdsvc.commands.target import CommandError, run
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection
from holdsvc.model import Caller, Item, ItemKey, Refused

BATCH = 500
CLIENT = "holdsvc-cli"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_OWN_COLUMNS = ("line", "error")
"""Columns of the file of bad rows; in a file to import they are passed over, so that a mended one can be imported."""


class Row(NamedTuple):
    """A row of the file and the line on which it ends."""

    line: int
    cells: dict[str, str]


class Bad(NamedTuple):
    """A row that is no item, and why."""

    row: Row
    why: str


def import_items(dsn: str, tenant: str, file: Path, errors_file: Path, progress: Progress) -> tuple[int, int]:
    """Creates the items of a CSV file; returns how many, and how many rows went to `errors_file`."""
    good, bad, columns = _read(file)
    caller = Caller(tenant, CLIENT, "", frozenset(ALL_SCOPES))

    async def create(connection: Connection) -> int:
        created = 0
        for start in range(0, len(good), BATCH):
            progress(f"import {file.name}", start, len(good))
            created += await _create(connection, caller, good[start : start + BATCH], bad)
        progress(f"import {file.name}", len(good), len(good))
        return created

    created = run(dsn, create)
    if bad:
        _write(errors_file, columns, bad)
    return created, len(bad)


def _read(file: Path) -> tuple[list[tuple[Row, Item]], list[Bad], list[str]]:
    good: list[tuple[Row, Item]] = []
    bad: list[Bad] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source)
            columns = [name for name in reader.fieldnames or () if name not in _OWN_COLUMNS]
            missing = {"sku", "capacity"} - set(columns)
            if missing:
                raise CommandError(f"{file} lacks the columns {', '.join(sorted(missing))}")
            for cells in reader:
                row = Row(reader.line_num, cells)
                try:
                    good.append((row, _item(row.cells)))
                except ValueError as error:
                    bad.append(Bad(row, str(error)))
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{file} is no CSV file in UTF-8: {error}") from error
    return good, bad, columns


def _write(file: Path, columns: list[str], bad: list[Bad]) -> None:
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, ["line", *columns, "error"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows([{**row.cells, "line": row.line, "error": why} for row, why in sorted(bad, key=_line_of)])


def _line_of(bad: Bad) -> int:
    return bad.row.line


async def _create(connection: Connection, caller: Caller, rows: list[tuple[Row, Item]], bad: list[Bad]) -> int:
    """Creates those of a batch of items that are not there yet."""
    found = await items.get(connection, caller.tenant, [ItemKey(item.sku, item.pool) for _, item in rows])
    there = {ItemKey(item.sku, item.pool) for item in found if item is not None}
    fresh: list[tuple[Row, Item]] = []
    for row, item in rows:
        key = ItemKey(item.sku, item.pool)
        if key in there:
            bad.append(Bad(row, errors.item_already_exists(*key).message))
        else:
            there.add(key)
            fresh.append((row, item))
    if not fresh:
        return 0
    result = await items.create(connection, caller, [item for _, item in fresh])
    if not isinstance(result, Refused):
        return len(fresh)
    if len(fresh) == 1:
        bad.append(Bad(fresh[0][0], result.message))
        return 0
    # Somebody else has created some of them a moment ago: each stands for itself.
    return sum([await _create(connection, caller, [row], bad) for row in fresh])


def _item(row: dict[str, str]) -> Item:
    sku, pool = (row.get("sku") or "").strip(), (row.get("pool") or "").strip()
    if not 1 <= len(sku) <= 128 or len(pool) > 64 or not (sku + pool).isprintable():
        raise ValueError("sku must have 1 to 128 printable characters, pool at most 64")
    numbers = []
    for name in ("capacity", "oversell_limit"):
        text = (row.get(name) or "").strip() or ("0" if name == "oversell_limit" else "")
        # Not more digits than the limit has: int() of a longer text takes its time, and then refuses.
        if not (text.isascii() and text.isdigit() and len(text) <= 16) or int(text) > 10**15:
            raise ValueError(f"{name} must be a whole number from 0 to 10^15, not {text[:40]!r}")
        numbers.append(int(text))
    name = (row.get("display_name") or "").strip()[:256]
    return Item(sku, pool, name, numbers[0], 0, 0, 0, numbers[1], 0, None, _NEVER)
