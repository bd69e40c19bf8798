"""`holdsvc top`: stock, holds, rates and lag of a service, live in a terminal."""

from typing import Annotated

import typer

from holdsvc.commands import CommandError
from holdsvc.commands.call_options import Address
from holdsvc.commands.endpoint import Endpoint


def top(
    prefix: Annotated[str, typer.Option(help="Only items whose sku begins with this. Default: all items.")] = "",
    address: Address = "",
) -> None:
    """Show stock, holds, rates and lag, live, until q; needs a terminal and the package textual."""
    try:
        from holdsvc.commands.dashboard import Dashboard
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise CommandError("top needs the package textual: pip install 'holdsvc[cli]'") from None
    Dashboard(Endpoint.load(address), prefix).run()
