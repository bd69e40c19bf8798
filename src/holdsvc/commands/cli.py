"""The command line: its families, and the one place where a command's failure becomes a message and an exit code."""

import sys
from typing import Annotated

import typer

from holdsvc import __version__, errors
from holdsvc.commands import events, items, keys, migrate, reservations
from holdsvc.commands.database import dump, psql, restore
from holdsvc.commands.health import health
from holdsvc.commands.options import settings_options
from holdsvc.commands.relay import relay
from holdsvc.commands.serve import config, serve
from holdsvc.commands.target import CommandError
from holdsvc.commands.verify import verify
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.ledger.schema_files import MigrationError
from holdsvc.settings import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdsvc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Holdsvc takes inventory holds over gRPC and keeps them in PostgreSQL."""


app.command("serve")(settings_options(serve))
app.command("config")(settings_options(config))
app.command("health")(health)
app.add_typer(migrate.app, name="migrate")
app.add_typer(keys.app, name="keys")
app.add_typer(items.app, name="items")
app.add_typer(reservations.app, name="reservations")
app.add_typer(events.app, name="events")
app.command("relay")(relay)
app.command("psql")(psql)
app.command("dump")(dump)
app.command("restore")(restore)
app.command("verify")(verify)


def main() -> None:
    """Runs the command line and exits.

    Exit code 0: done; 1: refused or failed, with the reason in a line on standard error; 2: arguments that no command
    takes; 130: ended by Ctrl-C.
    """
    try:
        app()
    except (SettingsError, EmbeddedServerError, MigrationError, CommandError, errors.HoldError) as error:
        typer.echo(f"holdsvc: {error}", err=True)
        sys.exit(1)
    except UnicodeEncodeError:
        # Python keeps such bytes of an argument as lone surrogates.
        typer.echo("holdsvc: an argument or a variable holds bytes that are not UTF-8", err=True)
        sys.exit(1)
