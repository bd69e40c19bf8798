"""`holdsvc reservations`: export reservations, as before retention removes them."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, Optional
from uuid import UUID

import typer
from google.protobuf.json_format import MessageToDict

from holdsvc.commands import CommandError, output, target
from holdsvc.commands.options import CellName, DataDir, Dsn, read
from holdsvc.commands.output import Progress
from holdsvc.durations import parse_duration
from holdsvc.ledger import removal
from holdsvc.ledger.database import Connection
from holdsvc.model import Reservation
from inventoryhold.v1 import reservation_pb2

START = str(UUID(int=0))

TAIL_BYTES = 1 << 20
"""How far from the end of an unfinished file its last whole line is looked for; a line has some 100 KB at most."""

app = typer.Typer(no_args_is_help=True, help="Export reservations.")


class Wanted(NamedTuple):
    """Which reservations are exported."""

    tenant: str | None
    """None: of all tenants."""
    age: timedelta | None
    """Those that ended longer ago; None: all, held and confirmed ones too."""


@app.command("export")
def export(
    *,
    file: Annotated[Optional[Path], typer.Option("--to", help="File to write. Default: standard output.")] = None,  # noqa: UP045
    tenant: Annotated[Optional[str], typer.Option(help="Of this tenant. Default: of all.")] = None,  # noqa: UP045
    older_than: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--older-than",
            metavar="DURATION",
            help="Those that ended longer ago than this. Default: RESERVATION_RETENTION.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, held and confirmed ones too.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of an export that was stopped.")
    ] = False,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Write reservations as JSON lines, in order of creation: those that retention would remove, or all."""
    age = None if everything else _age(older_than, dsn, data_dir)
    if resume and file is None:
        raise CommandError("--resume goes on with a file: name it with --to")
    with target.opened(dsn, data_dir, cell, tenant) as owner, output.progress() as progress:
        count = export_to(owner, Wanted(tenant, age), file, progress, resume=resume)
    typer.echo(f"{count} reservations exported", err=True)


def _age(older_than: str | None, dsn: str | None, data_dir: Path | None) -> timedelta:
    if older_than is not None:
        return read("--older-than", parse_duration, older_than)
    retention = target.settings_of(dsn, data_dir).reservation_retention
    if not retention:
        raise CommandError(
            "RESERVATION_RETENTION is 0, so nothing is removed: say which ones with --older-than 720h, or --all"
        )
    return retention


def export_to(
    dsn: str, wanted: Wanted, file: Path | None, progress: Progress = output.silent, *, resume: bool = False
) -> int:
    """Writes reservations as JSON lines, to standard output without a file; returns how many.

    The file appears whole or not at all: until then its lines are in FILE.part, with which `resume` goes on.
    """
    if file is None:
        return target.run(dsn, lambda connection: _write(connection, wanted, START, sys.stdout.buffer, progress))
    part = file.with_name(f"{file.name}.part")
    try:
        with _opened(part, resume=resume) as (sink, after):
            try:
                count = target.run(dsn, lambda connection: _write(connection, wanted, after, sink, progress))
            except (CommandError, KeyboardInterrupt):
                typer.echo(f"holdsvc: what was exported is in {part}: go on with --resume", err=True)
                raise
            sink.flush()
            os.fsync(sink.fileno())
        part.rename(file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error
    return count


@contextmanager
def _opened(part: Path, *, resume: bool) -> Iterator[tuple[BinaryIO, str]]:
    """The file to write to, and the id behind which the export begins."""
    if not resume or not part.exists():
        with part.open("wb") as sink:
            yield sink, START
        return
    with part.open("r+b") as sink:
        sink.seek(0, os.SEEK_END)
        begin = max(0, sink.tell() - TAIL_BYTES)
        sink.seek(begin)
        whole, _, _rest = sink.read().rpartition(b"\n")
        last = whole.rpartition(b"\n")[2]
        sink.seek(begin + len(whole) + (1 if whole else 0))
        sink.truncate()
        yield sink, _id_in(last, part) if last else START


def _id_in(line: bytes, part: Path) -> str:
    try:
        return str(UUID(json.loads(line)["reservation_id"]))
    except (ValueError, KeyError, TypeError):
        raise CommandError(f"{part} is no export of reservations: remove it, or name another file with --to") from None


async def _write(connection: Connection, wanted: Wanted, after: str, sink: BinaryIO, progress: Progress) -> int:
    count = 0
    async for page in removal.pages(connection, wanted.tenant, wanted.age, after):
        output.write_lines((_object(*each) for each in page.reservations), sink)
        count += len(page.reservations)
        progress("export reservations", count, 0)
    return count


def _object(tenant: str, reservation: Reservation) -> dict[str, Any]:
    """As GetReservation shows it, with the tenant."""
    from holdsvc.api import convert

    message = reservation_pb2.Reservation()
    convert.set_reservation(message, reservation)
    return {"tenant": tenant, **MessageToDict(message, preserving_proto_field_name=True)}
