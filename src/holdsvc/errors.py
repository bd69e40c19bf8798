"""The catalogue of refusals: one function for each, with its reason, its message and its metadata.

A function returns a `Refused`; code that cannot return it raises it in a `HoldError`. Which gRPC code a reason has is
known to the api alone.
"""

from collections.abc import Sequence
from datetime import UTC
from typing import TypeVar

from holdsvc.model import Answer, Done, OverLimit, Refused, ShortLine, Violation

V = TypeVar("V")


class HoldError(Exception):
    """Raises a refusal from where it cannot be returned."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused

    @property
    def reason(self) -> str:
        """The reason of the refusal."""
        return self.refused.reason


def unwrap(answer: Answer[V]) -> Done[V]:
    """What came of a request; raises a refusal."""
    if isinstance(answer, Refused):
        raise HoldError(answer)
    return answer


def invalid_fields(violations: Sequence[Violation], omitted: int = 0) -> Refused:
    """Says which fields are bad, all of them at once; `omitted` counts further ones."""
    fields = ", ".join(dict.fromkeys(violation.field for violation in violations))
    return Refused(
        "INVALID_FIELD",
        f"invalid: {fields}; see the details",
        {"fields": fields},
        violations=violations,
        omitted=omitted,
    )


def invalid_field(field: str, description: str, rule: str) -> Refused:
    """Says that one field is bad."""
    return invalid_fields([Violation(field, description, rule)])


def effective_time_ahead() -> Refused:
    """Says that goods cannot have come or left in the future."""
    return invalid_field("effective_time", "must not be in the future", "EFFECTIVE_TIME")


def capacity_limit(field: str) -> Refused:
    """Says that an item would have more units than can be counted."""
    return invalid_field(field, "the capacity would exceed 10^15 units", "CAPACITY_LIMIT")


def returns_to_itself(field: str) -> Refused:
    """Says that an allotment would return to its own pool."""
    return invalid_field(field, "must be another pool than the item's", "RETURN_POOL")


def capacity_exceeded(shortfall: Sequence[ShortLine]) -> Refused:
    """Says which lines are short and by how much."""
    first = shortfall[0]
    more = f" and {len(shortfall) - 1} more" if len(shortfall) > 1 else ""
    return Refused(
        "CAPACITY_EXCEEDED",
        f"not enough units: {first.requested} of {_item(first.sku, first.pool)} requested, "
        f"{first.available} available{more}",
        {
            "sku": first.sku,
            "pool": first.pool,
            "requested": str(first.requested),
            "available": str(first.available),
            "short_lines": str(len(shortfall)),
        },
        shortfall=shortfall,
    )


def limit_exceeded(over: OverLimit) -> Refused:
    """Says which limit has no room, and when it would have."""
    words = {name: str(getattr(over, name)) for name in ("limit_id", "max", "used", "requested")}
    until = ""
    if over.reset_time is not None:
        words["reset_time"] = over.reset_time.astimezone(UTC).isoformat()
        until = f"; room again at {words['reset_time']}"
    return Refused(
        "LIMIT_EXCEEDED",
        f"limit {over.limit_id!r} allows {over.max} units: {over.used} are used, {over.requested} requested{until}",
        words,
        over_limit=over,
    )


def limit_not_found(limit_id: str) -> Refused:
    """Says which limit does not exist."""
    return Refused("LIMIT_NOT_FOUND", f"no limit {limit_id!r}", {"limit_id": limit_id})


def holder_required(limit_id: str) -> Refused:
    """Says which limit counts by holder, where none is named."""
    return invalid_field(
        "holder", f"is required: the limit {limit_id!r} counts the units of a holder", "HOLDER_REQUIRED"
    )


def item_not_found(sku: str, pool: str) -> Refused:
    """Says which item does not exist."""
    return Refused("ITEM_NOT_FOUND", f"no item {_item(sku, pool)}", {"sku": sku, "pool": pool})


def sale_closed(sku: str, pool: str) -> Refused:
    """Says which item takes no new holds."""
    return Refused("SALE_CLOSED", f"the sale of {_item(sku, pool)} is closed", {"sku": sku, "pool": pool})


def item_already_exists(sku: str, pool: str) -> Refused:
    """Says which item there is already."""
    return Refused("ITEM_ALREADY_EXISTS", f"item {_item(sku, pool)} exists already", {"sku": sku, "pool": pool})


def capacity_in_use(sku: str, pool: str, requested: int, available: int) -> Refused:
    """Says how many units a change of capacity wanted and how many are free."""
    return Refused(
        "CAPACITY_IN_USE",
        f"{requested} units of {_item(sku, pool)} would have to be free, {available} are: "
        "the others are held or confirmed",
        {"sku": sku, "pool": pool, "requested": str(requested), "available": str(available)},
    )


def revision_mismatch(sku: str, pool: str, revision: int) -> Refused:
    """Says which revision the item has by now."""
    return Refused(
        "REVISION_MISMATCH",
        f"item {_item(sku, pool)} has revision {revision} by now; read it again",
        {"sku": sku, "pool": pool, "revision": str(revision)},
    )


def reservation_revision_mismatch(reservation_id: str, revision: int) -> Refused:
    """Says which revision the reservation has by now."""
    return Refused(
        "REVISION_MISMATCH",
        f"reservation {reservation_id} has revision {revision} by now; read it again",
        {"reservation_id": reservation_id, "revision": str(revision)},
    )


def feature_not_active(feature: str) -> Refused:
    """Says which feature is not turned on."""
    return Refused("FEATURE_NOT_ACTIVE", f"the feature {feature!r} is not active here yet", {"feature": feature})


def reservation_not_found(reservation_id: str | None, reference: str | None) -> Refused:
    """Says which reservation does not exist."""
    if reference is not None:
        return Refused(
            "RESERVATION_NOT_FOUND", f"no reservation with reference {reference!r}", {"reference": reference}
        )
    return Refused(
        "RESERVATION_NOT_FOUND", f"no reservation {reservation_id}", {"reservation_id": reservation_id or ""}
    )


def reservation_removed(reservation_id: str) -> Refused:
    """Says that the reservation which an earlier call with this request_id made has been removed since."""
    return Refused(
        "RESERVATION_NOT_FOUND",
        f"an earlier call with this request_id made reservation {reservation_id}, which has ended and been removed",
        {"reservation_id": reservation_id},
    )


def reference_ambiguous(reference: str) -> Refused:
    """Says that several reservations have the reference."""
    return Refused(
        "REFERENCE_AMBIGUOUS",
        f"several reservations have the reference {reference!r}; name one by reservation_id",
        {"reference": reference},
    )


_STATE_MESSAGES = {
    "RESERVATION_EXPIRED": "reservation {} has expired and its units are free again; reserve again",
    "RESERVATION_ALREADY_CONFIRMED": "reservation {} is confirmed already",
    "RESERVATION_ALREADY_CANCELLED": "reservation {} is cancelled already",
    "ALREADY_FULFILLED": "every confirmed unit of reservation {} is fulfilled or refunded already",
    "ALREADY_REFUNDED": "every confirmed unit of reservation {} is refunded already",
    "RESERVATION_NOT_CONFIRMED": "reservation {} is not confirmed",
}


def wrong_state(reason: str, reservation_id: str, state: str, order_id: str) -> Refused:
    """Says why the reservation's state does not allow the change."""
    metadata = {"reservation_id": reservation_id, "state": state}
    if order_id:
        metadata["order_id"] = order_id
    return Refused(reason, _STATE_MESSAGES[reason].format(reservation_id), metadata)


def quantity_exceeded(sku: str, pool: str, requested: int, available: int) -> Refused:
    """Says of which line a partial confirm or refund wanted more than there is."""
    return Refused(
        "QUANTITY_EXCEEDED",
        f"{requested} of {_item(sku, pool)} requested, the reservation has {available}",
        {"sku": sku, "pool": pool, "requested": str(requested), "available": str(available)},
    )


def order_id_in_use(order_id: str, reservation_id: str | None) -> Refused:
    """Says to which reservation the order belongs; None: one that the caller may not see."""
    if reservation_id is None:
        return Refused("ORDER_ID_IN_USE", f"order {order_id!r} belongs to another reservation", {"order_id": order_id})
    return Refused(
        "ORDER_ID_IN_USE",
        f"order {order_id!r} belongs to reservation {reservation_id}",
        {"order_id": order_id, "reservation_id": reservation_id},
    )


def duplicate_reservation(reservation_id: str | None) -> Refused:
    """Says which reservation of the holder is the reason; None: one that the caller may not see."""
    if reservation_id is None:
        return Refused("DUPLICATE_RESERVATION", "the holder has a reservation on one of these items already")
    return Refused(
        "DUPLICATE_RESERVATION",
        f"the holder has reservation {reservation_id} on one of these items already",
        {"reservation_id": reservation_id},
    )


def duplicate_unseen() -> Refused:
    """Says that a duplicate cannot be ruled out."""
    return Refused(
        "DUPLICATE_RESERVATION",
        "the holder has so many reservations within duplicate_window that not all of them are looked at;"
        " the newest 1,000 lines of each state have none of these items",
    )


def waitlist_closed(sku: str, pool: str) -> Refused:
    """Says which item has no waitlist."""
    return Refused("WAITLIST_CLOSED", f"{_item(sku, pool)} has no waitlist", {"sku": sku, "pool": pool})


def waitlist_entry_not_found(entry_id: str) -> Refused:
    """Says which entry does not exist."""
    return Refused("WAITLIST_ENTRY_NOT_FOUND", f"no waitlist entry {entry_id}", {"entry_id": entry_id})


def already_waiting(entry_id: str | None) -> Refused:
    """Says which entry of the holder is the reason; None: one that the caller may not see."""
    if entry_id is None:
        return Refused("ALREADY_WAITING", "the holder waits for one of these items already")
    return Refused(
        "ALREADY_WAITING",
        f"the holder waits for one of these items already, as entry {entry_id}",
        {"entry_id": entry_id},
    )


def request_id_reused(request_id: str) -> Refused:
    """Says that a request_id was used for something else."""
    return Refused(
        "REQUEST_ID_REUSED",
        f"request_id {request_id!r} was used for another call or other content; make a new one",
        {"request_id": request_id},
    )


def unauthenticated(why: str) -> Refused:
    """Says what is wrong with the caller's key."""
    return Refused("UNAUTHENTICATED", f"{why}; send `authorization: Bearer <key>` or `x-api-key: <key>`")


def permission_denied(scope: str) -> Refused:
    """Says which scope the key lacks."""
    return Refused("PERMISSION_DENIED", f"the API key lacks the scope {scope}", {"required_scope": scope})


def invalid_key() -> Refused:
    """Says that the key does not work: it is unknown, expired or revoked, and callers do not learn which."""
    return unauthenticated("the API key is not valid")


def pool_denied(pool: str) -> Refused:
    """Says which pool the key lacks that it wanted to give to another."""
    return Refused("PERMISSION_DENIED", f"the API key lacks the pool {pool!r}", {"required_pool": pool})


def api_key_not_found(key_id: str) -> Refused:
    """Says which key does not exist."""
    return Refused("API_KEY_NOT_FOUND", f"no API key {key_id}", {"key_id": key_id})


def webhook_not_found(webhook_id: str) -> Refused:
    """Says which webhook does not exist."""
    return Refused("WEBHOOK_NOT_FOUND", f"no webhook {webhook_id}", {"webhook_id": webhook_id})


def too_many_webhooks(most: int) -> Refused:
    """Says how many webhooks a tenant may have."""
    return Refused("TOO_MANY_WEBHOOKS", f"the tenant has {most} webhooks, as many as it may", {"max": str(most)})


def _item(sku: str, pool: str) -> str:
    return f"{sku!r} in pool {pool!r}" if pool else repr(sku)
