"""`holdsvc serve` and `holdsvc config`: run the service, and show the settings that it would run with."""

import sys

import typer

from holdsvc.embedded import data_folder
from holdsvc.settings import Settings
from holdsvc.telemetry import logs
from holdsvc.variables import about_unknown_name, shown, unknown_names


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    from holdsvc.process import supervisor

    logs.configure(settings.log_level)
    _name_unknown_variables()
    sys.exit(supervisor.serve(settings))


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
