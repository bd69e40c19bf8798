"""Refusals in which the request has no part: load, an outage, a stop, another history, a fault of the service."""

import secrets

import structlog

from holdsvc.model import Cause, Refused

log = structlog.get_logger(__name__)


def rate_limited(limit: str, retry_after_s: float) -> Refused:
    """Says which limit the caller has reached and when to come back."""
    return Refused(
        "RATE_LIMITED", f"limit reached: {limit}; try again later", {"limit": limit}, retry_after_s=retry_after_s
    )


_OVERLOADED = {
    Cause.QUEUE_FULL: "too much work is waiting",
    Cause.POOL_EXHAUSTED: "every connection to the database is in use",
    Cause.STATEMENT_TIMEOUT: "the database needed more time than one statement gets; ask for less at once",
    Cause.LOCK_WAIT: "another transaction keeps a row locked",
    Cause.CONFLICT: "other changes of the same rows came first each time",
    Cause.STREAMS_MAX: "this server has as many streams open as it serves",
    Cause.BODIES_MAX: "many requests of this client have begun and do not get complete",
}


def overloaded(cause: Cause = Cause.QUEUE_FULL) -> Refused:
    """Says that the service could not do this in time, and why; nothing ran."""
    message = f"{_OVERLOADED[cause]}; nothing ran, try again later"
    return Refused("OVERLOADED", message, {"cause": cause.value}, retry_after_s=0.5)


def nothing_ran(cause: Cause) -> Refused:
    """Says why the database did nothing of a request: an outage, or something that concerns this request alone."""
    if cause is Cause.DATABASE_SPLIT:
        return database_split()
    return overloaded(cause) if cause in _OVERLOADED else database_unavailable(cause)


def resume_token_expired() -> Refused:
    """Says that events after the stream's place are no longer kept."""
    return Refused(
        "RESUME_TOKEN_EXPIRED",
        "events after this resume_token are no longer kept: read the present state, then start with from_oldest"
        " or from now",
    )


def resume_token_foreign() -> Refused:
    """Says that a token was not made for this tenant by this database."""
    return Refused(
        "RESUME_TOKEN_FOREIGN",
        "the resume_token is not of this tenant and this database (a restored one counts as another), or a failover"
        " lost what was told before it: read the present state, then start with from_oldest or from now",
    )


_UNAVAILABLE = {
    Cause.DATABASE_REFUSED: "the database takes no changes now; try again",
    Cause.DEADLINE_EXCEEDED: "the call's time was over before the database answered; a retry is safe",
    Cause.PRIMARY_REFUSED: "the only database that answers is not the primary; try again",
}


def database_unavailable(cause: Cause = Cause.DATABASE_AWAY) -> Refused:
    """Says that the database does not answer and that a retry is safe."""
    message = _UNAVAILABLE.get(cause, "the database does not answer; try again")
    return Refused("DATABASE_UNAVAILABLE", message, {"cause": cause.value}, retry_after_s=1.0)


def tenant_moved() -> Refused:
    """Says that the tenant is on its way to another database, or has just gone there; nothing ran."""
    return Refused("TENANT_MOVED", "the tenant is moving to another database; try again", retry_after_s=1.0)


def database_split() -> Refused:
    """Says that two databases say that they are the primary, so that no change is made; nothing ran."""
    return Refused(
        "DATABASE_SPLIT",
        "two databases say that they are the primary: no change is made until an operator has stopped one",
        retry_after_s=5.0,
    )


def shutting_down() -> Refused:
    """Says that this server is stopping; nothing ran."""
    return Refused("SHUTTING_DOWN", "this server is stopping; try again, another one answers", retry_after_s=0.5)


def deadline_passed(*, safe: bool) -> Refused:
    """Says that the call's time was over before its answer; `safe`: nothing ran, or a retry is safe."""
    cause = Cause.DEADLINE_EXCEEDED
    return database_unavailable(cause) if safe else outcome_unknown(cause)


_UNKNOWN = {
    Cause.DEADLINE_EXCEEDED: "the call's time was over before the database answered",
    Cause.STANDBY_AWAY: "the commit stands on the primary alone, because its wait for a standby was cancelled",
}


def outcome_unknown(cause: Cause = Cause.DATABASE_AWAY) -> Refused:
    """Says that the call may have taken effect or not."""
    why = _UNKNOWN.get(cause, "the connection to the database broke around the commit")
    return Refused(
        "OUTCOME_UNKNOWN",
        f"{why}; look whether the call took effect before you call again, and send a request_id next time",
        {"cause": cause.value},
    )


def internal(error: BaseException, **where: str) -> Refused:
    """Says that the service is at fault; the log tells more under the incident's id, with `where` it happened."""
    incident_id = secrets.token_hex(8)
    log.error("call.failed", incident_id=incident_id, exc_info=error, **where)
    return Refused("INTERNAL", f"internal error, incident {incident_id}", {"incident_id": incident_id})
