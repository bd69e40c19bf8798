"""An event as CloudEvents 1.0 JSON (https://github.com/cloudevents/spec, structured mode)."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from urllib.parse import quote

from google.protobuf.json_format import MessageToDict

from holdsvc.model import EventType
from inventoryhold.v1 import event_pb2

CONTENT_TYPE = "application/cloudevents+json"
REASON_MAX = 500
"""Characters of a broker's reason that a dead letter carries."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True)
class CloudEvent:
    """What a broker gets."""

    id: str
    """The same whenever the same event is published: brokers drop repeats by it."""
    tenant: str
    kind: str
    """As in reserved or item_created."""
    key: str
    """The reservation, waitlist entry or item that it is about; events of one key keep their order."""
    attributes: dict[str, Any]

    def encode(self) -> bytes:
        """The event as one JSON object."""
        return json.dumps(self.attributes, separators=(",", ":"), ensure_ascii=False).encode()

    def encode_data(self) -> bytes:
        """The event's data alone, for what carries the attributes beside it."""
        return json.dumps(self.attributes["data"], separators=(",", ":"), ensure_ascii=False).encode()

    def refused(self, why: str) -> bytes:
        """The event without its data, for the dead letters: it may have been too large for the broker."""
        attributes = {name: value for name, value in self.attributes.items() if name not in ("data", "datacontenttype")}
        return json.dumps({**attributes, "holdsvcerror": why[:REASON_MAX]}, separators=(",", ":")).encode()


def as_json(event: event_pb2.Event) -> dict[str, Any]:
    """The Event message as JSON, with proto's own field names."""
    return MessageToDict(event, preserving_proto_field_name=True)


def cloud_event(tenant: str, event: event_pb2.Event, hash_: int) -> CloudEvent:
    """The event in its envelope; the hash tells it from another event to which its id was given after a failover."""
    kind = EventType(event.type).name.lower()
    if event.HasField("reservation"):
        key = event.reservation.reservation_id
    elif event.HasField("waitlist_entry"):
        key = event.waitlist_entry.entry_id
    else:
        key = item_key(event.item.sku, event.item.pool)
    id_ = f"{event.event_id}-{hash_ & (1 << 64) - 1:016x}"
    attributes = {
        "specversion": "1.0",
        "id": id_,
        "source": source(tenant),
        "type": f"inventoryhold.v1.{kind}",
        "subject": key,
        "time": event.occur_time.ToDatetime(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "partitionkey": key,
        "sequence": f"{event.event_id:020}",
        "data": as_json(event),
    }
    return CloudEvent(id_, tenant, kind, key, attributes)


def source(tenant: str) -> str:
    """Where a tenant's events come from."""
    return f"/holdsvc/{escaped(tenant)}"


def waves(events: Iterable[CloudEvent], size_max: int = sys.maxsize) -> Iterator[list[CloudEvent]]:
    """Cuts events into runs in which no key comes twice: a run is published at once, the next one after its end."""
    wave: list[CloudEvent] = []
    keys: set[tuple[str, str]] = set()
    for event in events:
        key = (event.tenant, event.key)
        if key in keys or len(wave) >= size_max:
            yield wave
            wave, keys = [], set()
        wave.append(event)
        keys.add(key)
    if wave:
        yield wave


def item_key(sku: str, pool: str) -> str:
    """An item as one string: `sku`, or `sku/pool` outside the default pool, each percent-encoded as in a URL.

    It can be read back one way only, and it is never the id of a reservation or waitlist entry: where a sku has the
    form of one, its first character is encoded too.
    """
    text = quote(sku, safe="")
    if _ID.fullmatch(sku):
        text = f"%{ord(sku[0]):02X}{sku[1:]}"
    return f"{text}/{quote(pool, safe='')}" if pool else text


def escaped(name: str) -> str:
    """A name as one word of a NATS subject or a path, where a dot separates words: other characters as %XX."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda match: b"%%%02X" % match[0][0], name.encode()).decode() or "%"
