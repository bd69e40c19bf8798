"""InventoryService: checks requests, hands them to the engine, makes answers."""

from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing

from holdsvc import change_requests, errors, model
from holdsvc.api import batches, convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.changes import Check
from holdsvc.api.content import check_pool, check_pools, fingerprint, merged_lines
from holdsvc.api.pages import Pages, Position
from holdsvc.api.turns import Turns
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import availability, counts, items
from holdsvc.ledger.database import Connection
from holdsvc.model import Done, ItemKey, Violation
from holdsvc.streams.subscriptions import Selection
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2

WATCH_INTERVAL_S = 0.1
"""The shortest time between two messages of a watcher that names none."""


class InventoryServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, turns: Turns, pages: Pages) -> None:
        self._turns = turns
        self._pages = pages

    async def CreateItem(self, request: pb.CreateItemRequest, call: Call) -> pb.CreateItemResponse:
        """Creates an item."""
        validation.check(request, *_returning_to_themselves([request.item], "item"))
        [created] = await self._create([request.item], call)
        return pb.CreateItemResponse(item=convert.item(created))

    async def BatchCreateItems(self, request: pb.BatchCreateItemsRequest, call: Call) -> pb.BatchCreateItemsResponse:
        """Creates many items or none."""
        validation.check_count(request, "items")
        seen: dict[tuple[str, str], int] = {}
        repeated = []
        for index, item in enumerate(request.items):
            first = seen.setdefault((item.sku, item.pool), index)
            if first != index:
                repeated.append(Violation(f"items[{index}]", f"names the same item as items[{first}]", "REPEATED_ITEM"))
        validation.check(request, *repeated, *_returning_to_themselves(request.items, "items[{}]"))
        created = await self._create(request.items, call)
        return pb.BatchCreateItemsResponse(items=[convert.item(item) for item in created])

    async def _create(self, wanted: Sequence[item_pb2.Item], call: Call) -> list[model.Item]:
        new = [convert.wanted_item(item) for item in wanted]
        for item in new:
            check_pool(call.caller, item.sku, item.pool)
            if item.return_time is not None:
                check_pool(call.caller, item.sku, item.return_pool or "")
        result = await call.cell.engine.change(
            call.caller.tenant, lambda connection: items.create(connection, call.caller, new), call.deadline
        )
        return unwrap(result).value

    async def GetItem(self, request: pb.GetItemRequest, call: Call) -> pb.GetItemResponse:
        """Reads one item."""
        validation.check(request)
        check_pool(call.caller, request.sku, request.pool)
        key = ItemKey(request.sku, request.pool)
        [found] = await call.cell.engine.read(
            call.caller.tenant, lambda connection: items.get(connection, call.caller.tenant, [key]), call.deadline
        )
        if found is None:
            raise HoldError(errors.item_not_found(request.sku, request.pool))
        return pb.GetItemResponse(item=convert.item(found))

    async def ListItems(self, request: pb.ListItemsRequest, call: Call) -> pb.ListItemsResponse:
        """Lists items in order of sku and pool."""
        caller = call.caller
        page = await self._pages.begin(request, call)
        pools: list[str] | None = sorted(caller.pools) or None
        if request.HasField("pool"):
            pools = [request.pool] if caller.sees_pool(request.pool) else []
        response = pb.ListItemsResponse()

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[model.Part[model.Item]]:
            return items.list_page(connection, caller.tenant, request.sku_prefix, pools, after, limit)

        response.next_page_token = await page.fill(
            response.items.append, read, convert.item, lambda found: [found.sku, found.pool]
        )
        return response

    async def UpdateItem(self, request: pb.UpdateItemRequest, call: Call) -> pb.UpdateItemResponse:
        """Sets fields of an item."""
        paths = set(request.update_mask.paths)
        validation.check(request, validation.mask_rule(request.update_mask), *_unsaid(request.item, paths))
        new = convert.wanted_item(request.item)
        check_pool(call.caller, new.sku, new.pool)
        result = await call.cell.engine.change(
            call.caller.tenant,
            lambda connection: items.update(connection, call.caller, new, paths, request.revision),
            call.deadline,
        )
        return pb.UpdateItemResponse(item=convert.item(unwrap(result).value))

    async def AdjustCapacity(self, request: pb.AdjustCapacityRequest, call: Call) -> pb.AdjustCapacityResponse:
        """Changes a capacity by a difference."""
        validation.check(request)
        check_pool(call.caller, request.sku, request.pool)
        change = change_requests.Adjust(
            caller=call.caller,
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            sku=request.sku,
            pool=request.pool,
            delta=request.delta,
            reason=request.reason,
            effective_time=convert.time_of(request, "effective_time"),
        )
        [answer] = await call.cell.engine.adjust([change], call.deadline)
        done = unwrap(answer)
        return pb.AdjustCapacityResponse(item=convert.item(done.value), replayed=done.replayed)

    async def BatchSetStock(self, request: pb.BatchSetStockRequest, call: Call) -> pb.BatchSetStockResponse:
        """Sets many capacities from counts, each by itself."""
        validation.check_count(request, "counts")
        return await batches.answer(
            request,
            request.counts,
            call,
            self._turns,
            pb.BatchSetStockResponse(),
            make=_Counts(),
            submit=call.cell.engine.set_stock,
            put=_put_result,
        )

    async def TransferCapacity(self, request: pb.TransferCapacityRequest, call: Call) -> pb.TransferCapacityResponse:
        """Moves capacity between pools."""
        validation.check(request)
        check_pool(call.caller, request.sku, request.from_pool)
        check_pool(call.caller, request.sku, request.to_pool)
        change = change_requests.Transfer(
            caller=call.caller,
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            sku=request.sku,
            from_pool=request.from_pool,
            to_pool=request.to_pool,
            quantity=request.quantity,
            reason=request.reason,
        )
        [answer] = await call.cell.engine.transfer([change], call.deadline)
        done = unwrap(answer)
        return pb.TransferCapacityResponse(
            from_item=convert.item(done.value.giving),
            to_item=convert.item(done.value.taking),
            replayed=done.replayed,
        )

    async def DeleteItem(self, request: pb.DeleteItemRequest, call: Call) -> pb.DeleteItemResponse:
        """Deletes an item of which nothing is held or confirmed."""
        validation.check(request)
        check_pool(call.caller, request.sku, request.pool)
        key = ItemKey(request.sku, request.pool)
        unwrap(
            await call.cell.engine.change(
                call.caller.tenant, lambda connection: items.delete(connection, call.caller, key), call.deadline
            )
        )
        return pb.DeleteItemResponse()

    async def CheckAvailability(self, request: pb.CheckAvailabilityRequest, call: Call) -> pb.CheckAvailabilityResponse:
        """Tells what can be had."""
        validation.check(request)
        lines = merged_lines(request.lines)
        check_pools(call.caller, (line[:2] for line in lines))
        found = await call.cell.engine.read(
            call.caller.tenant, lambda connection: items.check(connection, call.caller.tenant, lines), call.deadline
        )
        response = pb.CheckAvailabilityResponse(available=True)
        for line, available in zip(lines, found, strict=True):
            if available is None:
                raise HoldError(errors.item_not_found(line.sku, line.pool))
            shortfall = max(0, line.quantity - available)
            response.available &= not shortfall
            response.lines.add(
                sku=line.sku, pool=line.pool, requested=line.quantity, available=available, shortfall=shortfall
            )
        return response

    async def ExplainAvailability(
        self, request: pb.ExplainAvailabilityRequest, call: Call
    ) -> pb.ExplainAvailabilityResponse:
        """Tells what can be had of one item and why."""
        validation.check(request)
        check_pool(call.caller, request.sku, request.pool)
        key = ItemKey(request.sku, request.pool)
        found = await call.cell.engine.read(
            call.caller.tenant, lambda connection: availability.explain(connection, call.caller, key), call.deadline
        )
        if found is None:
            raise HoldError(errors.item_not_found(request.sku, request.pool))
        return convert.explanation(found)

    async def WatchInventory(self, request: pb.WatchInventoryRequest, call: Call) -> AsyncGenerator[bytes]:
        """Streams the state of items as they change."""
        validation.check(request)
        for key in request.items:
            check_pool(call.caller, key.sku, key.pool)
        selection = Selection(
            call.caller.tenant,
            frozenset([ItemKey(key.sku, key.pool) for key in request.items]),
            None if request.items and not request.sku_prefix else request.sku_prefix,
            call.caller.pools,
        )
        interval_s = WATCH_INTERVAL_S
        if request.HasField("min_interval"):
            interval_s = validation.microseconds_of(request.min_interval) / 1_000_000
        with call.cell.streams.sending.admitted():
            async with aclosing(call.cell.streams.watch.watch(selection, interval_s)) as messages:
                async for message in messages:
                    yield message


class _Counts:
    """Makes the changes of the counts of one call, of which each must be of another item."""

    def __init__(self) -> None:
        self._seen: set[ItemKey] = set()

    def __call__(self, count: pb.StockCount, call: Call, check: Check) -> change_requests.SetStock:
        key = ItemKey(count.sku, count.pool)
        check(
            count,
            Violation("sku", "names an item that an earlier count names", "REPEATED_ITEM")
            if key in self._seen
            else None,
        )
        self._seen.add(key)
        check_pool(call.caller, *key)
        return change_requests.SetStock(
            caller=call.caller,
            request_id="",
            fingerprint=b"",
            sku=count.sku,
            pool=count.pool,
            on_hand=count.on_hand,
            count_time=convert.time_of(count, "count_time"),
            revision=count.revision,
        )


def _put_result(result: pb.SetStockResult, done: Done[counts.Counted]) -> None:
    result.item.CopyFrom(convert.item(done.value.item))
    result.superseded = done.value.superseded


def _returning_to_themselves(items: Sequence[item_pb2.Item], path: str) -> list[Violation]:
    return [
        violation
        for index, item in enumerate(items)
        if item.HasField("return_time") and item.return_pool == item.pool
        for violation in errors.returns_to_itself(f"{path.format(index)}.return_pool").violations
    ]


def _unsaid(item: item_pb2.Item, paths: set[str]) -> Iterator[Violation]:
    """Set without a value, these would open a closed item, or turn a waitlist off, by mistake."""
    for name, values in (("sale_state", "OPEN or CLOSED"), ("waitlist_policy", "OFF, FIRST_FITTING or STRICT")):
        if name in paths and not getattr(item, name):
            yield Violation(f"item.{name}", f"must be {values}", "REQUIRED")
