"""The command line: its families, and the one place where a command's failure becomes a message and an exit code."""

import sys

import typer

from holdsvc import errors
from holdsvc.commands import events, items, keys, migrate
from holdsvc.commands.config import config
from holdsvc.commands.health import health
from holdsvc.commands.options import settings_options
from holdsvc.commands.relay import relay
from holdsvc.commands.serve import serve
from holdsvc.commands.target import CommandError
from holdsvc.commands.verify import verify
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.ledger.migrate import MigrationError
from holdsvc.settings import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="holdsvc takes inventory holds over gRPC.",
)
app.command("serve")(settings_options(serve))
app.command("config")(settings_options(config))
app.command("health")(health)
app.add_typer(migrate.app, name="migrate")
app.add_typer(keys.app, name="keys")
app.add_typer(items.app, name="items")
app.add_typer(events.app, name="events")
app.command("relay")(relay)
app.command("verify")(verify)


def main() -> None:
    """Runs the command line; failures that a person can mend are one line on standard error and exit code 1."""
    try:
        app()
    except (SettingsError, EmbeddedServerError, MigrationError, CommandError, errors.HoldError) as error:
        typer.echo(f"holdsvc: {error}", err=True)
        sys.exit(1)
