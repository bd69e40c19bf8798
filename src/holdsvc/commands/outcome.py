"""How a call that failed ends a command: in words, with an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from holdsvc.client import CallError
from holdsvc.client.errors import (
    CapacityExceeded,
    InvalidField,
    OutcomeUnknown,
    PermissionDenied,
    Unauthenticated,
    leaves_outcome_open,
)
from holdsvc.commands import CommandError
from holdsvc.commands.endpoint import ServiceAway
from holdsvc.commands.lines import name
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.errors import HoldError
from holdsvc.ledger.schema_files import MigrationError
from holdsvc.settings import SettingsError

FAILED = 1
REFUSED = 3
AWAY = 4
OPEN = 5
EXIT_CODES = {
    0: "done",
    FAILED: "it failed: the message says why",
    2: "arguments that no command takes",
    REFUSED: "the service refused it; the same call will not succeed before something changes",
    AWAY: "nothing was done, try again: no service answers, or it has too much to do",
    OPEN: "it is not known whether the change was made: send it again with the request id that the message names",
    130: "ended by Ctrl-C",
}
"""The exit codes of the commands that call a service."""

EPILOG = "Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + "."

_AGAIN = {"OVERLOADED", "RATE_LIMITED", "DATABASE_UNAVAILABLE", "DATABASE_SPLIT", "TENANT_MOVED", "SHUTTING_DOWN"}


class OutcomeOpen(Exception):
    """A change of which it is not known whether it was made."""


@contextmanager
def known(request_id: str) -> Iterator[None]:
    """Runs a change, and names its request_id where it ends without an answer that tells its outcome."""
    again = f"Send it again with --request-id {request_id}: it takes effect once"
    try:
        yield
    except KeyboardInterrupt as error:
        raise OutcomeOpen(f"it was interrupted, and may have been made. {again}") from error
    except CallError as error:
        if isinstance(error, OutcomeUnknown) or leaves_outcome_open(error):
            raise OutcomeOpen(f"it is not known whether it was made: {error.message}. {again}") from error
        raise


_TOLD = (OutcomeOpen, SettingsError, EmbeddedServerError, MigrationError, CommandError, HoldError)
"""Failures whose message says what happened and what to do."""


def in_words(error: Exception) -> str | None:
    """What is told of a failure; None: it is a fault of the program."""
    if isinstance(error, CallError):
        return _call_in_words(error)
    return str(error) if isinstance(error, _TOLD) else None


def _call_in_words(error: CallError) -> str:
    """What the service said, what is behind it, and what to do."""
    words = [f"{error.message} ({error.reason or error.code.name})"]
    if isinstance(error, InvalidField):
        words = [f"{field}: {description}" for field, description in error.violations.items()] or words
    elif isinstance(error, CapacityExceeded) and len(error.shortfall) > 1:
        words += [
            f"{name(line.sku, line.pool)}: {line.requested} requested, {line.available} available"
            for line in error.shortfall
        ]
    elif isinstance(error, Unauthenticated):
        words.append("set HOLDSVC_API_KEY to a key; the operator makes one with `holdsvc keys create`")
    elif isinstance(error, PermissionDenied):
        words.append("the key in HOLDSVC_API_KEY was made without this right: see --scopes of `holdsvc keys create`")
    if error.retry_after_s is not None:
        words.append(f"try again in {error.retry_after_s:g} s")
    return "\nholdsvc: ".join(words)


def exit_code(error: Exception) -> int:
    """The exit code of a failure, as EXIT_CODES says it."""
    if isinstance(error, OutcomeOpen):
        return OPEN
    if isinstance(error, ServiceAway):
        return AWAY
    if isinstance(error, CallError):
        if error.reason == "INTERNAL":
            return FAILED
        # Without a reason the service has not judged it: no connection, or a deadline that passed.
        return AWAY if error.reason in _AGAIN or not error.reason else REFUSED
    return FAILED
