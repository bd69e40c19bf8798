"""The model of LimitService: what counts for a limit, and what it refuses."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from inventoryhold.v1 import limit_service_pb2 as lpb
from tests.model.books import CONFIRMED, FULFILLED, HELD, Key, Refused, Reservation
from tests.model.stock import Stock


@dataclass
class Limit:
    prefix: str
    pool: str | None
    per: int
    counts: int
    most: int
    window: timedelta | None

    def is_about(self, key: Key) -> bool:
        return key[0].startswith(self.prefix) and self.pool in (None, key[1])


class Limits(Stock):
    """Stock that holders and clients may have a part of."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: dict[str, Limit] = {}

    def set_limit(self, wanted: lpb.Limit) -> None:
        held = wanted.counts == lpb.Limit.COUNTS_HELD
        if (wanted.HasField("window") and held) or (wanted.per == lpb.Limit.PER_CLIENT and not held):
            raise Refused("INVALID_FIELD")
        new = Limit(
            wanted.sku_prefix,
            wanted.pool if wanted.HasField("pool") else None,
            wanted.per,
            wanted.counts,
            wanted.max_quantity,
            wanted.window.ToTimedelta() if wanted.HasField("window") else None,
        )
        old = self.limits.get(wanted.limit_id)
        if old is not None and (old.prefix, old.pool, old.per, old.counts) != (
            new.prefix, new.pool, new.per, new.counts,
        ):  # fmt: skip
            raise Refused("INVALID_FIELD")
        self.limits[wanted.limit_id] = new

    def delete_limit(self, limit_id: str) -> None:
        if self.limits.pop(limit_id, None) is None:
            raise Refused("LIMIT_NOT_FOUND", limit_id=limit_id)

    def used(self, limit_id: str, client: str, holder: str) -> int:
        """What a holder of a client, or the client, has of a limit now."""
        limit = self.limits[limit_id]
        per_client = limit.per == lpb.Limit.PER_CLIENT
        return sum(
            self._counted(limit, reservation)
            for reservation in self.reservations.values()
            if reservation.client == client and (per_client or reservation.holder == holder)
        )

    def _counted(self, limit: Limit, reservation: Reservation) -> int:
        state = reservation.state(self.now)
        lines = [line for line in reservation.lines if limit.is_about(line.key)]
        if state == HELD:
            return sum(line.quantity for line in lines)
        if limit.counts == lpb.Limit.COUNTS_HELD or state not in (CONFIRMED, FULFILLED):
            return 0
        assert reservation.confirm_time is not None
        if limit.window is not None and reservation.confirm_time <= self.now - limit.window:
            return 0
        return sum(line.confirmed - line.refunded for line in lines)

    def refuse_over_limit(
        self, client: str, holder: str, units: dict[Key, int], holder_units: dict[Key, int] | None = None
    ) -> None:
        """Units that somebody takes; `holder_units` where a holder takes others than the client."""
        for limit_id, limit in sorted(self.limits.items()):
            per_holder = limit.per == lpb.Limit.PER_HOLDER
            taken: Any = holder_units if per_holder and holder_units is not None else units
            wanted = sum(count for key, count in taken.items() if limit.is_about(key))
            if wanted <= 0:
                continue
            if per_holder and not holder:
                raise Refused("INVALID_FIELD", fields="holder")
            used = self.used(limit_id, client, holder)
            if used + wanted > limit.most:
                raise Refused("LIMIT_EXCEEDED", limit_id=limit_id, max=limit.most, used=used, requested=wanted)
