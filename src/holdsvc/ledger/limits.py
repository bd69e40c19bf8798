"""Limits: how many units a holder or a client may have at once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple, NotRequired, TypedDict

from holdsvc import errors
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, Done, OverLimit, Refused

MICROSECOND = timedelta(microseconds=1)

BUILD_MAX = 500
"""Lines of reservations, or rows to remove, that one step of the work on a limit takes."""


SUBJECTS_MAX = 1000
SUBJECT_AGE = timedelta(hours=1)
"""Holders that one step of their removal looks at, and how long a holder without units stays."""


class Per(IntEnum):
    """Whose units a limit adds up, numbered as in the contract and in the tables."""

    HOLDER = 1
    CLIENT = 2


class Counts(IntEnum):
    """Which units a limit counts, numbered as in the contract and in the tables."""

    HELD = 1
    HELD_AND_CONFIRMED = 2


class LimitState(IntEnum):
    """Whether a limit refuses, numbered as in the contract and in the tables."""

    BUILDING = 1
    ACTIVE = 2


class LimitTerms(NamedTuple):
    """What a caller says of a limit."""

    limit_id: str
    sku_prefix: str
    pool: str | None
    """None: all pools."""
    per: Per
    counts: Counts
    max_quantity: int
    window: timedelta | None
    """How long confirmed units count; None: without end."""


class Limit(NamedTuple):
    """A limit as it is kept."""

    terms: LimitTerms
    state: LimitState
    create_time: datetime
    update_time: datetime


class LimitUsage(NamedTuple):
    """How much of a limit a holder or client has."""

    max_quantity: int
    held: int
    confirmed: int
    reset_time: datetime | None
    """When that becomes less by itself; None: never."""


class Built(NamedTuple):
    """What a step of the work on limits did."""

    busy: bool
    """There may be more to do at once."""
    waiting: bool
    """Something is left that could not be done yet: older transactions are running."""


class Subject(NamedTuple):
    """Whose units of which limit, as the tables name them."""

    limit_number: int
    holder: str
    client: str


FIRST_SUBJECT = Subject(0, "", "")
"""Before all others."""


class _Purged(NamedTuple):
    purged_count: int
    last_limit: int | None
    last_holder: str | None
    last_client: str | None


class LimitTotals(NamedTuple):
    """How many limits all tenants have."""

    active: int
    building: int


class LimitRefusal(TypedDict):
    """What judge_limits says of a refusal: of HOLDER_REQUIRED the limit_id alone."""

    limit_id: str
    max: NotRequired[int]
    used: NotRequired[int]
    requested: NotRequired[int]
    reset_time: NotRequired[str | None]


class _LimitRow(NamedTuple):
    outcome: str | None
    limit_id: str
    sku_prefix: str
    pool: str | None
    per: int
    counts: int
    max_quantity: int
    window_us: int | None
    state: int
    create_time: datetime
    update_time: datetime


class _UsageRow(NamedTuple):
    max_quantity: int | None
    held: int
    confirmed: int
    reset_time: datetime | None


class _Found(NamedTuple):
    found: bool


_SET = bind(
    "set_limit",
    _LimitRow,
    *("tenant", "limit_id", "sku_prefix", "pool", "per", "counts", "max_quantity", "window_us"),
)
_LIST = bind("list_limits", _LimitRow, "tenant", "limit_id", "pools", "after_id", "limit")
_DELETE = bind_scalar("delete_limit", _Found, "tenant", "limit_id")
_USAGE = bind_out("limit_usage", _UsageRow, "tenant", "limit_id", "client", "holder")
_TOTALS = bind_out("limit_totals", LimitTotals)
_PURGE = bind_out("purge_limit_subjects", _Purged, "after_limit", "after_holder", "after_client", "age", "max_count")
_BUILD = bind_out("build_limits", Built, "tenant", "limit_id", "max_count")


async def set_limit(connection: Connection, tenant: str, terms: LimitTerms) -> Answer[Limit]:
    """Creates a limit, or changes the maximum and the window of one; refuses to change anything else."""
    row = await _SET.one(
        connection,
        tenant=tenant,
        limit_id=terms.limit_id,
        sku_prefix=terms.sku_prefix,
        pool=terms.pool,
        per=int(terms.per),
        counts=int(terms.counts),
        max_quantity=terms.max_quantity,
        window_us=None if terms.window is None else terms.window // MICROSECOND,
    )
    if row.outcome is None:
        return Done(_limit(row), replayed=False)
    if row.outcome == "LIMITS_MAX":
        return errors.invalid_field("limit", "there are 100 limits already: delete one that is not needed", row.outcome)
    field = row.outcome.removeprefix("FIXED ")
    why = "cannot be changed: delete the limit, and set another one"
    return errors.invalid_field(f"limit.{field}", why, "FIXED")


async def get(connection: Connection, tenant: str, limit_id: str, pools: Sequence[str] | None = None) -> Limit | None:
    """One limit; None: there is none, or none that concerns some of these pools."""
    found = await _LIST.fetch(connection, tenant=tenant, limit_id=limit_id, pools=_pools(pools), after_id="", limit=1)
    return _limit(found[0]) if found else None


async def list_page(
    connection: Connection, tenant: str, after: str, limit: int, pools: Sequence[str] | None = None
) -> list[Limit]:
    """One page in order of limit_id, after `after`; with `pools` those that concern some of them."""
    rows = await _LIST.fetch(connection, tenant=tenant, limit_id=None, pools=_pools(pools), after_id=after, limit=limit)
    return [_limit(row) for row in rows]


async def delete(connection: Connection, tenant: str, limit_id: str) -> Answer[None]:
    """Deletes a limit."""
    row = await _DELETE.one(connection, tenant=tenant, limit_id=limit_id)
    return Done(None, replayed=False) if row.found else errors.limit_not_found(limit_id)


async def usage(connection: Connection, tenant: str, limit_id: str, client: str, holder: str) -> LimitUsage | None:
    """How much of a limit a holder of a client has, or the client where the limit is one of clients; None: no limit."""
    row = await _USAGE.one(connection, tenant=tenant, limit_id=limit_id, client=client, holder=holder)
    if row.max_quantity is None:
        return None
    return LimitUsage(row.max_quantity, row.held, row.confirmed, row.reset_time)


async def build(connection: Connection, tenant: str | None = None, limit_id: str | None = None) -> Built:
    """A step of the work on new and deleted limits, of all tenants, or on one new limit."""
    return await _BUILD.one(connection, tenant=tenant, limit_id=limit_id, max_count=BUILD_MAX)


async def totals(connection: Connection) -> LimitTotals:
    """How many limits all tenants have."""
    return await _TOTALS.one(connection)


async def purge_subjects(
    connection: Connection, after: Subject, age: timedelta = SUBJECT_AGE, max_count: int = SUBJECTS_MAX
) -> tuple[int, Subject]:
    """Removes holders without units from the next `max_count` behind `after`; returns how many, and where to go on."""
    row = await _PURGE.one(
        connection,
        after_limit=after.limit_number,
        after_holder=after.holder,
        after_client=after.client,
        age=age,
        max_count=max_count,
    )
    if row.last_limit is None:
        return row.purged_count, FIRST_SUBJECT
    return row.purged_count, Subject(row.last_limit, row.last_holder or "", row.last_client or "")


def over_limit(outcome: str, detail: LimitRefusal) -> Refused:
    """The refusal of a request that a limit has no room for, or that names no holder where a limit counts by holder."""
    if outcome == "HOLDER_REQUIRED":
        return errors.holder_required(detail["limit_id"])
    reset_time = detail["reset_time"]
    return errors.limit_exceeded(
        OverLimit(
            detail["limit_id"],
            detail["max"],
            detail["used"],
            detail["requested"],
            None if reset_time is None else datetime.fromisoformat(reset_time),
        )
    )


def _pools(pools: Sequence[str] | None) -> str | None:
    return None if pools is None else arrays.texts(pools)


def _limit(row: _LimitRow) -> Limit:
    terms = LimitTerms(
        row.limit_id,
        row.sku_prefix,
        row.pool,
        Per(row.per),
        Counts(row.counts),
        row.max_quantity,
        None if row.window_us is None else row.window_us * MICROSECOND,
    )
    return Limit(terms, LimitState(row.state), row.create_time, row.update_time)
