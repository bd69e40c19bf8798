"""`holdsvc config`: the effective settings of this shell."""

import typer

from holdsvc.settings import Settings, shown


def config(settings: Settings) -> None:
    """Print the effective settings, secrets masked."""
    for name, value in shown(settings).items():
        typer.echo(f"{name}={value}")
