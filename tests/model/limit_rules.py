"""The rules of LimitService: limits are set, deleted and used."""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from inventoryhold.v1 import limit_service_pb2 as lpb
from tests.model.machine import Machine

limit_ids = st.sampled_from(["l1", "l2"])
limit_terms = st.fixed_dictionaries(
    {
        "sku_prefix": st.sampled_from(["", "", "a"]),
        "pool": st.sampled_from([None, None, "", "p"]),
        "per": st.sampled_from([lpb.Limit.PER_HOLDER, lpb.Limit.PER_HOLDER, lpb.Limit.PER_CLIENT]),
        "counts": st.sampled_from([lpb.Limit.COUNTS_HELD, lpb.Limit.COUNTS_HELD_AND_CONFIRMED]),
        "max_quantity": st.integers(0, 7),
        "window": st.sampled_from([None, None, timedelta(minutes=11)]),
    }
)


class LimitRules(Machine):
    """Limits of holders and clients."""

    @rule(limit_id=limit_ids, terms=limit_terms)
    def set_limit(self, limit_id: str, terms: Any) -> None:
        self.tick()
        wanted = lpb.Limit(limit_id=limit_id, **terms)
        answer = self.call(self.service.limits.SetLimit, "admin", lpb.SetLimitRequest(limit=wanted))
        while isinstance(answer, lpb.SetLimitResponse) and answer.limit.state == lpb.Limit.STATE_BUILDING:
            # Another transaction of the server is running.
            answer = self.call(self.service.limits.SetLimit, "admin", lpb.SetLimitRequest(limit=wanted))
        self.judge(answer, lambda: self.ledger.set_limit(wanted))

    @rule(limit_id=limit_ids)
    def delete_limit(self, limit_id: str) -> None:
        answer = self.call(self.service.limits.DeleteLimit, "admin", lpb.DeleteLimitRequest(limit_id=limit_id))
        self.judge(answer, lambda: self.ledger.delete_limit(limit_id))

    @invariant()
    def limits_are_used_as_the_model_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for limit_id, limit in self.ledger.limits.items():
            somebody = {
                (reservation.client, reservation.holder)
                for reservation in self.ledger.reservations.values()
                if reservation.holder or limit.per == lpb.Limit.PER_CLIENT
            }
            for client, holder in somebody:
                request = lpb.GetLimitUsageRequest(limit_id=limit_id, client=client, holder=holder)
                usage = self.call(self.service.limits.GetLimitUsage, "admin", request).usage
                assert usage.used == self.ledger.used(limit_id, client, holder), (limit_id, client, holder)
