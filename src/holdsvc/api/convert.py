"""From plain values to messages."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from holdsvc import model
from holdsvc.api_keys import ApiKey
from holdsvc.entries import WaitlistEntry
from holdsvc.ledger.availability import Explanation
from holdsvc.ledger.limits import Limit
from holdsvc.ledger.watched import Watched
from holdsvc.ledger.webhooks import Webhook
from holdsvc.streams.subscriptions import Update
from inventoryhold.v1 import (
    admin_service_pb2,
    event_pb2,
    event_service_pb2,
    inventory_service_pb2,
    item_pb2,
    limit_service_pb2,
    reservation_pb2,
    waitlist_pb2,
    webhook_service_pb2,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def set_time(timestamp: Timestamp, time: datetime) -> None:
    """Sets a timestamp, to the microsecond."""
    timestamp.CopyFrom(_timestamp(time))


def time_of(message: Message, field: str) -> datetime | None:
    """The time in a field, to the microsecond; None where it is not set."""
    time: Timestamp = getattr(message, field)
    return time.ToDatetime(UTC) if message.HasField(field) else None


# The holds of a batch share the time of its judgement and, where they last equally long, the time of their end.
@lru_cache(maxsize=256)
def _timestamp(time: datetime) -> Timestamp:
    seconds, rest = divmod(time - _EPOCH, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1000)


def set_reservation(message: reservation_pb2.Reservation, r: model.Reservation) -> None:
    """Fills a Reservation. Unset strings stay unset: assigning costs more than looking."""
    message.reservation_id = r.reservation_id
    message.client = r.client
    message.state = int(r.state)  # type: ignore[assignment]
    message.revision = r.revision
    if r.entry_id:
        message.waitlist_entry_id = r.entry_id
    for sku, pool, quantity, confirmed_quantity, refunded_quantity, fulfilled_quantity, returned_quantity in r.lines:
        line = message.lines.add()
        line.sku = sku
        if pool:
            line.pool = pool
        line.quantity = quantity
        if confirmed_quantity:
            line.confirmed_quantity = confirmed_quantity
            line.refunded_quantity = refunded_quantity
            line.fulfilled_quantity = fulfilled_quantity
            line.returned_quantity = returned_quantity
    set_time(message.create_time, r.create_time)
    set_time(message.expire_time, r.expire_time)
    if r.holder:
        message.holder = r.holder
    if r.reference:
        message.reference = r.reference
    if r.metadata:
        message.metadata.update(r.metadata)
    if r.order_id:
        message.order_id = r.order_id
    if r.customer_name or r.customer_email:
        message.customer.name = r.customer_name or ""
        message.customer.email = r.customer_email or ""
    if r.state is not model.State.HELD:
        _set_times(message, r)
    if r.reason:
        message.reason = r.reason


def _set_times(message: reservation_pb2.Reservation, r: model.Reservation) -> None:
    """The times of changes that a hold has not seen."""
    if r.confirm_time is not None:
        set_time(message.confirm_time, r.confirm_time)
    if r.cancel_time is not None:
        set_time(message.cancel_time, r.cancel_time)
    if r.refund_time is not None:
        set_time(message.refund_time, r.refund_time)
    if r.fulfil_time is not None:
        set_time(message.fulfil_time, r.fulfil_time)


def set_entry(message: waitlist_pb2.WaitlistEntry, e: WaitlistEntry) -> None:
    """Fills a WaitlistEntry."""
    message.entry_id = e.entry_id
    message.client = e.client
    message.holder = e.holder
    message.reference = e.reference
    message.state = int(e.state)  # type: ignore[assignment]
    message.position = e.position
    message.reservation_id = e.reservation_id
    message.lines.extend(_quantity(line) for line in e.lines)
    message.priority = e.priority
    message.offer_ttl.CopyFrom(Duration(seconds=e.offer_ttl_us // 1_000_000, nanos=e.offer_ttl_us % 1_000_000 * 1000))
    message.metadata.update(e.metadata)
    set_time(message.create_time, e.create_time)
    if e.expire_time is not None:
        set_time(message.expire_time, e.expire_time)
    if e.offer_time is not None:
        set_time(message.offer_time, e.offer_time)
    if e.end_time is not None:
        set_time(message.end_time, e.end_time)
    message.pass_reason = int(e.pass_reason)  # type: ignore[assignment]
    message.reason = e.reason
    message.revision = e.revision


def item(i: model.Item) -> item_pb2.Item:
    """An Item."""
    message = item_pb2.Item(
        sku=i.sku,
        pool=i.pool,
        display_name=i.display_name,
        capacity=i.capacity,
        remaining=i.remaining,
        held=i.held,
        confirmed=i.confirmed,
        oversell_limit=i.oversell_limit,
        revision=i.revision,
        sale_state=int(i.sale_state),  # type: ignore[arg-type]
        buffer=i.buffer,
        low_at=i.low_at,
        return_pool=i.return_pool,
        waitlist_policy=int(i.waitlist_policy),  # type: ignore[arg-type]
        waiting=i.waiting,
    )
    if i.return_time is not None:
        set_time(message.return_time, i.return_time)
    if i.create_time is not None:
        set_time(message.create_time, i.create_time)
    set_time(message.update_time, i.update_time)
    if i.count_time is not None:
        set_time(message.count_time, i.count_time)
    return message


def wanted_item(wanted: item_pb2.Item) -> model.Item:
    """The item that a request describes: what callers set of it."""
    return model.Item(
        sku=wanted.sku,
        pool=wanted.pool,
        display_name=wanted.display_name,
        capacity=wanted.capacity,
        remaining=0,
        held=0,
        confirmed=0,
        oversell_limit=wanted.oversell_limit,
        revision=0,
        create_time=None,
        update_time=_EPOCH,
        sale_state=model.SaleState(wanted.sale_state or model.SaleState.OPEN),
        buffer=wanted.buffer,
        low_at=wanted.low_at if wanted.HasField("low_at") else None,
        return_pool=wanted.return_pool if wanted.HasField("return_pool") else None,
        return_time=time_of(wanted, "return_time"),
        waitlist_policy=model.WaitlistPolicy(wanted.waitlist_policy or model.WaitlistPolicy.OFF),
    )


def explanation(e: Explanation) -> inventory_service_pb2.ExplainAvailabilityResponse:
    """An answer of ExplainAvailability."""
    message = inventory_service_pb2.ExplainAvailabilityResponse(
        available=e.available,
        remaining=e.remaining,
        oversell=e.oversell,
        buffer=e.buffer,
        lapsed=e.lapsed,
        sale_state=int(e.sale_state),  # type: ignore[arg-type]
        waiters=e.waiters,
        held_later=e.held_later,
    )
    for time, quantity in e.held:
        set_time(message.held.add(quantity=quantity).time, time)
    for reservation_id, reference, quantity, expire_time in e.own_holds:
        own = message.own_holds.add(reservation_id=reservation_id, reference=reference, quantity=quantity)
        set_time(own.expire_time, expire_time)
    set_time(message.read_time, e.read_time)
    return message


def event(e: model.Event) -> event_pb2.Event:
    """An Event, without any customer."""
    message = event_pb2.Event(
        event_id=e.event_id,
        type=int(e.type),  # type: ignore[arg-type]
        lines=[_quantity(line) for line in e.lines],
        client=e.client,
        key_id=e.key_id,
        request_id=e.request_id,
        reason=e.reason,
        written_off_lines=[_quantity(line) for line in e.written_off_lines],
        returned_lines=[_quantity(line) for line in e.returned_lines],
    )
    set_time(message.occur_time, e.occur_time)
    if e.reservation is not None:
        set_reservation(message.reservation, e.reservation)
        message.reservation.ClearField("customer")
    if e.item is not None:
        message.item.CopyFrom(item(e.item))
    if e.level_change is not None:
        # `from` is a word of Python's own.
        setattr(message.level_change, "from", int(e.level_change.before))
        message.level_change.to = int(e.level_change.after)  # type: ignore[assignment]
    if e.entry is not None:
        set_entry(message.waitlist_entry, e.entry)
    return message


def watched_item(state: Watched) -> bytes:
    """A WatchInventoryResponse with one item, as bytes: several of them joined are one with all."""
    if not state.deleted:
        return inventory_service_pb2.WatchInventoryResponse(items=[item(state.item)]).SerializeToString()
    deleted = item_pb2.ItemKey(sku=state.item.sku, pool=state.item.pool)
    return inventory_service_pb2.WatchInventoryResponse(deleted_items=[deleted]).SerializeToString()


def watched_update(update: Update) -> bytes:
    """A WatchInventoryResponse with what an update has."""
    rest = inventory_service_pb2.WatchInventoryResponse(
        snapshot_complete=update.complete, heartbeat=not update.payloads and not update.complete
    )
    if update.read_time is not None:
        set_time(rest.read_time, update.read_time)
    return b"".join((*update.payloads, rest.SerializeToString()))


def streamed_event(e: model.Event) -> bytes:
    """A StreamEventsResponse with one event, as bytes: several of them joined are one with all."""
    return event_service_pb2.StreamEventsResponse(events=[event(e)]).SerializeToString()


def _quantity(line: model.Line) -> item_pb2.ItemQuantity:
    return item_pb2.ItemQuantity(sku=line.sku, pool=line.pool, quantity=line.quantity)


def api_key(key: ApiKey) -> admin_service_pb2.ApiKey:
    """An ApiKey, without its secret's hash."""
    message = admin_service_pb2.ApiKey(key_id=key.key_id, client=key.client, scopes=key.scopes, pools=key.pools)
    set_time(message.create_time, key.create_time)
    if key.expire_time is not None:
        set_time(message.expire_time, key.expire_time)
    if key.revoke_time is not None:
        set_time(message.revoke_time, key.revoke_time)
    message.creator_key_id = key.creator_key_id
    return message


def limit(found: Limit) -> limit_service_pb2.Limit:
    """A Limit message."""
    terms = found.terms
    message = limit_service_pb2.Limit(
        limit_id=terms.limit_id,
        sku_prefix=terms.sku_prefix,
        pool=terms.pool,
        per=int(terms.per),  # type: ignore[arg-type]
        counts=int(terms.counts),  # type: ignore[arg-type]
        max_quantity=terms.max_quantity,
        window=terms.window,
        state=int(found.state),  # type: ignore[arg-type]
    )
    set_time(message.create_time, found.create_time)
    set_time(message.update_time, found.update_time)
    return message


def webhook(w: Webhook) -> webhook_service_pb2.Webhook:
    """A Webhook."""
    message = webhook_service_pb2.Webhook(
        webhook_id=w.webhook_id,
        url=w.url,
        types=w.types,  # type: ignore[arg-type]
        sku_prefix=w.sku_prefix,
        client=w.client,
        pools=w.pools,
        state=_webhook_state(w),
        disable_reason=w.disable_reason or "",
        failure_count=w.failure_count,
        last_error=w.last_error,
        last_status=w.last_status,
    )
    set_time(message.create_time, w.create_time)
    if w.fail_time is not None:
        set_time(message.failing_since, w.fail_time)
    if w.success_time is not None:
        set_time(message.last_success_time, w.success_time)
    if message.state == webhook_service_pb2.Webhook.STATE_FAILING:
        set_time(message.next_attempt_time, w.next_time)
    return message


def _webhook_state(w: Webhook) -> webhook_service_pb2.Webhook.State:
    if w.disable_reason is not None:
        return webhook_service_pb2.Webhook.STATE_DISABLED
    return webhook_service_pb2.Webhook.STATE_FAILING if w.failure_count else webhook_service_pb2.Webhook.STATE_ACTIVE
