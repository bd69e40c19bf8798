"""`holdsvc migrate`: bring the schema of the database up or down, and list its migrations."""

import sys
from typing import Annotated, Optional

import typer

from holdsvc.commands import target
from holdsvc.commands.options import DataDir, Dsn
from holdsvc.commands.target import CommandError
from holdsvc.ledger import migrate as migrations

app = typer.Typer(no_args_is_help=True, help="Bring the database's schema up or down.")


@app.command("up")
def up(
    to: Annotated[Optional[str], typer.Option(help="The last version to apply. Default: the newest.")] = None,  # noqa: UP045
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Apply the migrations that are pending."""
    with target.opened(dsn, data_dir) as owner:
        for migration in migrations.up(owner, to):
            typer.echo(f"applied {migration.version} {migration.name}")


@app.command("down")
def down(
    steps: Annotated[int, typer.Option(help="Number of migrations to take back, data with them.", min=1)] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Take back the newest migrations and the data that they hold."""
    with target.opened(dsn, data_dir) as owner:
        applied = [row for row in migrations.status(owner) if row.state != "pending"]
        newest = applied[: -steps - 1 : -1]
        if newest and not yes:
            names = ", ".join(f"{row.version} {row.name}" for row in newest)
            _confirm(f"Take back {names}? The data that they hold is deleted.")
        for migration in migrations.down(owner, steps):
            typer.echo(f"took back {migration.version} {migration.name}")


def _confirm(question: str) -> None:
    """Asks on the terminal; raises CommandError where there is none, or the answer is not yes."""
    if not sys.stdin.isatty():
        raise CommandError(f"{question} There is no terminal to ask on: say --yes")
    if not typer.confirm(question, err=True):
        raise CommandError("nothing was taken back")


@app.command("status")
def status(dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List every migration and whether it is applied."""
    with target.opened(dsn, data_dir) as owner:
        for row in migrations.status(owner):
            typer.echo(f"{row.version} {row.state:8} {row.name}")
