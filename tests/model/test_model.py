"""Random sequences of every rpc that changes something, by several callers, with time travel, against the model.

A difference fails with the shortest sequence that hypothesis finds, and prints the blob that repeats it.
HOLDSVC_TEST_MODEL_EXAMPLES makes it long.
"""

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from inventoryhold.v1 import admin_service_pb2 as apb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.model.books import EXPIRED
from tests.model.conftest import run
from tests.model.limit_rules import LimitRules
from tests.model.machine import (
    CLIENTS,
    clients,
    holders,
    picks,
    references,
    time_of,
)
from tests.model.reservation_rules import ReservationRules
from tests.model.service import StillService
from tests.model.stock_rules import StockRules
from tests.support.levels import check_levels

STEPS = 40


class Contract(ReservationRules, StockRules, LimitRules):
    """Every rule, and what is compared after each call and at the end."""

    @rule(client=clients, number=picks, by_reference=references)
    def get(self, client: str, number: int, by_reference: str) -> None:
        self.tick()
        request = pb.GetReservationRequest(**self.target(number, by_reference))
        answer = self.call(self.service.reservations.GetReservation, client, request)
        expected = self.judge(answer, lambda: self.ledger.find(CLIENTS[client], request, None))
        if expected is not None:
            self.compare(answer.reservation, expected)

    @rule(client=clients, number=picks)
    def events(self, client: str, number: int) -> None:
        self.tick()
        chosen = self.pick(number)
        request = pb.ListReservationEventsRequest(reservation_id=chosen)
        answer = self.call(self.service.reservations.ListReservationEvents, client, request)
        target = pb.GetReservationRequest(reservation_id=chosen)
        expected = self.judge(answer, lambda: self.ledger.find(CLIENTS[client], target, None))
        if expected is not None:
            told = [
                (event.type, tuple(sorted((line.sku, line.pool, line.quantity) for line in event.lines)))
                for event in answer.events
            ]
            if told and told[-1][0] == EXPIRED and len(told) > len(expected.events):
                told.pop()
            assert told == expected.events

    @rule(client=clients, states=st.sets(st.integers(1, 6), max_size=2), sku=st.sampled_from(["", "a"]),
          holder=holders, reference=references, size=st.integers(1, 5))  # fmt: skip
    def list_reservations(
        self, client: str, states: set[int], sku: str, holder: str, reference: str, size: int
    ) -> None:
        self.tick()
        who, got, token = CLIENTS[client], [], ""
        wanted = [
            reservation
            for reservation in sorted(
                self.ledger.reservations.values(), key=lambda reservation: reservation.reservation_id, reverse=True
            )
            if (not states or reservation.state(self.ledger.now) in states)
            and (not sku or any(line.sku == sku for line in reservation.lines))
            and (not holder or reservation.holder == holder)
            and (not reference or reservation.reference == reference)
            and self.ledger.visible(who, reservation)
        ]
        while True:
            answer = self.call(
                self.service.reservations.ListReservations,
                client,
                pb.ListReservationsRequest(
                    page_size=size, page_token=token, states=sorted(states), sku=sku, holder=holder,  # type: ignore[arg-type]
                    reference=reference, include_total=True,
                ),
            )  # fmt: skip
            assert answer.total_count == len(wanted)
            got += answer.reservations
            token = answer.next_page_token
            if not token:
                break
        assert [reservation.reservation_id for reservation in got] == [r.reservation_id for r in wanted]
        for message, reservation in zip(got, wanted, strict=True):
            self.compare(message, reservation)

    @invariant()
    def items_are_as_the_model_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, seen = self.ledger, set()
        for item in self.items("admin"):
            key = (item.sku, item.pool)
            seen.add(key)
            model = ledger.items[key]
            assert (item.capacity, item.oversell_limit, item.display_name, item.confirmed) == (
                model.capacity, model.oversell_limit, model.display_name, model.confirmed,
            )  # fmt: skip
            assert (item.sale_state == item_pb2.Item.SALE_STATE_CLOSED, item.buffer) == (model.closed, model.buffer)
            assert (item.low_at if item.HasField("low_at") else None) == model.low_at
            assert (item.return_pool if item.HasField("return_pool") else None) == model.return_pool
            assert time_of(item.return_time, item.HasField("return_time")) == model.return_time
            # Lapsed holds are counted until they are swept.
            assert ledger.held(key) <= item.held <= ledger.held(key) + ledger.lapsed(key)
            assert item.remaining == item.capacity - item.held - item.confirmed
            assert item.revision >= model.seen_revision
            model.seen_revision = item.revision
        assert seen == {key for key, model in ledger.items.items() if model.exists}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            report = self.call(self.service.admin.VerifyLedger, "admin", apb.VerifyLedgerRequest())
            assert report.ok, report.drifts
            check_levels(self.service.sql, self.tenant)


def test_every_answer_is_the_models(still_service: StillService) -> None:
    Contract.service = still_service
    run(Contract, STEPS)
