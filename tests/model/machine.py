"""Callers of a real service and of the model beside it: how a call is made, judged and compared."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.model.books import EXPIRED, Client, Refused, Reservation
from tests.model.ledger import Ledger
from tests.model.service import StillService
from tests.support.harness import Refusal, refusal_of

CLIENTS = {
    client.name: client
    for client in (Client("admin", all_clients=True), Client("shop"), Client("kiosk", pools=frozenset({"p"})))
}

clients = st.sampled_from(["admin", "shop", "shop", "kiosk"])
skus = st.sampled_from(["a", "b"])
pools = st.sampled_from(["", "", "p"])
units = st.integers(1, 4)
lines = st.lists(st.tuples(skus, pools, units), min_size=1, max_size=3)
some_lines: st.SearchStrategy[list[tuple[str, str, int]]] = st.one_of(st.just([]), lines)
request_ids = st.sampled_from(["", "", "", "q1", "q2", "q3"])
holders = st.sampled_from(["", "ann", "bob"])
references = st.sampled_from(["", "", "r1", "r2"])
order_ids = st.sampled_from(["", "", "o1", "o2"])
ttls = st.sampled_from([None, 90, 600, 86400])
reasons = st.sampled_from(["", "why"])
picks = st.integers(0, 30)
names = st.sampled_from(["", "Name"])


def rpc_of(request: Any) -> str:
    return str(type(request).DESCRIPTOR.name).removesuffix("Request")


def seconds(value: int | None) -> Duration | None:
    return None if value is None else Duration(seconds=value)


def quantities(values: list[tuple[str, str, int]]) -> list[item_pb2.ItemQuantity]:
    return [item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=quantity) for sku, pool, quantity in values]


def time_of(timestamp: Any, present: bool) -> datetime | None:

    return timestamp.ToDatetime(tzinfo=UTC) if present else None


class Machine(RuleBasedStateMachine):
    """Each rule makes one call, asks the model what it must answer, and compares."""

    service: ClassVar[StillService]

    @initialize(
        clients=st.just(list(CLIENTS.values())), capacity=st.integers(1, 9), oversell=st.sampled_from([0, 0, 2]),
        buffer=st.sampled_from([0, 0, 2]),
    )  # fmt: skip
    def begin(self, clients: list[Client], capacity: int, oversell: int, buffer: int) -> None:
        self.ledger = Ledger()
        self.tenant, self.keys = self.service.new_tenant(clients)
        self.last: list[tuple[Callable[..., None], str, Any]] = []
        self.tick()
        for sku, pool in (("a", ""), ("b", ""), ("a", "p")):
            item = item_pb2.Item(
                sku=sku, pool=pool, capacity=capacity, oversell_limit=oversell, buffer=buffer, low_at=2
            )
            self.create_items("admin", ipb.BatchCreateItemsRequest(items=[item]))

    def tick(self) -> None:
        """A second passes before each call, so that ids sort as they were made."""
        self.service.advance(timedelta(seconds=1))
        self.ledger.now = self.service.now

    def call(self, stub: Any, client: str, request: Any) -> Any:
        """The answer, or the Refusal."""
        try:
            return stub(request, timeout=60, metadata=(("x-api-key", self.keys[client]),))
        except grpc.RpcError as error:
            return refusal_of(error)

    def judge(self, answer: Any, expect: Callable[[], Any]) -> Any:
        """What the model expects of an answer that is no refusal; None where both refuse alike."""
        try:
            expected = expect()
        except Refused as refused:
            assert isinstance(answer, Refusal), f"should be refused with {refused.reason}: {answer}"
            assert answer.reason == refused.reason, answer
            assert refused.metadata.items() <= answer.metadata.items(), (refused.metadata, answer.metadata)
            return None
        assert not isinstance(answer, Refusal), f"should not be refused: {answer}"
        return expected

    def compare(self, got: Any, want: Reservation) -> None:
        now = self.ledger.now
        assert got.state == want.state(now)
        assert [
            (line.sku, line.pool, line.quantity, line.confirmed_quantity, line.refunded_quantity,
             line.fulfilled_quantity, line.returned_quantity) for line in got.lines
        ] == [
            (line.sku, line.pool, line.quantity, line.confirmed, line.refunded, line.fulfilled, line.returned)
            for line in want.lines
        ]  # fmt: skip
        assert (got.reservation_id, got.client, got.holder, got.reference) == (
            want.reservation_id, want.client, want.holder, want.reference,
        )  # fmt: skip
        assert (got.order_id, got.customer.name, got.customer.email) == (want.order_id, *want.customer)
        assert (dict(got.metadata), got.reason) == (want.metadata, want.reason)
        assert time_of(got.create_time, True) == want.create_time
        assert time_of(got.expire_time, True) == want.expire_time
        for name in ("confirm_time", "cancel_time", "refund_time", "fulfil_time"):
            assert time_of(getattr(got, name), got.HasField(name)) == getattr(want, name), name
        # The sweep's own change is one more revision, whenever it comes.
        assert got.revision - want.revision in ((0, 1) if got.state == EXPIRED else (0,))

    def change(self, client: str, request: Any) -> None:
        """Makes one change of a reservation; also what `again` repeats."""
        answer = self.call(getattr(self.service.reservations, rpc_of(request)), client, request)
        given = None if isinstance(answer, Refusal) else answer.reservation
        expected = self.judge(answer, lambda: self.expect(client, request, given))
        if expected is not None:
            self.compare_change(answer, *expected)
        self.last.append((self.change, client, request))

    def expect(self, client: str, request: Any, given: Any) -> tuple[Reservation, bool]:
        """What the model makes of a change; `given` is the reservation answered, for what the service makes up."""
        who, ledger = CLIENTS[client], self.ledger
        match rpc_of(request):
            case "Reserve":
                return ledger.reserve(who, request, given.reservation_id if given else "")
            case "Confirm":
                return ledger.confirm(who, request, given.order_id if given else "")
            case rpc:
                changes: dict[str, Callable[[Client, Any], tuple[Reservation, bool]]] = {
                    "Modify": ledger.modify, "Cancel": ledger.cancel, "Extend": ledger.extend,
                    "Fulfil": ledger.fulfil, "Refund": ledger.refund,
                }  # fmt: skip
                return changes[rpc](who, request)

    def compare_change(self, answer: Any, reservation: Reservation, replayed: bool) -> None:
        self.compare(answer.reservation, reservation)
        assert answer.replayed == replayed
        if isinstance(answer, pb.ConfirmResponse):
            assert reservation.confirm_time is not None
            assert answer.rescued == (reservation.confirm_time >= reservation.expire_time)

    def pick(self, number: int) -> str:
        """One of the reservations made so far, the newest first; now and then one that does not exist."""
        ids = sorted(self.ledger.reservations, reverse=True)
        if not ids or number == 30:
            return str(uuid.UUID(int=number))
        return ids[number % min(len(ids), 6)]

    def target(self, number: int, by_reference: str) -> dict[str, Any]:
        return {"reference": by_reference} if by_reference else {"reservation_id": self.pick(number)}

    # Time

    @rule(minutes=st.sampled_from([1, 2, 11, 31, 60 * 25]))
    def time_passes(self, minutes: int) -> None:
        self.service.advance(timedelta(minutes=minutes))
        self.tick()

    @rule()
    def cleanup(self) -> None:
        self.tick()
        answer = self.call(self.service.reservations.Cleanup, "admin", pb.CleanupRequest())
        assert not answer.more
        lapsed = [r for r in self.ledger.reservations.values() if r.state(self.ledger.now) == EXPIRED]
        assert answer.expired_count <= len(lapsed)
        for reservation in lapsed:
            if reservation.stored_state != EXPIRED:
                reservation.expired()
        for item in self.items("admin"):
            assert item.held == self.ledger.held((item.sku, item.pool))

    def create_items(self, client: str, request: ipb.BatchCreateItemsRequest) -> None:
        if len(request.items) == 1:
            answer = self.call(self.service.inventory.CreateItem, client, ipb.CreateItemRequest(item=request.items[0]))
        else:
            answer = self.call(self.service.inventory.BatchCreateItems, client, request)
        self.judge(answer, lambda: self.ledger.create(CLIENTS[client], request.items))

    def items(self, client: str) -> Any:
        return self.call(self.service.inventory.ListItems, client, ipb.ListItemsRequest()).items

    def set_sale_state(self, client: str, sku: str, pool: str, state: Any) -> None:
        """Stops or opens a sale."""
        request = ipb.UpdateItemRequest(
            item=item_pb2.Item(sku=sku, pool=pool, sale_state=state), update_mask={"paths": ["sale_state"]}
        )
        answer = self.call(self.service.inventory.UpdateItem, client, request)
        self.judge(answer, lambda: self.ledger.update(CLIENTS[client], request, 0))
