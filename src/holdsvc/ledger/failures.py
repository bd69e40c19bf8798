"""What becomes of a change when the database fails: it did not run, it may have run, or it is to be done again."""

import psycopg

from holdsvc.ledger.tenants import Moved
from holdsvc.model import Cause

_CAUSES = {
    "57014": Cause.STATEMENT_TIMEOUT,
    "55P03": Cause.LOCK_WAIT,
    "25006": Cause.DATABASE_REFUSED,  # read only: a standby, or a primary that was replaced
    "53": Cause.DATABASE_REFUSED,  # disk full, out of memory, too many connections
}
"""By SQLSTATE or class of SQLSTATEs: errors that say nothing about the request, and after which nothing took effect."""

_CONFLICTS = ("40001", "40P01")

_DYING = ("08", "57P")
"""SQLSTATEs of a server or connection that ends: the transaction may have been committed before."""


class NothingRan(Exception):
    """The database refused or could not be reached before anything could take effect."""

    def __init__(self, cause: Cause = Cause.DATABASE_AWAY) -> None:
        super().__init__(cause)
        self.cause = cause


class Unknown(Exception):
    """The connection or the server failed during a change: it took effect or it did not."""

    cause = Cause.DATABASE_AWAY


class Unreplicated(Unknown):
    """The wait of a commit for a standby was cancelled: it stands on this server alone, and may be lost with it."""

    cause = Cause.STANDBY_AWAY


class Conflict(Exception):
    """The database undid the change in favour of another one (deadlock, serialization): do it again."""


class Failed(Exception):
    """The database refused the statement, through a fault of ours or of one request; nothing of it took effect."""


def failure_of(error: psycopg.Error, *, closed: bool) -> Exception:
    """What an error of the driver means for the change."""
    state = error.sqlstate or ""
    if state in _CONFLICTS and not closed:
        return Conflict()
    if closed or state.startswith(_DYING):
        return Unknown()
    if state == Moved.SQLSTATE:
        return Moved.told(error.diag.message_detail)
    cause = _CAUSES.get(state) or _CAUSES.get(state[:2])
    return Failed(str(error)) if cause is None else NothingRan(cause)
