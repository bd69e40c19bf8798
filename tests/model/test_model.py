"""Random sequences of every rpc that changes something, by several callers, with time travel, against the model.

A difference fails with the shortest sequence that hypothesis finds, and prints the blob that repeats it.
HOLDSVC_TEST_MODEL_EXAMPLES makes it long.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from inventoryhold.v1 import admin_service_pb2 as apb
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import limit_service_pb2 as lpb
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.model.books import EXPIRED, Client, Refused, Reservation
from tests.model.ledger import Ledger
from tests.model.service import StillService
from tests.support.harness import Refusal, refusal_of
from tests.support.levels import check_levels

EXAMPLES = int(os.environ.get("HOLDSVC_TEST_MODEL_EXAMPLES", "20"))
STEPS = 40

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


SALE_STATES = (item_pb2.Item.SALE_STATE_OPEN, item_pb2.Item.SALE_STATE_CLOSED)
SETTABLE = [
    "capacity",
    "oversell_limit",
    "display_name",
    "sale_state",
    "buffer",
    "low_at",
    "return_pool",
    "return_time",
]
steerings = st.fixed_dictionaries(
    {
        "sale_state": st.sampled_from([SALE_STATES[0], *SALE_STATES]),
        "buffer": st.sampled_from([0, 0, 1, 3]),
        "low_at": st.sampled_from([None, 0, 2, 4]),
        "return_pool": st.sampled_from([None, "", "p"]),
        "return_in": st.sampled_from([None, None, -5, 1, 30]),
    }
)
"""The fields of an item that steer its sale."""


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


def _rpc(request: Any) -> str:
    return str(type(request).DESCRIPTOR.name).removesuffix("Request")


def seconds(value: int | None) -> Duration | None:
    return None if value is None else Duration(seconds=value)


def quantities(values: list[tuple[str, str, int]]) -> list[item_pb2.ItemQuantity]:
    return [item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=quantity) for sku, pool, quantity in values]


def time_of(timestamp: Any, present: bool) -> datetime | None:

    return timestamp.ToDatetime(tzinfo=UTC) if present else None


class Contract(RuleBasedStateMachine):
    """Each rule makes one call, asks the model what it must answer, and compares."""

    service: ClassVar[StillService]

    @initialize(
        clients=st.just(list(CLIENTS.values())), capacity=st.integers(0, 8), oversell=st.sampled_from([0, 0, 2])
    )
    def begin(self, clients: list[Client], capacity: int, oversell: int) -> None:
        self.ledger = Ledger()
        self.tenant, self.keys = self.service.new_tenant(clients)
        self.last: list[tuple[Callable[..., None], str, Any]] = []
        self.tick()
        for sku, pool in (("a", ""), ("b", ""), ("a", "p")):
            item = item_pb2.Item(sku=sku, pool=pool, capacity=capacity, oversell_limit=oversell)
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
        answer = self.call(getattr(self.service.reservations, _rpc(request)), client, request)
        given = None if isinstance(answer, Refusal) else answer.reservation
        expected = self.judge(answer, lambda: self.expect(client, request, given))
        if expected is not None:
            self.compare_change(answer, *expected)
        self.last.append((self.change, client, request))

    def expect(self, client: str, request: Any, given: Any) -> tuple[Reservation, bool]:
        """What the model makes of a change; `given` is the reservation answered, for what the service makes up."""
        who, ledger = CLIENTS[client], self.ledger
        match _rpc(request):
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

    # Limits

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

    # Reservations

    @rule(client=clients, lines=lines, request_id=request_ids, holder=holders, reference=references, ttl=ttls,
          window=st.sampled_from([None, None, 60, 7200]), note=names)  # fmt: skip
    def reserve(
        self, client: str, lines: Any, request_id: str, holder: str, reference: str, ttl: int | None,
        window: int | None, note: str,
    ) -> None:  # fmt: skip
        self.tick()
        self.change(client, self._reserve_request(lines, request_id, holder, reference, ttl, window, note))

    def _reserve_request(
        self, lines: Any, request_id: str, holder: str, reference: str, ttl: int | None, window: int | None, note: str
    ) -> pb.ReserveRequest:
        return pb.ReserveRequest(
            lines=quantities(lines), request_id=request_id, holder=holder, reference=reference, ttl=seconds(ttl),
            duplicate_window=seconds(window) if holder else None, metadata={"note": note} if note else {},
        )  # fmt: skip

    @rule(client=clients, entries=st.lists(st.tuples(lines, request_ids, references), min_size=1, max_size=4))
    def batch_reserve(self, client: str, entries: Any) -> None:
        self.cleanup()
        self.tick()
        requests: list[pb.ReserveRequest] = []
        contents: dict[str, pb.ReserveRequest] = {}
        for entry_lines, request_id, reference in entries:
            request = pb.ReserveRequest(lines=quantities(entry_lines), request_id=request_id, reference=reference)
            # Other content under one id in one batch is judged later than its place: not what is compared here.
            if not request_id or contents.setdefault(request_id, request) == request:
                requests.append(request)
        answer = self.call(self.service.reservations.BatchReserve, client, pb.BatchReserveRequest(requests=requests))
        assert not isinstance(answer, Refusal), answer
        assert len(answer.results) == len(requests)
        for request, result in zip(requests, answer.results, strict=True):
            try:
                reservation, replayed = self.ledger.reserve(CLIENTS[client], request, result.reservation.reservation_id)
            except Refused as refused:
                assert refused.reason in str(result.error), (refused.reason, result)
                continue
            assert result.WhichOneof("result") == "reservation", result
            assert result.replayed == replayed
            self.compare(result.reservation, reservation)

    @rule(client=clients, rpc=st.sampled_from(["Modify", "Confirm", "Cancel", "Extend", "Fulfil", "Refund"]),
          numbers=st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), part=st.integers(0, 2))  # fmt: skip
    def batch(self, client: str, rpc: str, numbers: list[int], part: int) -> None:
        """A batch of changes of different reservations: each entry by itself, in order."""
        self.cleanup()
        self.tick()
        requests = [self._batched(rpc, target, part) for target in dict.fromkeys(self.pick(n) for n in numbers)]
        kind: Any = getattr(pb, f"Batch{rpc}Request")
        answer = self.call(getattr(self.service.reservations, f"Batch{rpc}"), client, kind(requests=requests))
        assert not isinstance(answer, Refusal), answer
        assert len(answer.results) == len(requests)
        for request, result in zip(requests, answer.results, strict=True):
            given = result.reservation if result.WhichOneof("result") == "reservation" else None
            try:
                reservation, replayed = self.expect(client, request, given)
            except Refused as refused:
                assert refused.reason in str(result.error), (refused.reason, result)
                continue
            assert given is not None, (result, reservation)
            self.compare(given, reservation)
            assert result.replayed == replayed

    def _batched(self, rpc: str, target: str, part: int) -> Any:
        chosen = self.ledger.reservations.get(target)
        some = quantities([(line.sku, line.pool, part) for line in chosen.lines[:1]]) if chosen and part else []
        if rpc == "Modify":
            changed = [pb.LineChange(sku=line.sku, pool=line.pool, quantity=line.quantity) for line in some]
            return pb.ModifyRequest(
                reservation_id=target, lines=changed or [pb.LineChange(sku="a", quantity=3)],
                update_mask={"paths": ["lines"]},
            )  # fmt: skip
        kind: Any = getattr(pb, f"{rpc}Request")
        lines = {} if rpc == "Extend" else {"lines": some}
        return kind(reservation_id=target, **lines)

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids, order_id=order_ids,
          lines=some_lines, name=names, rescue=st.booleans())  # fmt: skip
    def confirm(
        self, client: str, number: int, by_reference: str, request_id: str, order_id: str, lines: Any, name: str,
        rescue: bool,
    ) -> None:  # fmt: skip
        self.tick()
        customer = pb.CustomerInput(name=name, email=f"{name}@example.org") if name else None
        self.change(
            client,
            pb.ConfirmRequest(
                **self.target(number, by_reference), request_id=request_id, order_id=order_id, customer=customer,
                lines=quantities(lines), rescue=rescue,
            ),
        )  # fmt: skip

    @rule(client=clients, number=picks, order_id=order_ids, part=st.integers(1, 2))
    def confirm_a_part(self, client: str, number: int, order_id: str, part: int) -> None:
        """A part that is there, more often than chance would have it."""
        self.tick()
        chosen = self.ledger.reservations.get(self.pick(number))
        wanted = [(line.sku, line.pool, min(part, line.quantity)) for line in chosen.lines[:1]] if chosen else []
        self.change(
            client,
            pb.ConfirmRequest(reservation_id=self.pick(number), order_id=order_id, lines=quantities(wanted)),
        )

    @rule(client=clients, number=picks, order_id=order_ids)
    def rescue(self, client: str, number: int, order_id: str) -> None:
        """A payment that arrives late, more often than chance would have it."""
        self.tick()
        lapsed = [r.reservation_id for r in self.ledger.reservations.values() if r.state(self.ledger.now) == EXPIRED]
        target = lapsed[number % len(lapsed)] if lapsed else self.pick(number)
        self.change(client, pb.ConfirmRequest(reservation_id=target, order_id=order_id, rescue=True))

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids,
          wanted=st.dictionaries(st.tuples(skus, pools), st.integers(0, 4), min_size=1, max_size=3),
          paths=st.sets(st.sampled_from(["lines", "lines", "holder", "reference", "metadata"]), min_size=1),
          holder=holders, reference=references, note=names, revision=st.sampled_from([0, 0, 0, 1, 2]))  # fmt: skip
    def modify(
        self, client: str, number: int, by_reference: str, request_id: str, wanted: Any, paths: set[str], holder: str,
        reference: str, note: str, revision: int,
    ) -> None:  # fmt: skip
        self.tick()
        self.change(
            client,
            pb.ModifyRequest(
                **self.target(number, by_reference), request_id=request_id, revision=revision, holder=holder,
                lines=[pb.LineChange(sku=sku, pool=pool, quantity=n) for (sku, pool), n in wanted.items()],
                new_reference=reference, metadata={"note": note} if note else {},
                update_mask={"paths": sorted(paths)},
            ),
        )  # fmt: skip

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids, reason=reasons,
          part=st.sampled_from([0, 0, 1, 2]))  # fmt: skip
    def cancel(self, client: str, number: int, by_reference: str, request_id: str, reason: str, part: int) -> None:
        self.tick()
        target = self.target(number, by_reference)
        chosen = self.ledger.reservations.get(target.get("reservation_id", ""))
        some = quantities([(line.sku, line.pool, part) for line in chosen.lines[-1:]]) if chosen and part else []
        self.change(client, pb.CancelRequest(**target, request_id=request_id, reason=reason, lines=some))

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids, reason=reasons,
          part=st.sampled_from([0, 0, 1, 2]))  # fmt: skip
    def fulfil(self, client: str, number: int, by_reference: str, request_id: str, reason: str, part: int) -> None:
        self.tick()
        target = self._sold(number, by_reference)
        chosen = self.ledger.reservations.get(target.get("reservation_id", ""))
        some = quantities([(line.sku, line.pool, part) for line in chosen.lines[:1]]) if chosen and part else []
        self.change(client, pb.FulfilRequest(**target, request_id=request_id, reason=reason, lines=some))

    def _sold(self, number: int, by_reference: str) -> dict[str, Any]:
        """A reservation with sold units, more often than chance would have it."""
        target = self.target(number, by_reference)
        sold = [r.reservation_id for r in self.ledger.reservations.values() if r.stored_state in (2, 6)]
        if "reservation_id" in target and sold and number % 4:
            target = {"reservation_id": sold[number % len(sold)]}
        return target

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids, ttl=ttls)
    def extend(self, client: str, number: int, by_reference: str, request_id: str, ttl: int | None) -> None:
        self.tick()
        self.change(
            client, pb.ExtendRequest(**self.target(number, by_reference), request_id=request_id, ttl=seconds(ttl))
        )

    @rule(client=clients, number=picks, by_reference=references, request_id=request_ids, whole=st.booleans(),
          write_off=st.booleans(), reason=reasons, quantity=units, kind=st.integers(0, 3))  # fmt: skip
    def refund(
        self, client: str, number: int, by_reference: str, request_id: str, whole: bool, write_off: bool, reason: str,
        quantity: int, kind: int,
    ) -> None:  # fmt: skip
        self.tick()
        target = self._sold(number, by_reference)
        chosen = self.ledger.reservations.get(target.get("reservation_id", ""))
        wanted = [(line.sku, line.pool, quantity) for line in chosen.lines[:1]] if chosen and not whole else []
        self.change(
            client,
            pb.RefundRequest(
                **target,
                request_id=request_id,
                lines=quantities(wanted),
                write_off=write_off,
                reason=reason,
                units=kind,  # type: ignore[arg-type]
            ),
        )

    @rule(back=st.integers(1, 5), times=st.sampled_from([1, 1, 4]))
    def again(self, back: int, times: int) -> None:
        """A caller repeats a call, also many times at once: with a request_id it takes effect once."""
        if len(self.last) < back:
            return
        make, client, request = self.last[-back]
        if times > 1 and request.request_id and isinstance(request, pb.ReserveRequest):
            self._at_once(client, request, times)
            return
        self.tick()
        make(client, request)

    def _at_once(self, client: str, request: pb.ReserveRequest, times: int) -> None:
        self.tick()
        with ThreadPoolExecutor(times) as threads:
            answers = list(
                threads.map(lambda _: self.call(self.service.reservations.Reserve, client, request), range(times))
            )
        answers.sort(key=lambda answer: isinstance(answer, Refusal) or answer.replayed)
        for answer in answers:
            given = "" if isinstance(answer, Refusal) else answer.reservation.reservation_id
            expected = self.judge(answer, partial(self.ledger.reserve, CLIENTS[client], request, given))
            if expected is not None:
                self.compare(answer.reservation, expected[0])
                assert answer.replayed == expected[1]

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
        for item in self._items("admin"):
            assert item.held == self.ledger.held((item.sku, item.pool))

    @rule()
    def return_allotments(self) -> None:
        """What the background sweep does."""
        self.cleanup()
        self.tick()
        assert self.service.return_allotments(self.tenant) == self.ledger.return_allotments()

    # Items

    def create_items(self, client: str, request: ipb.BatchCreateItemsRequest) -> None:
        if len(request.items) == 1:
            answer = self.call(self.service.inventory.CreateItem, client, ipb.CreateItemRequest(item=request.items[0]))
        else:
            answer = self.call(self.service.inventory.BatchCreateItems, client, request)
        self.judge(answer, lambda: self.ledger.create(CLIENTS[client], request.items))

    @rule(client=clients, keys=st.sets(st.tuples(skus, pools), min_size=1, max_size=3), capacity=st.integers(0, 8),
          oversell=st.sampled_from([0, 0, 3]), name=names, steering=steerings)  # fmt: skip
    def create(self, client: str, keys: Any, capacity: int, oversell: int, name: str, steering: Any) -> None:
        self.tick()
        items = [
            item_pb2.Item(
                sku=sku, pool=pool, capacity=capacity, oversell_limit=oversell, display_name=name,
                **self._steered(steering),
            )
            for sku, pool in sorted(keys)
        ]  # fmt: skip
        self.create_items(client, ipb.BatchCreateItemsRequest(items=items))

    @rule(client=clients, sku=skus, pool=pools, capacity=st.integers(0, 10), oversell=st.integers(0, 2), name=names,
          paths=st.sets(st.sampled_from(SETTABLE), min_size=1), steering=steerings,
          revision=st.sampled_from(["none", "none", "right", "wrong"]))  # fmt: skip
    def update(
        self, client: str, sku: str, pool: str, capacity: int, oversell: int, name: str, paths: set[str], steering: Any,
        revision: str,
    ) -> None:  # fmt: skip
        self.tick()
        stored = {(item.sku, item.pool): item for item in self._items("admin")}.get((sku, pool))
        current = stored.revision if stored else 1
        request = ipb.UpdateItemRequest(
            item=item_pb2.Item(
                sku=sku,
                pool=pool,
                capacity=capacity,
                oversell_limit=oversell,
                display_name=name,
                **self._steered(steering),
            ),
            revision={"none": 0, "right": current, "wrong": current + 7}[revision],
        )
        request.update_mask.paths.extend(sorted(paths))
        answer = self.call(self.service.inventory.UpdateItem, client, request)
        if isinstance(answer, Refusal) and answer.reason == "REVISION_MISMATCH" and revision == "right":
            # A sweep on demand is a change of its own.
            assert int(answer.metadata["revision"]) > current
            return
        self.judge(answer, lambda: self.ledger.update(CLIENTS[client], request, current))

    def _steered(self, steering: dict[str, Any]) -> dict[str, Any]:
        """The fields that steer a sale; `return_in` is minutes from now."""
        fields = {name: value for name, value in steering.items() if name != "return_in"}
        if steering["return_in"] is not None:
            fields["return_time"] = self.ledger.now + timedelta(minutes=steering["return_in"])
        return fields

    @rule(client=clients, sku=skus, pool=pools, state=st.sampled_from(list(SALE_STATES)))
    def open_or_close(self, client: str, sku: str, pool: str, state: Any) -> None:
        self.tick()
        request = ipb.UpdateItemRequest(
            item=item_pb2.Item(sku=sku, pool=pool, sale_state=state), update_mask={"paths": ["sale_state"]}
        )
        answer = self.call(self.service.inventory.UpdateItem, client, request)
        self.judge(answer, lambda: self.ledger.update(CLIENTS[client], request, 0))

    @rule(client=clients, counts=st.dictionaries(st.tuples(skus, pools), st.integers(0, 9), min_size=1, max_size=3))
    def set_stock(self, client: str, counts: Any) -> None:
        self.cleanup()
        self.tick()
        wanted = [ipb.StockCount(sku=sku, pool=pool, on_hand=number) for (sku, pool), number in counts.items()]
        answer = self.call(self.service.inventory.BatchSetStock, client, ipb.BatchSetStockRequest(counts=wanted))
        assert not isinstance(answer, Refusal), answer
        for ((sku, pool), number), result in zip(counts.items(), answer.results, strict=True):
            try:
                self.ledger.set_stock(CLIENTS[client], sku, pool, number)
            except Refused as refused:
                assert refused.reason in str(result.error), (refused.reason, result)
                continue
            assert result.WhichOneof("result") == "item", result
            assert (result.item.capacity, result.superseded) == (number, False)

    @rule(client=clients, sku=skus, pool=pools, delta=st.sampled_from([-9, -3, -1, 1, 3]), request_id=request_ids)
    def adjust(self, client: str, sku: str, pool: str, delta: int, request_id: str) -> None:
        self.tick()
        self.adjust_capacity(client, ipb.AdjustCapacityRequest(sku=sku, pool=pool, delta=delta, request_id=request_id))

    def adjust_capacity(self, client: str, request: ipb.AdjustCapacityRequest) -> None:
        answer = self.call(self.service.inventory.AdjustCapacity, client, request)
        replayed = self.judge(answer, lambda: self.ledger.adjust(CLIENTS[client], request))
        if replayed is not None:
            assert answer.replayed == replayed
        self.last.append((self.adjust_capacity, client, request))

    @rule(client=clients, sku=skus, back=st.booleans(), quantity=units, request_id=request_ids)
    def transfer(self, client: str, sku: str, back: bool, quantity: int, request_id: str) -> None:
        self.tick()
        giving, taking = ("p", "") if back else ("", "p")
        self.transfer_capacity(
            client,
            ipb.TransferCapacityRequest(
                sku=sku, from_pool=giving, to_pool=taking, quantity=quantity, request_id=request_id
            ),
        )

    def transfer_capacity(self, client: str, request: ipb.TransferCapacityRequest) -> None:
        answer = self.call(self.service.inventory.TransferCapacity, client, request)
        replayed = self.judge(answer, lambda: self.ledger.transfer(CLIENTS[client], request))
        if replayed is not None:
            assert answer.replayed == replayed
        self.last.append((self.transfer_capacity, client, request))

    @rule(client=clients, sku=skus, pool=pools)
    def delete(self, client: str, sku: str, pool: str) -> None:
        self.tick()
        answer = self.call(self.service.inventory.DeleteItem, client, ipb.DeleteItemRequest(sku=sku, pool=pool))
        self.judge(answer, lambda: self.ledger.delete(CLIENTS[client], (sku, pool)))

    @rule(client=clients, wanted=lines)
    def check_availability(self, client: str, wanted: Any) -> None:
        self.tick()
        request = ipb.CheckAvailabilityRequest(lines=quantities(wanted))
        answer = self.call(self.service.inventory.CheckAvailability, client, request)
        merged: dict[tuple[str, str], int] = {}
        for sku, pool, quantity in wanted:
            merged[sku, pool] = merged.get((sku, pool), 0) + quantity
        ledger = self.ledger

        def expect() -> list[tuple[str, str, int, int]]:
            for _, pool in merged:
                if not CLIENTS[client].sees(pool):
                    raise Refused("ITEM_NOT_FOUND", pool=pool)
            for key in merged:
                ledger.item(CLIENTS[client], key)
            return [(*key, asked, ledger.available(key)) for key, asked in merged.items()]

        expected = self.judge(answer, expect)
        if expected is not None:
            assert [(line.sku, line.pool, line.requested, line.available) for line in answer.lines] == expected
            assert answer.available == all(line.shortfall == 0 for line in answer.lines)

    # Reads

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

    def _items(self, client: str) -> Any:
        return self.call(self.service.inventory.ListItems, client, ipb.ListItemsRequest()).items

    @invariant()
    def items_are_as_the_model_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, seen = self.ledger, set()
        for item in self._items("admin"):
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


@pytest.fixture
def still_service(ledger_dsn: str) -> Iterator[StillService]:
    service = StillService(ledger_dsn)
    yield service
    service.close()


def test_every_answer_is_the_models(still_service: StillService) -> None:
    Contract.service = still_service
    run_state_machine_as_test(
        Contract,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
