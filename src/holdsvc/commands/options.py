"""Options that several commands share: the target and the tenant."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional, TypeVar
from unicodedata import category

import typer
from google.protobuf.message import Message

from holdsvc.commands import CommandError
from holdsvc.errors import HoldError
from holdsvc.model import Violation

T = TypeVar("T")

TENANT_MAX = 128


def _check_tenant(name: str) -> str:
    return _checked(name, "--tenant")


def _check_argument(name: str) -> str:
    return _checked(name, "TENANT")


def _checked(name: str, option: str) -> str:
    """Refuses what no tenant can be called; no request names a tenant, so the contract has no rule for it."""
    if not 1 <= len(name) <= TENANT_MAX or any(category(character) == "Cc" for character in name):
        raise CommandError(f"{option}: must have 1 to {TENANT_MAX} characters, none of them a control character")
    return name


Tenant = Annotated[str, typer.Option(help="The tenant that owns it.", callback=_check_tenant)]

TenantName = Annotated[str, typer.Argument(help="The tenant.", metavar="TENANT", callback=_check_argument)]

Dsn = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations of this form
    typer.Option(
        metavar="DSN",
        help="Connection string of the schema's owner. Default: HOLDSVC_MIGRATE_DSN, or else HOLDSVC_DSN. Other users"
        " of this machine can read it in the list of processes: a password belongs in the variable.",
    ),
]

CellName = Annotated[
    str,
    typer.Option(
        "--cell",
        metavar="NAME",
        help="The cell, where HOLDSVC_CELLS names several. Default: that of the tenant, or all of them.",
    ),
]

DataDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FOLDER",
        help="Folder of the embedded PostgreSQL, whether a service runs on it or not. Default: HOLDSVC_DATA_DIR.",
    ),
]


def read(option: str, parse: Callable[[str], T], text: str) -> T:
    """The value of an option; raises CommandError with the option's name where `parse` raises ValueError."""
    try:
        return parse(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None


def check_rules(message: Message, *more: Violation | None) -> None:
    """Raises ValueError with every rule of the contract that the message breaks, and the violations in `more`."""
    from holdsvc.api import validation

    try:
        validation.check(message, *more)
    except HoldError as error:
        raise ValueError("; ".join(f"{each.field}: {each.description}" for each in error.refused.violations)) from None
