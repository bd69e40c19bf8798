"""The command line: its families, and the one place where a command's failure becomes a message and an exit code."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from holdsvc import __version__


class _Command(NamedTuple):
    """Where a command, or a family of them, is found, and how the help shows it."""

    panel: str
    module: str
    attribute: str
    calls: bool = False
    """Whether it calls a service, and ends with one of the exit codes of `outcome`."""


_HOLDS, _STOCK, _SERVICE, _DATABASE = "Holds", "Stock", "Service", "Database"

_COMMANDS = {
    "reserve": _Command(_HOLDS, "holds", "reserve", calls=True),
    "confirm": _Command(_HOLDS, "holds", "confirm", calls=True),
    "cancel": _Command(_HOLDS, "holds", "cancel", calls=True),
    "extend": _Command(_HOLDS, "holds", "extend", calls=True),
    "modify": _Command(_HOLDS, "holds", "modify", calls=True),
    "fulfil": _Command(_HOLDS, "holds", "fulfil", calls=True),
    "refund": _Command(_HOLDS, "holds", "refund", calls=True),
    "get": _Command(_HOLDS, "holds", "get", calls=True),
    "list": _Command(_HOLDS, "holds", "list_", calls=True),
    "reservations": _Command(_HOLDS, "reservations", "app"),
    "availability": _Command(_STOCK, "stock", "availability", calls=True),
    "explain": _Command(_STOCK, "stock", "explain", calls=True),
    "watch": _Command(_STOCK, "stock", "watch", calls=True),
    "top": _Command(_STOCK, "top", "top"),
    "items": _Command(_STOCK, "items", "app"),
    "events": _Command(_STOCK, "events", "app"),
    "serve": _Command(_SERVICE, "serve", "serve"),
    "dev": _Command(_SERVICE, "dev", "dev"),
    "config": _Command(_SERVICE, "serve", "config"),
    "health": _Command(_SERVICE, "health", "health"),
    "protos": _Command(_SERVICE, "protos", "protos"),
    "limits": _Command(_STOCK, "limits", "app"),
    "waitlist": _Command(_STOCK, "waitlist", "app"),
    "keys": _Command(_SERVICE, "keys", "app"),
    "relay": _Command(_SERVICE, "relay", "relay"),
    "migrate": _Command(_DATABASE, "migrate", "app"),
    "tenants": _Command(_DATABASE, "tenants", "app"),
    "psql": _Command(_DATABASE, "database", "psql"),
    "dump": _Command(_DATABASE, "database", "dump"),
    "restore": _Command(_DATABASE, "database", "restore"),
    "verify": _Command(_DATABASE, "verify", "verify"),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdsvc {__version__}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Holdsvc takes inventory holds over gRPC and keeps them in PostgreSQL."""


def program(arguments: Sequence[str] = ()) -> typer.Typer:
    """The program with the command that the first argument names, or else with all.

    So a command starts without the modules of the others, which would take it twice as long.
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_options,
    )
    for name in arguments[:1] if arguments and arguments[0] in _COMMANDS else _COMMANDS:
        command = _COMMANDS[name]
        found = getattr(import_module(f"holdsvc.commands.{command.module}"), command.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=command.panel)
        else:
            app.command(name, rich_help_panel=command.panel, epilog=_epilog() if command.calls else None)(found)
    return app


def _epilog() -> str:
    from holdsvc.commands.outcome import EPILOG

    return EPILOG


def main(app: typer.Typer | None = None) -> None:
    """Runs the command line and exits.

    A failure is told in words on standard error; the exit code is one of `outcome.EXIT_CODES`.
    """
    try:
        (app or program(sys.argv[1:]))(prog_name="holdsvc")
    except UnicodeEncodeError:
        # Python keeps such bytes of an argument as lone surrogates.
        typer.echo("holdsvc: an argument or a variable holds bytes that are not UTF-8", err=True)
        sys.exit(1)
    except Exception as error:
        # Imported when there is something to tell.
        from holdsvc.commands import outcome

        words = outcome.in_words(error)
        if words is None:
            raise
        typer.echo(f"holdsvc: {words}", err=True)
        sys.exit(outcome.exit_code(error))
