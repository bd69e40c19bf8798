"""`holdsvc serve`: run the service."""

import sys

import typer

from holdsvc.settings import Settings, unknown_names
from holdsvc.telemetry import logs


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM."""
    from holdsvc.process import supervisor

    logs.configure(settings.log_level)
    for name in unknown_names():
        typer.echo(f"holdsvc: {name} is no setting: see `holdsvc config`", err=True)
    sys.exit(supervisor.serve(settings))
