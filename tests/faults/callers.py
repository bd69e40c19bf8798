"""Callers that never stop: each reserves, then changes, sells, ships, gives back, and repeats what is not answered.

An operator stops and opens sales and keeps units back meanwhile.
"""

import asyncio
import random
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.faults.history import History, Seen
from tests.support.harness import refusal_of
from tests.support.polling import until

MAYBE = {"", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN", "OVERLOADED"}
"""Reasons after which the same call is repeated, which is safe with its request_id. Empty: no answer."""

RETRY_PAUSE_S = 0.05
DEADLINE_S = 3.0
PATIENCE_S = 120.0
STEER_PAUSE_S = 0.02


@dataclass
class _Hold:
    """A hold that its caller knows."""

    id: str
    lines: dict[tuple[str, str], int]


class Callers:
    """A number of callers of one service, and the history of what they saw."""

    def __init__(
        self, address: str, *, count: int = 12, items: int = 4, seed: int | None = None, history: History | None = None
    ) -> None:
        self.history = history if history is not None else History()
        self.seed = seed if seed is not None else random.randrange(2**32)
        self._channel = grpc.aio.insecure_channel(
            address,
            [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200),
             ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 1000)],
        )  # fmt: skip
        self._reservations: Any = ReservationServiceStub(self._channel)
        self._inventory: Any = InventoryServiceStub(self._channel)
        self._count = count
        self._run = uuid.uuid4().hex[:6]
        self.skus = [f"{self._run}-{number}" for number in range(items)]
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._answered = 0

    async def __aenter__(self) -> Self:
        print(f"callers: seed {self.seed}")  # noqa: T201 - pytest shows it with a failure
        items = [item_pb2.Item(sku=sku, capacity=15, low_at=4) for sku in self.skus]
        await self._inventory.BatchCreateItems(
            ipb.BatchCreateItemsRequest(items=items), wait_for_ready=True, timeout=60
        )
        self._tasks = [asyncio.create_task(self._work(random.Random(self.seed + n))) for n in range(self._count)]
        self._tasks.append(asyncio.create_task(self._steer(random.Random(self.seed - 1))))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._channel.close()

    async def progress(self, calls: int, timeout_s: float = 100.0) -> float:
        """Waits for so many more answers; returns how long that took."""
        wanted = self._answered + calls
        return await until(lambda: self._answered >= wanted, timeout_s=timeout_s)

    async def _work(self, dice: random.Random) -> None:
        mine: list[_Hold] = []
        sold: list[str] = []
        while not self._stopping:
            action = dice.random()
            if action < 0.45 or not mine:
                lines = {(sku, ""): dice.randint(1, 3) for sku in dice.sample(self.skus, dice.randint(1, 2))}
                # Some lapse before they are sold, and are rescued.
                ttl_s = dice.choice([1, 60, 60, 60])
                seen = await self._call("Reserve", self._reserve(lines, ttl_s), lines)
                if seen.acknowledged:
                    mine.append(_Hold(seen.reservation_id, lines))
                continue
            hold = mine.pop(dice.randrange(len(mine)))
            if action < 0.6:
                confirm = pb.ConfirmRequest(reservation_id=hold.id, rescue=True)
                if (await self._call("Confirm", confirm, hold.lines)).acknowledged:
                    sold.append(hold.id)
            elif action < 0.65:
                if (await self._call("Extend", pb.ExtendRequest(reservation_id=hold.id))).acknowledged:
                    mine.append(hold)
            elif action < 0.75:
                mine += await self._modify(hold, dice)
            elif action < 0.8 and max(hold.lines.values()) > 1:
                mine += await self._cancel_a_part(hold)
            else:
                await self._call("Cancel", pb.CancelRequest(reservation_id=hold.id))
            if sold and action > 0.55:
                await self._after_the_sale(sold.pop(), dice)

    async def _modify(self, hold: "_Hold", dice: random.Random) -> list["_Hold"]:
        """Changes the units of one item of a hold; returns the hold while it is known."""
        key = dice.choice([(sku, "") for sku in self.skus])
        before = hold.lines.get(key, 0)
        after = dice.choice([units for units in range(1, 5) if units != before])
        request = pb.ModifyRequest(
            reservation_id=hold.id,
            lines=[pb.LineChange(sku=key[0], quantity=after)],
            update_mask={"paths": ["lines"]},
        )
        seen = await self._call("Modify", request, {key: after - before})
        if seen.acknowledged:
            hold.lines[key] = after
        return [] if seen.unknown else [hold]

    async def _cancel_a_part(self, hold: "_Hold") -> list["_Hold"]:
        key = max(hold.lines, key=lambda each: hold.lines[each])
        request = pb.CancelRequest(
            reservation_id=hold.id, lines=[item_pb2.ItemQuantity(sku=key[0], pool=key[1], quantity=1)]
        )
        seen = await self._call("Cancel", request)
        if seen.acknowledged:
            hold.lines[key] -= 1
        return [] if seen.unknown else [hold]

    async def _after_the_sale(self, sold: str, dice: random.Random) -> None:
        """Ships it, or part of it is a return, or all of it is given back."""
        shipped = (
            dice.random() < 0.5 and (await self._call("Fulfil", pb.FulfilRequest(reservation_id=sold))).acknowledged
        )
        if not shipped or dice.random() < 0.9:
            refund = pb.RefundRequest(reservation_id=sold, write_off=not shipped and dice.random() < 0.05)
            await self._call("Refund", refund)

    async def _steer(self, dice: random.Random) -> None:
        """Stops and opens sales and sets buffers, without a request id: the events tell what took effect."""
        while not self._stopping:
            state = dice.choice([item_pb2.Item.SALE_STATE_OPEN] * 3 + [item_pb2.Item.SALE_STATE_CLOSED])
            item = item_pb2.Item(sku=dice.choice(self.skus), sale_state=state, buffer=dice.choice([0, 0, 0, 2]))
            request = ipb.UpdateItemRequest(item=item, update_mask={"paths": ["sale_state", "buffer"]})
            with suppress(grpc.RpcError):
                await self._inventory.UpdateItem(request, timeout=DEADLINE_S)
            # As often as a caller has come round.
            await asyncio.sleep(STEER_PAUSE_S)

    def _reserve(self, lines: dict[tuple[str, str], int], ttl_s: int) -> pb.ReserveRequest:
        return pb.ReserveRequest(
            ttl=timedelta(seconds=ttl_s),
            lines=[item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=n) for (sku, pool), n in lines.items()],
        )

    async def _call(self, rpc: str, request: Any, lines: dict[tuple[str, str], int] | None = None) -> Seen:
        request.request_id = str(uuid.uuid4())
        seen = Seen(rpc, request.request_id, time.time(), lines=lines or {})
        self.history.calls.append(seen)
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            seen.tries += 1
            seen.last_try_s = time.time()
            try:
                answer = await getattr(self._reservations, rpc)(request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                if refusal.reason in MAYBE:
                    await asyncio.sleep(RETRY_PAUSE_S)
                    continue
                seen.reason = refusal.reason
            else:
                seen.reservation_id = answer.reservation.reservation_id
            break
        seen.returned_s = time.time()
        self._answered += 1
        return seen
