"""The rules of ReservationService: what callers do with reservations."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.model.books import EXPIRED, HELD, Refused
from tests.model.machine import (
    CLIENTS,
    Machine,
    clients,
    holders,
    lines,
    names,
    order_ids,
    picks,
    pools,
    quantities,
    reasons,
    references,
    request_ids,
    seconds,
    skus,
    some_lines,
    ttls,
    units,
)
from tests.support.harness import Refusal


class ReservationRules(Machine):
    """Holds, sales and what becomes of them."""

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

    @rule(number=picks, more=st.integers(-1, 2), state=st.sampled_from([0, 0, 1, 2]))
    def resize(self, number: int, more: int, state: int) -> None:
        """A hold that lives becomes larger or smaller, at times just after its sale was stopped or opened."""
        self.tick()
        live = [r for r in self.ledger.reservations.values() if r.state(self.ledger.now) == HELD]
        if live:
            chosen = live[number % len(live)]
            line = chosen.lines[number % len(chosen.lines)]
            if state:
                self.set_sale_state("admin", line.sku, line.pool, state)
                self.tick()
            change = pb.LineChange(sku=line.sku, pool=line.pool, quantity=line.quantity + more)
            self.change(
                "admin",
                pb.ModifyRequest(
                    reservation_id=chosen.reservation_id, lines=[change], update_mask={"paths": ["lines"]}
                ),
            )

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
