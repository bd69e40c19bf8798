"""Who calls: the key in a call's metadata."""

from collections.abc import Awaitable, Callable, Iterable

from holdsvc import errors
from holdsvc.api.auth.keyring import Keyring
from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.errors import HoldError
from holdsvc.model import Caller

Metadata = Iterable[tuple[str, str | bytes]]

Authenticate = Callable[[Metadata, float], Awaitable[Caller]]
"""Finds the caller by the call's metadata, until a deadline on the loop's clock; raises UNAUTHENTICATED."""

CREDENTIAL_CHARS_MAX = 512
"""Longer credentials are not keys of this service."""


def authenticator(keyring: Keyring) -> Authenticate:
    """Finds the caller by the key in `x-api-key` or `authorization: Bearer`."""

    def authenticate(metadata: Metadata, deadline: float) -> Awaitable[Caller]:
        return keyring.caller(key_of(metadata), deadline)

    return authenticate


def open_to_all() -> Authenticate:
    """AUTH=off: every call is of the client `dev` of the tenant `default`, with all scopes."""
    caller = Caller("default", "dev", "", frozenset(ALL_SCOPES))

    async def authenticate(_metadata: Metadata, _deadline: float) -> Caller:
        return caller

    return authenticate


def key_of(metadata: Metadata) -> str:
    """The one key of a call.

    `x-api-key` takes precedence over `authorization`, which a gateway may need for itself. A header that occurs twice
    is refused: a gateway and this service could each read another one.
    """
    key: str | bytes | None = None
    authorization: str | bytes | None = None
    for name, value in metadata:
        if name == "x-api-key":
            if key is not None:
                raise HoldError(errors.unauthenticated("several x-api-key headers"))
            key = value
        elif name == "authorization":
            if authorization is not None:
                raise HoldError(errors.unauthenticated("several authorization headers"))
            authorization = value
    if key is None:
        if authorization is None:
            raise HoldError(errors.unauthenticated("no API key"))
        scheme, _, key = _text(authorization).partition(" ")
        if scheme.lower() != "bearer":
            raise HoldError(errors.unauthenticated("the authorization header is not of the Bearer scheme"))
    return _text(key).strip(" ")


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes) or len(value) > CREDENTIAL_CHARS_MAX or not value.isascii():
        raise HoldError(errors.unauthenticated("the API key is not text of this service's form"))
    return value
