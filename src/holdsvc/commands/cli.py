"""The command line: its families, and the one place where a command's failure becomes a message and an exit code."""

import sys
from typing import Annotated

import typer

from holdsvc import __version__, errors
from holdsvc.client import CallError
from holdsvc.commands import events, holds, items, keys, limits, migrate, outcome, reservations, stock, waitlist
from holdsvc.commands.database import dump, psql, restore
from holdsvc.commands.dev import dev
from holdsvc.commands.health import health
from holdsvc.commands.options import settings_options
from holdsvc.commands.outcome import OutcomeOpen
from holdsvc.commands.protos import protos
from holdsvc.commands.relay import relay
from holdsvc.commands.serve import config, serve
from holdsvc.commands.target import CommandError
from holdsvc.commands.top import top
from holdsvc.commands.verify import verify
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.ledger.schema_files import MigrationError
from holdsvc.settings import SettingsError

app = typer.Typer(
    no_args_is_help=True,
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


_HOLDS, _STOCK, _SERVICE, _DATABASE = "Holds", "Stock", "Service", "Database"

for name, command in (
    ("reserve", holds.reserve),
    ("confirm", holds.confirm),
    ("cancel", holds.cancel),
    ("extend", holds.extend),
    ("modify", holds.modify),
    ("fulfil", holds.fulfil),
    ("refund", holds.refund),
    ("get", holds.get),
    ("list", holds.list_),
):
    app.command(name, rich_help_panel=_HOLDS, epilog=outcome.EPILOG)(command)
app.add_typer(reservations.app, name="reservations", rich_help_panel=_HOLDS)
app.command("availability", rich_help_panel=_STOCK, epilog=outcome.EPILOG)(stock.availability)
app.command("explain", rich_help_panel=_STOCK, epilog=outcome.EPILOG)(stock.explain)
app.command("watch", rich_help_panel=_STOCK, epilog=outcome.EPILOG)(stock.watch)
app.command("top", rich_help_panel=_STOCK)(top)
app.add_typer(items.app, name="items", rich_help_panel=_STOCK)
app.add_typer(events.app, name="events", rich_help_panel=_STOCK)
app.command("serve", rich_help_panel=_SERVICE)(settings_options(serve))
app.command("dev", rich_help_panel=_SERVICE)(dev)
app.command("config", rich_help_panel=_SERVICE)(settings_options(config))
app.command("health", rich_help_panel=_SERVICE)(health)
app.command("protos", rich_help_panel=_SERVICE)(protos)
app.add_typer(limits.app, name="limits", rich_help_panel=_STOCK)
app.add_typer(waitlist.app, name="waitlist", rich_help_panel=_STOCK)
app.add_typer(keys.app, name="keys", rich_help_panel=_SERVICE)
app.command("relay", rich_help_panel=_SERVICE)(relay)
app.add_typer(migrate.app, name="migrate", rich_help_panel=_DATABASE)
app.command("psql", rich_help_panel=_DATABASE)(psql)
app.command("dump", rich_help_panel=_DATABASE)(dump)
app.command("restore", rich_help_panel=_DATABASE)(restore)
app.command("verify", rich_help_panel=_DATABASE)(verify)


def main() -> None:
    """Runs the command line and exits.

    A failure is told in words on standard error; the exit code is one of `outcome.EXIT_CODES`.
    """
    try:
        app(prog_name="holdsvc")
    except CallError as error:
        typer.echo(f"holdsvc: {outcome.in_words(error)}", err=True)
        sys.exit(outcome.exit_code(error))
    except (OutcomeOpen, SettingsError, EmbeddedServerError, MigrationError, CommandError, errors.HoldError) as error:
        typer.echo(f"holdsvc: {error}", err=True)
        sys.exit(outcome.exit_code(error))
    except UnicodeEncodeError:
        # Python keeps such bytes of an argument as lone surrogates.
        typer.echo("holdsvc: an argument or a variable holds bytes that are not UTF-8", err=True)
        sys.exit(1)
