"""The rules of InventoryService: what callers do with items."""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from tests.model.books import Refused
from tests.model.machine import CLIENTS, Machine, clients, lines, names, pools, quantities, request_ids, skus, units
from tests.support.harness import Refusal

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


class StockRules(Machine):
    """Items, their capacity, and how their sale is steered."""

    @rule()
    def return_allotments(self) -> None:
        """What the background sweep does."""
        self.cleanup()
        self.tick()
        assert self.service.return_allotments(self.tenant) == self.ledger.return_allotments()

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
        stored = {(item.sku, item.pool): item for item in self.items("admin")}.get((sku, pool))
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
        self.set_sale_state(client, sku, pool, state)

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
