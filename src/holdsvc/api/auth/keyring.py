"""API keys: how they look, how they are made, and who calls with one.

A key is `holdsvc_<key_id>_<secret>`: a readable part that finds it and 256 bits of randomness, of which only a SHA-256
is stored (a slow hash guards weak passwords; it would gain nothing here and cost every call). The readable part begins
with the tag of its tenant, which says in which cells it may be.
"""

import asyncio
import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, TypeVar

from holdsvc import errors, outages
from holdsvc.api.cells import Cell, Cells, tag_of
from holdsvc.api_keys import KeyRights
from holdsvc.errors import HoldError
from holdsvc.ledger import keys
from holdsvc.model import Caller, Cause

V = TypeVar("V")

Ask = Callable[[Cell, str], Awaitable[KeyRights | HoldError | None]]
"""Asks a cell for the rights of a key; returns why it did not answer."""

REFRESH_S = 2.0
"""Age of an answer from which on a call starts a new look-up, without waiting for it."""

TRUST_S = 4.0
"""Age of an answer from which on it is not used: in every process a revoked key stops working within this time."""

BAD_S = 30.0
"""How long an invalid key is remembered. It cannot become valid: secrets are random and no revocation is undone."""

UNHEARD_S = 1.0
"""Pause before the next look-up of a key that was not found while a cell did not answer."""

CACHE_MAX = 10_000
"""Valid keys that are remembered, and as many invalid ones."""

LOOK_UP_S = 5.0
"""The longest that a look-up may take, whatever the deadlines of the calls that wait for it."""

UNKNOWN_MAX = 2
"""Unknown keys that each cell is asked for at once, so that guessing keys does not slow down callers who have one."""

UNKNOWN_WAITING_MAX = 500
"""Unknown keys that may wait for their look-up."""

_KEY = re.compile(r"holdsvc_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", re.ASCII)


class NewKey(NamedTuple):
    """A key that was just made: what is stored of it and what its owner gets."""

    key_id: str
    secret: str
    secret_hash: bytes


def make_key(tenant: str) -> NewKey:
    """Makes a key; its secret is nowhere else."""
    key_id = tag_of(tenant) + secrets.token_hex(6)
    secret = f"holdsvc_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(key_id, secret, hash_of(secret))


def hash_of(secret: str) -> bytes:
    """What is stored of a key."""
    return sha256(secret.encode()).digest()


def key_id_of(text: str) -> str:
    """The readable part of a key, or else the text as it is: a leaked key is found as a whole."""
    return text.split("_", 2)[1] if _KEY.fullmatch(text) else text


class _Known(NamedTuple):
    """A good key: who calls with it, when the database was asked and when it ends, both on the monotonic clock."""

    caller: Caller
    asked: float
    ends: float


class Keyring:
    """Finds the caller of a key, in a bounded cache or else in the database.

    Expiry is judged by the database's clock: a look-up brings the time that the key has left, and this process's
    monotonic clock counts it down, so that a key ends on time whatever the machine's wall clock shows.
    """

    def __init__(self, cells: Cells, clock: Callable[[], float] = monotonic) -> None:
        self._cells = cells
        self._clock = clock
        # By the key itself: hashing each call's key would cost more than everything else here. The database look-up
        # compares in constant time; a dict compares whole keys only where their seeded hashes are equal.
        self._good: OrderedDict[str, _Known] = OrderedDict()
        self._bad: OrderedDict[str, float] = OrderedDict()
        self._unheard: OrderedDict[str, float] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Caller | None]] = {}
        self._unknown = {cell.name: asyncio.Semaphore(UNKNOWN_MAX) for cell in cells.all}
        self._unknown_waiting = 0

    async def caller(self, secret: str, deadline: float) -> Caller:
        """Returns who calls with this key; raises UNAUTHENTICATED.

        `deadline` is on the loop's clock. Raises DATABASE_UNAVAILABLE and OVERLOADED when the database must be asked
        and cannot be.
        """
        known = self._good.get(secret)
        now = self._clock()
        if known is not None and now >= known.asked + REFRESH_S:
            # Where its cell does not answer, the others are not asked instead with each of its calls.
            self._cells.of(known.caller.tenant)
        if known is not None and now < known.ends and now < known.asked + TRUST_S:
            if now >= known.asked + REFRESH_S:
                self._look_up(secret)
            return known.caller
        if now < self._unheard.get(secret, -math.inf):
            raise HoldError(outages.database_unavailable())
        caller = None
        if _KEY.fullmatch(secret) and self._bad.get(secret, -math.inf) <= now:
            caller = await self._wait(secret, deadline)
        if caller is None:
            raise HoldError(errors.invalid_key())
        return caller

    async def _wait(self, secret: str, deadline: float) -> Caller | None:
        look_up = self._look_up(secret)
        # Not awaited itself: a call that is cancelled must not take the look-up from the others.
        await asyncio.wait([look_up], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not look_up.done():
            raise HoldError(outages.deadline_passed(safe=True))
        if look_up.cancelled():
            # Passed on to gRPC, a CancelledError would leave the caller without a status.
            raise HoldError(outages.shutting_down())
        return look_up.result()

    def _look_up(self, secret: str) -> asyncio.Task[Caller | None]:
        """Starts a look-up in the database, or joins the one that runs."""
        task = self._looking.get(secret)
        if task is None:
            task = asyncio.ensure_future(self._ask(secret))
            self._looking[secret] = task
            task.add_done_callback(lambda done: self._looked_up(secret, done))
        return task

    def _looked_up(self, secret: str, task: asyncio.Task[Caller | None]) -> None:
        del self._looking[secret]
        if not task.cancelled():
            # Read also where no call waits for it: asyncio would log it as never retrieved.
            task.exception()

    async def _ask(self, secret: str) -> Caller | None:
        if secret in self._good:
            return await self._find(secret, self._ask_cell)
        if self._unknown_waiting >= UNKNOWN_WAITING_MAX:
            raise HoldError(outages.overloaded())
        self._unknown_waiting += 1
        try:
            return await self._find(secret, self._ask_in_turn)
        finally:
            self._unknown_waiting -= 1

    async def _find(self, secret: str, ask: Ask) -> Caller | None:
        key_id, digest = key_id_of(secret), hash_of(secret)
        asked = self._clock()
        try:
            found = await self._rights(key_id, ask)
        except HoldError:
            if self._cells.named:
                _remember(self._unheard, secret, self._clock() + UNHEARD_S)
            raise
        # The same work whether there is such a key or not.
        matches = hmac.compare_digest(digest, found.secret_hash if found else bytes(len(digest)))
        if found is not None and matches and found.away:
            # Its tenant has just moved, or is between two cells: that says nothing against the key.
            await self._cells.read_again()
            found = await self._rights(key_id, ask)
            if found is not None and found.away:
                raise HoldError(outages.tenant_moved())
        if found is None or not matches or found.lives_s <= 0:
            self._good.pop(secret, None)
            _remember(self._bad, secret, self._clock() + BAD_S)
            return None
        caller = Caller(found.tenant, found.client, key_id, frozenset(found.scopes), frozenset(found.pools))
        known = self._good.get(secret)
        if known is not None and known.caller == caller:
            caller = known.caller
        _remember(self._good, secret, _Known(caller, asked, asked + found.lives_s))
        return caller

    async def _rights(self, key_id: str, ask: Ask) -> KeyRights | None:
        """What a key may do; `away`: as a cell has it in which its tenant does not live.

        None: every cell has answered, and none of them has it. Raises why one did not answer.
        """
        missing: HoldError | None = None
        elsewhere: KeyRights | None = None
        for cells in self._cells.for_key(key_id):
            for cell, answer in zip(cells, await asyncio.gather(*(ask(cell, key_id) for cell in cells)), strict=True):
                if isinstance(answer, HoldError):
                    missing = answer
                elif answer is not None and not answer.away and self._cells.is_home(answer.tenant, cell):
                    self._cells.note(answer.tenant, cell)
                    return answer
                elif answer is not None:
                    # It may have stayed behind, and would not be revoked with the tenant's.
                    elsewhere = answer._replace(away=True)
        if missing is not None:
            raise missing
        return elsewhere

    async def _ask_in_turn(self, cell: Cell, key_id: str) -> KeyRights | HoldError | None:
        async with self._unknown[cell.name]:
            return await self._ask_cell(cell, key_id)

    async def _ask_cell(self, cell: Cell, key_id: str) -> KeyRights | HoldError | None:
        if cell.name and cell.away:
            return HoldError(outages.database_unavailable())
        deadline = asyncio.get_running_loop().time() + LOOK_UP_S
        try:
            return await cell.engine.look_up(lambda connection: keys.find(connection, key_id), deadline)
        except HoldError as error:
            # The time of the look-up was over, not that of the call.
            late = error.refused.metadata.get("cause") == Cause.DEADLINE_EXCEEDED
            return HoldError(outages.database_unavailable()) if late else error


def _remember(cache: OrderedDict[str, V], secret: str, value: V) -> None:
    cache[secret] = value
    cache.move_to_end(secret)
    if len(cache) > CACHE_MAX:
        cache.popitem(last=False)
