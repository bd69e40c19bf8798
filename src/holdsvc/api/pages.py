"""Pages of lists: their tokens, and as many rows as an answer can carry."""

import json
import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from time import monotonic
from typing import TypeVar

from google.protobuf.message import Message

from holdsvc.api import validation
from holdsvc.api.calls import Call
from holdsvc.api.tokens import seal, unseal
from holdsvc.api.turns import Turns
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.model import Part, Violation
from inventoryhold.v1 import (
    admin_service_pb2,
    inventory_service_pb2,
    limit_service_pb2,
    reservation_service_pb2,
    waitlist_service_pb2,
    webhook_service_pb2,
)

Listed = (
    reservation_service_pb2.ListReservationsRequest
    | reservation_service_pb2.ListReservationEventsRequest
    | inventory_service_pb2.ListItemsRequest
    | limit_service_pb2.ListLimitsRequest
    | waitlist_service_pb2.ListWaitlistEntriesRequest
    | admin_service_pb2.ListApiKeysRequest
    | webhook_service_pb2.ListWebhooksRequest
)

R = TypeVar("R")
M = TypeVar("M", bound=Message)

Position = list[str]
"""Where a page begins: after the row with this key."""

PAGE_BYTES_MAX = 3 * 1024 * 1024
"""Bytes from which on a page ends. gRPC's clients take 4 MiB, and no row is larger than a third of one."""

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000

ROWS_FIRST = 50
READ_BYTES = 512 * 1024
"""Rows of a page's first read, and how many bytes the later ones are made to bring."""

READS_CUT_MAX = 5
"""Reads of a page that looked at as many rows as they may, before the page ends: most rows do not match its filters."""

KEY_TRUST_S = 60.0
KEY_RETRY_S = 1.0
"""Age from which on the key of the tokens is read again, and the same for a token that does not fit it."""

_VERSION = 1
_NOT_FILTERS = ("page_size", "page_token", "include_total")

TOKEN_CHARS_MAX = 2048
"""As in the protos."""


class Pages:
    """Reads and writes page tokens. Construct it on the loop that will serve.

    A token is bound to the rpc, its filters and the tenant.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._keys: dict[str, tuple[float, str]] = {}
        """The key of each cell, and when it was read."""

    async def begin(self, request: Listed, call: Call) -> "Page":
        """Checks a request and its token; returns the page that it asks for. Raises INVALID_FIELD."""
        start, violation = await self._position(request, call)
        validation.check(request, violation)
        return Page(self, request, call, start)

    async def _position(self, request: Listed, call: Call) -> tuple[Position | None, Violation | None]:
        """The position of the request's token, None without one, and what is wrong with it."""
        token = request.page_token
        if not token:
            return None, None
        data = None
        if len(token) <= TOKEN_CHARS_MAX:
            context = _context(call.caller.tenant, request)
            data = unseal(await self._token_key(call, KEY_TRUST_S), "page", context, token)
            if data is None:
                # It may have been signed with a newer key.
                data = unseal(await self._token_key(call, KEY_RETRY_S), "page", context, token)
        version, *position = json.loads(data) if data else (0,)
        if version != _VERSION:
            return None, Violation(
                "page_token",
                "does not belong to this call with these filters: send those of the page before, or start without one",
                "PAGE_TOKEN",
            )
        return position, None

    async def token(self, request: Listed, position: Position, call: Call) -> str:
        """The token of the page after a position."""
        # As UTF-8: escaped, 128 characters outside the Basic Multilingual Plane would be 1,536 bytes.
        data = json.dumps([_VERSION, *position], separators=(",", ":"), ensure_ascii=False).encode()
        key = await self._token_key(call, KEY_TRUST_S)
        return seal(key, "page", _context(call.caller.tenant, request), data)

    async def _token_key(self, call: Call, age_max_s: float) -> str:
        read_at, key = self._keys.get(call.cell.name, (-math.inf, ""))
        if monotonic() >= read_at + age_max_s:
            key = (await call.cell.engine.look_up(feed.identity, call.deadline)).token_key
            self._keys[call.cell.name] = monotonic(), key
        return key


class Page:
    """The part of a list that a request asks for, after the position of its token."""

    def __init__(self, pages: Pages, request: Listed, call: Call, start: Position | None) -> None:
        self._pages = pages
        self._request = request
        self._call = call
        self._start = start

    async def fill(
        self,
        append: Callable[[M], None],
        read: Callable[[Connection, Position | None, int], Awaitable[Part[R]]],
        make: Callable[[R], M | None],
        position: Callable[[R], Position],
    ) -> str:
        """Fills the page; returns the token of the next page, or an empty text after the last one.

        `read` returns the rows after a position, at most so many; `make` makes a row's message, None: it is left out;
        `append` adds that to the answer.
        """
        call, after, cut = self._call, self._start, 0
        left, room, count = page_size(self._request.page_size), PAGE_BYTES_MAX, ROWS_FIRST
        while True:
            count = min(count, left)
            rows, looked_to = await call.cell.engine.read(
                call.caller.tenant, partial(_read, read, after, count + 1), call.deadline
            )
            added, used = await self._pages.turns.run(_add(rows[:count], make, append, room))
            if added < len(rows):
                after = position(rows[added - 1])
            elif looked_to is None:
                return ""
            else:
                after, cut = looked_to, cut + 1
            left, room = left - added, room - used
            if left == 0 or room <= 0 or cut == READS_CUT_MAX:
                return await self._pages.token(self._request, after, call)
            if added:
                count = max(1, min(PAGE_SIZE_MAX, READ_BYTES * added // max(1, used)))


async def whole(rows: Awaitable[Sequence[R]]) -> Part[R]:
    """Rows of a list whose statement looks at all that it has to."""
    return Part(await rows, None)


async def _read(
    read: Callable[[Connection, Position | None, int], Awaitable[Part[R]]],
    after: Position | None,
    limit: int,
    connection: Connection,
) -> Part[R]:
    return await read(connection, after, limit)


def _add(
    rows: Sequence[R], make: Callable[[R], M | None], append: Callable[[M], None], room: int
) -> Generator[None, None, tuple[int, int]]:
    """Adds rows until `room` bytes are used; returns how many, and their bytes."""
    used = 0
    for number, row in enumerate(rows, 1):
        message = make(row)
        if message is not None:
            append(message)
            used += message.ByteSize()
        if used >= room:
            return number, used
        yield
    return len(rows), used


def _context(tenant: str, request: Message) -> bytes:
    filters = type(request)()
    filters.CopyFrom(request)
    for name in _NOT_FILTERS:
        if name in filters.DESCRIPTOR.fields_by_name:
            filters.ClearField(name)
    return f"{filters.DESCRIPTOR.full_name}\0{tenant}\0".encode() + filters.SerializeToString(deterministic=True)


def page_size(requested: int) -> int:
    """Rows of a page: 0 reads as 50, above 1,000 as 1,000."""
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
