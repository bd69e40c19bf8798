"""`holdsvc psql`, `dump` and `restore`: PostgreSQL's own programs on the database that holdsvc uses."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer
from psycopg import OperationalError

from holdsvc.commands import CommandError, target
from holdsvc.commands.options import CellName, DataDir, Dsn
from holdsvc.embedded import binaries
from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import migrate, retention
from holdsvc.ledger.primary import chosen_dsn
from holdsvc.postgres import without_password


def psql(
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Arguments of psql, after --, as in `holdsvc psql -- --command 'SELECT 1'`."),
    ] = None,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Open psql on the database, as the owner of the schema."""
    pg_bin = target.settings_of(dsn, data_dir).pg_bin
    with target.opened(dsn, data_dir, cell) as owner:
        raise typer.Exit(_run("psql", pg_bin, owner, arguments or []))


def dump(
    file: Annotated[Path, typer.Argument(help="File to write; it appears whole or not at all.")],
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Write the whole database to a file, for `holdsvc restore` or `pg_restore`."""
    pg_bin = target.settings_of(dsn, data_dir).pg_bin
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with target.opened(dsn, data_dir, cell) as owner:
        try:
            part.touch(mode=0o600, exist_ok=False)
            if _run("pg_dump", pg_bin, owner, ["--format=custom", f"--file={part}"]):
                raise CommandError("pg_dump failed: nothing was written")
            part.replace(file)
        except OSError as error:
            raise CommandError(f"cannot write {file}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `holdsvc dump` or `pg_dump --format=custom` wrote.")],
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Put a dump into an empty database, or into a new data folder, and begin a new epoch of events."""
    settings = target.settings_of(dsn, data_dir)
    if not file.is_file():
        raise CommandError(f"cannot read {file}: there is no such file")
    owner = target.chosen(settings.addresses, cell, None).owner
    with _given(owner) if owner else _new(settings.data_dir, settings.pg_bin) as into:
        migrate.create_service_role(into)
        options = ["--no-owner", "--single-transaction", "--exit-on-error"]
        if _run("pg_restore", settings.pg_bin, into, [*options, str(file)]):
            raise CommandError("pg_restore failed: nothing was restored. The database must be empty")
        migrate.up(into)
        target.run(into, retention.begin_epoch)
    typer.echo("restored, with a new epoch of events; next: `holdsvc verify`, then start the service")


@contextmanager
def _given(dsn: str) -> Iterator[str]:
    yield dsn


@contextmanager
def _new(data_dir: Path, pg_bin: Path | None) -> Iterator[str]:
    """A server on a folder that holds no database yet."""
    if running_dsn(data_dir) or (data_dir / "pgdata").exists():
        raise CommandError(f"{data_dir} holds a database: name another folder, which does not exist yet")
    server = EmbeddedServer(data_dir, bin_dir=pg_bin)
    try:
        yield server.start()
    finally:
        server.stop()


def _run(program: str, pg_bin: Path | None, dsn: str, arguments: Sequence[str]) -> int:
    """Runs one of PostgreSQL's programs to its end and returns its exit code; the password stays off its arguments."""
    try:
        # libpq would take the first host that is writable, which may be a primary that was replaced.
        shown, password = without_password(chosen_dsn(dsn))
    except OperationalError as error:
        raise CommandError(f"the database does not answer: {error}") from error
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    # Ctrl-C is for the program; this process waits for its end.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        path = binaries.client_program(program, pg_bin)
        return subprocess.run([path, f"--dbname={shown}", *arguments], env=environment, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
