"""`holdsvc serve` and `holdsvc config`: run the service, and show the settings that it would run with."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from holdsvc.embedded import data_folder
from holdsvc.settings import PREFIX, Settings
from holdsvc.telemetry import logs
from holdsvc.variables import SettingRow, about_unknown_name, rows, shown, unknown_names


def settings_options(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Gives a command one option for each setting; an option goes over the environment."""

    def run(**flags: Any) -> None:
        command(Settings.load(**flags))

    run.__doc__ = command.__doc__
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Optional[str],  # noqa: UP045
                typer.Option(f"--{name.replace('_', '-')}", metavar="VALUE", help=_help_of(row)),
            ],
        )
        for name, row in ((row.env_name.removeprefix(PREFIX).lower(), row) for row in rows())
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _help_of(row: SettingRow) -> str:
    """A setting in the words of the reference; the escapes keep rich from taking `[otel]` for a style."""
    default = f"default: {row.default}" if row.default else "no default"
    return escape(f"{row.description} [{row.env_name}; {default}]")


@settings_options
def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    from holdsvc.process import supervisor

    logs.configure(settings.log_level)
    _name_unknown_variables()
    sys.exit(supervisor.serve(settings))


@settings_options
def config(settings: Settings) -> None:
    """Print the settings that a start from this shell would use, passwords masked."""
    _name_unknown_variables()
    pid = None if settings.dsn.get_secret_value() else data_folder.owner(settings.data_dir)
    if pid:
        typer.echo(
            f"holdsvc: process {pid} runs on {settings.data_dir.absolute()}; below are the settings that a start from"
            f" this shell would use{_differences(settings)}",
            err=True,
        )
    for name, value in shown(settings).items():
        typer.echo(f"{name}={value}")
    for address in settings.addresses if settings.cells else ():
        typer.echo(f"# cell {address.name}: {address.masked}")


def _differences(settings: Settings) -> str:
    """What the service that runs on the data folder has otherwise than this shell."""
    running = data_folder.noted_settings(settings.data_dir)
    if running is None:
        return ""
    here = shown(settings) | {"HOLDSVC_DATA_DIR": running.get("HOLDSVC_DATA_DIR", "")}
    other = [f"{name}={value}" for name, value in running.items() if here.get(name) != value]
    return f". It runs with {', '.join(other)}" if other else ", and it runs with the same"


def _name_unknown_variables() -> None:
    for name in unknown_names():
        typer.echo(f"holdsvc: {about_unknown_name(name)}", err=True)
