"""`holdsvc events`: follow events, list and export their days, and begin a new epoch."""

import os
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Optional

import typer

from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, read
from holdsvc.commands.output import Progress
from holdsvc.commands.tail import tail
from holdsvc.ledger import retention
from holdsvc.ledger.database import Connection

app = typer.Typer(no_args_is_help=True, help="Follow events; list and export their days; begin a new epoch.")


app.command("tail")(tail)


@app.command("list")
def list_(cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List the days of which there are events, oldest first, a JSON object a line."""
    with target.opened(dsn, data_dir, cell) as owner:
        output.write_lines(list_days(owner))


@app.command("export")
def export(
    day: Annotated[str, typer.Argument(help="The day (UTC), as in 2026-01-31.")],
    file: Annotated[Optional[Path], typer.Option("--to", help="File to write. Default: standard output.")] = None,  # noqa: UP045
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Write a day's events of all tenants as JSON lines, as before retention drops it."""
    wanted = read("DAY", _day, day)
    with target.opened(dsn, data_dir, cell) as owner, output.progress() as progress:
        count = export_day(owner, wanted, file, progress)
    typer.echo(f"{count} events of {wanted} exported", err=True)


@app.command("begin-epoch")
def begin_epoch(cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """Refuse every resume token and relay position of before: for a database that was put back or copied."""
    with target.opened(dsn, data_dir, cell) as owner:
        target.run(owner, retention.begin_epoch)
    typer.echo("tokens and relay positions of before are foreign now")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day: write it as in 2026-01-31") from None


def list_days(dsn: str) -> list[dict[str, Any]]:
    """The days of which there are events, oldest first."""
    return [
        {"day": day.day.isoformat(), "event_count": day.event_count, "size_bytes": day.size_bytes}
        for day in target.run(dsn, retention.days)
    ]


def export_day(dsn: str, day: date, file: Path | None, progress: Progress = output.silent) -> int:
    """Writes a day's events of all tenants as JSON lines, to standard output without a file; returns how many.

    The file appears whole or not at all. Progress is in events, of a number that is not known before.
    """
    if file is None:
        return target.run(dsn, lambda connection: _write(connection, day, sys.stdout.buffer, progress))
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as sink:
            count = target.run(dsn, lambda connection: _write(connection, day, sink, progress))
            sink.flush()
            os.fsync(sink.fileno())
        part.rename(file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


async def _write(connection: Connection, day: date, sink: BinaryIO, progress: Progress) -> int:
    from holdsvc.api import convert
    from holdsvc.relay.cloud_event import as_json

    count = after = 0
    brought = ("", 0)
    while True:
        found = await retention.events_of(connection, day, after) if brought == ("", 0) else []
        if found:
            after = found[-1].event.event_id
        elif found := await retention.brought_of(connection, day, brought):
            brought = (found[-1].tenant, found[-1].event.event_id)
        else:
            return count
        output.write_lines(({"tenant": event.tenant, **as_json(convert.event(event.event))} for event in found), sink)
        count += len(found)
        progress(f"export {day}", count, 0)
