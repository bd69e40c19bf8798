"""`holdsvc migrate`: the schema of the database, its function sets and its features."""

import sys
from typing import Annotated, Optional

import typer

from holdsvc.commands import CommandError, target
from holdsvc.commands.options import CellName, DataDir, Dsn
from holdsvc.ledger import function_set, joining
from holdsvc.ledger import migrate as migrations

app = typer.Typer(no_args_is_help=True, help="Bring the database's schema up or down.")


@app.command("up")
def up(
    to: Annotated[Optional[str], typer.Option(help="The last version to apply. Default: the newest.")] = None,  # noqa: UP045
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Apply the migrations that are pending, and install the function set of this version."""
    settings = target.settings_of(dsn, data_dir)

    def bring_up(owner: str, name: str) -> None:
        done = migrations.up(owner, to)
        for migration in done.migrations:
            typer.echo(f"applied {migration.version} {migration.name}")
        if done.function_set:
            typer.echo(f"installed {done.function_set}")
        if name and to is None and joining.join(owner, name, target.owner_of(settings.addresses[0])):
            typer.echo(f"this is the cell {name} now")

    target.over_cells(dsn, data_dir, cell, bring_up)


@app.command("down")
def down(
    steps: Annotated[int, typer.Option(help="Number of migrations to take back, data with them.", min=1)] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Take back the newest migrations, the data that they hold, and the function sets that need them."""
    with target.opened(dsn, data_dir, cell) as owner:
        applied = [row for row in migrations.status(owner).migrations if row.state != "pending"]
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
def status(cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """List every migration, function set and feature, and the versions that the database serves."""
    target.over_cells(dsn, data_dir, cell, _show_status)


def _show_status(owner: str, _cell: str) -> None:
    found = migrations.status(owner)
    for row in found.migrations:
        typer.echo(f"{row.version} {row.state:8} {row.name}")
    own = function_set.shipped().name
    if own not in {installed.name for installed in found.function_sets}:
        typer.echo(f"{own} pending   of this version")
    for installed in found.function_sets:
        of = "this version" if installed.name == own else f"release {installed.release}"
        used = (
            f"{installed.processes} processes" if installed.processes else f"last used {installed.last_use_time:%F %R}"
        )
        typer.echo(f"{installed.name} installed of {of}, schema {installed.schema_version}, {used}")
    for feature in found.features:
        state = f"active since {feature.activate_time:%F %R}" if feature.activate_time else "not active"
        typer.echo(f"feature {feature.name}: {state}, known from schema {feature.since} on")
    if found.compatible_since:
        typer.echo(f"serves code of schema {found.compatible_since} and newer")


@app.command("prune")
def prune(cell: CellName = "", dsn: Dsn = None, data_dir: DataDir = None) -> None:
    """Drop the function sets that no process has used for a day; the last one of another release stays."""
    target.over_cells(dsn, data_dir, cell, _prune)


def _prune(owner: str, _cell: str) -> None:
    dropped, kept = migrations.prune(owner)
    for row in dropped:
        typer.echo(f"dropped {row.name} of release {row.release}")
    for row in kept:
        typer.echo(f"kept {row.name}: other objects of the database depend on it", err=True)


@app.command("activate")
def activate(
    feature: Annotated[str, typer.Argument(help="The name of the feature, as `holdsvc migrate status` lists it.")],
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Turn a feature on: from then on versions that do not know it cannot serve this database."""
    target.over_cells(dsn, data_dir, cell, lambda owner, _: migrations.activate(owner, feature))
    typer.echo(f"{feature} is active")
