"""Random sequences of what waitlists know, with time travel, against a plain model that serves after each step.

Any difference of who is offered what, and when, fails with the shortest sequence that hypothesis finds.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from inventoryhold.v1 import admin_service_pb2 as apb
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as rpb
from inventoryhold.v1 import waitlist_service_pb2 as pb
from tests.model.books import Client, Refused
from tests.model.conftest import run
from tests.model.queues import FIRST_FITTING, OFF, STRICT, Entry, Queues, Stock, Waiter
from tests.model.service import StillService
from tests.support.harness import Refusal, refusal_of

STEPS = 30
OFFER_TTL = timedelta(minutes=3)

skus = st.sampled_from(["a", "b", "c"])
lines = st.dictionaries(skus, st.integers(1, 3), min_size=1, max_size=2)
holders = st.sampled_from(["ann", "bob", "cid", "dan"])
priorities = st.sampled_from([0, 0, 0, 1, -1])
policies = st.sampled_from([FIRST_FITTING, STRICT, OFF])
picks = st.integers(0, 30)


def quantities(wanted: dict[str, int]) -> list[item_pb2.ItemQuantity]:
    return [item_pb2.ItemQuantity(sku=sku, quantity=units) for sku, units in wanted.items()]


class Waitlists(RuleBasedStateMachine):
    """Each rule makes one call, asks the model, serves the model, and compares every entry and item."""

    service: ClassVar[StillService]

    @initialize(capacities=st.tuples(*[st.integers(1, 5)] * 3), kinds=st.tuples(*[policies] * 3))
    def begin(self, capacities: tuple[int, ...], kinds: tuple[item_pb2.Item.WaitlistPolicy, ...]) -> None:
        self.model = Queues()
        _, keys = self.service.new_tenant([Client("admin", all_clients=True)])
        self.key = keys["admin"]
        self.numbers = 0
        for sku, capacity, policy in zip("abc", capacities, kinds, strict=True):
            item = item_pb2.Item(sku=sku, capacity=capacity, waitlist_policy=policy)
            self.must(self.service.inventory.CreateItem, ipb.CreateItemRequest(item=item))
            self.model.items[sku] = Stock(capacity, policy)

    def call(self, stub: Any, request: Any) -> Any:
        self.service.advance(timedelta(milliseconds=10))
        try:
            return stub(request, timeout=60, metadata=(("x-api-key", self.key),))
        except grpc.RpcError as error:
            return refusal_of(error)

    def must(self, stub: Any, request: Any) -> Any:
        answer = self.call(stub, request)
        assert not isinstance(answer, Refusal), answer
        return answer

    def judged(self, answer: Any, expect: Callable[[], None]) -> bool:
        """Whether the call was accepted; the model must say the same."""
        try:
            expect()
        except Refused as refused:
            assert isinstance(answer, Refusal), f"should be refused with {refused.reason}: {answer}"
            assert answer.reason == refused.reason, answer
            return False
        assert not isinstance(answer, Refusal), f"should not be refused: {answer}"
        return True

    def serve(self) -> None:
        for entry_id in self.model.serve():
            self.model.entries[entry_id].offer_end = self.service.now + OFFER_TTL

    @rule(wanted=lines, minutes=st.sampled_from([1, 5]))
    def reserve(self, wanted: dict[str, int], minutes: int) -> None:
        request = rpb.ReserveRequest(lines=quantities(wanted), ttl=timedelta(minutes=minutes))
        answer = self.call(self.service.reservations.Reserve, request)
        if self.judged(answer, lambda: self.model.reserve(wanted)):
            end = self.service.now + timedelta(minutes=minutes)
            self.model.holds[answer.reservation.reservation_id] = (wanted, end)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        if self.model.holds:
            hold_id = sorted(self.model.holds)[pick % len(self.model.holds)]
            self.must(self.service.reservations.Cancel, rpb.CancelRequest(reservation_id=hold_id))
            self.model.give_back(self.model.holds.pop(hold_id)[0])
            self.serve()

    @rule(wanted=lines, holder=holders, priority=priorities, minutes=st.sampled_from([None, None, 2, 10]))
    def join(self, wanted: dict[str, int], holder: str, priority: int, minutes: int | None) -> None:
        request = pb.JoinWaitlistRequest(
            lines=quantities(wanted), holder=holder, priority=priority, offer_ttl=OFFER_TTL
        )
        end = None
        if minutes is not None:
            end = self.service.now + timedelta(minutes=minutes)
            request.expire_time.FromDatetime(end)
        answer = self.call(self.service.waitlist.JoinWaitlist, request)
        if self.judged(answer, lambda: self.model.join(holder, wanted)):
            self.numbers += 1
            self.model.entries[answer.entry.entry_id] = Waiter(self.numbers, holder, wanted, priority, end)
            self.serve()
            assert answer.entry.state == self.model.entries[answer.entry.entry_id].state

    @rule(pick=picks, by=st.sampled_from(["leave", "cancel", "confirm"]))
    def end(self, pick: int, by: str) -> None:
        live = [
            (entry_id, waiter)
            for entry_id, waiter in self.model.order()
            if waiter.state == Entry.STATE_OFFERED or (by == "leave" and waiter.state == Entry.STATE_WAITING)
        ]
        if not live:
            return
        entry_id, waiter = live[pick % len(live)]
        if by == "leave":
            self.must(self.service.waitlist.LeaveWaitlist, pb.LeaveWaitlistRequest(entry_id=entry_id))
            self.model.end(waiter, Entry.STATE_LEFT)
        else:
            offer = self.entry(entry_id).reservation_id
            if by == "cancel":
                self.must(self.service.reservations.Cancel, rpb.CancelRequest(reservation_id=offer))
                self.model.end(waiter, Entry.STATE_LEFT)
            else:
                self.must(self.service.reservations.Confirm, rpb.ConfirmRequest(reservation_id=offer))
                self.model.end(waiter, Entry.STATE_TAKEN)
        self.serve()

    @rule(sku=skus, field=st.sampled_from(["capacity", "waitlist_policy", "sale_state"]), pick=picks)
    def update(self, sku: str, field: str, pick: int) -> None:
        item = self.model.items[sku]
        wanted = item_pb2.Item(sku=sku)
        if field == "capacity":
            item.capacity = wanted.capacity = max(item.held, pick % 6)
        elif field == "waitlist_policy":
            item.policy = wanted.waitlist_policy = (FIRST_FITTING, STRICT, OFF)[pick % 3]
        else:
            item.closed = bool(pick % 2)
            closed, opened = item_pb2.Item.SALE_STATE_CLOSED, item_pb2.Item.SALE_STATE_OPEN
            wanted.sale_state = closed if item.closed else opened
        request = ipb.UpdateItemRequest(item=wanted, update_mask={"paths": [field]})
        self.must(self.service.inventory.UpdateItem, request)
        self.serve()

    @rule(seconds=st.sampled_from([20, 70, 200, 400]))
    def wait(self, seconds: int) -> None:
        self.service.advance(timedelta(seconds=seconds))
        self.service.sweep()
        self.model.lapse(self.service.now)
        self.serve()

    def entry(self, entry_id: str) -> Entry:
        answer = self.must(self.service.waitlist.GetWaitlistEntry, pb.GetWaitlistEntryRequest(entry_id=entry_id))
        found: Entry = answer.entry
        return found

    @invariant()
    def everyone_is_where_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        request = pb.ListWaitlistEntriesRequest(page_size=1000)
        listed = self.must(self.service.waitlist.ListWaitlistEntries, request).entries
        live = (Entry.STATE_WAITING, Entry.STATE_OFFERED)
        assert [(entry.entry_id, entry.state) for entry in listed] == [
            (entry_id, waiter.state) for entry_id, waiter in self.model.order() if waiter.state in live
        ]

    @invariant()
    def items_count_who_waits(self) -> None:
        if not hasattr(self, "model"):
            return
        for item in self.must(self.service.inventory.ListItems, ipb.ListItemsRequest()).items:
            model = self.model.items[item.sku]
            assert (item.capacity, item.waiting) == (model.capacity, len(self.model.waiting(item.sku))), item
            assert item.remaining == model.free, item

    def teardown(self) -> None:
        if hasattr(self, "model"):
            report = self.must(self.service.admin.VerifyLedger, apb.VerifyLedgerRequest())
            assert report.ok, report.drifts


def test_everyone_is_offered_what_the_model_offers_them(still_service: StillService) -> None:
    Waitlists.service = still_service
    run(Waitlists, STEPS)
