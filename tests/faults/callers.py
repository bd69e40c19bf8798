"""Callers that never stop: each reserves, then sells, gives back or extends, and repeats what is not answered."""

import asyncio
import random
import time
import uuid
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
        items = [item_pb2.Item(sku=sku, capacity=15) for sku in self.skus]
        await self._inventory.BatchCreateItems(
            ipb.BatchCreateItemsRequest(items=items), wait_for_ready=True, timeout=60
        )
        self._tasks = [asyncio.create_task(self._work(random.Random(self.seed + n))) for n in range(self._count)]
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
        mine: list[str] = []
        sold: list[str] = []
        while not self._stopping:
            action = dice.random()
            if action < 0.5 or not mine:
                chosen = dice.sample(self.skus, dice.randint(1, 2))
                lines = {(sku, ""): dice.randint(1, 3) for sku in chosen}
                seen = await self._call("Reserve", self._reserve(lines), lines)
                if seen.acknowledged:
                    mine.append(seen.reservation_id)
                continue
            target = mine.pop(dice.randrange(len(mine)))
            if action < 0.7:
                if (await self._call("Confirm", pb.ConfirmRequest(reservation_id=target))).acknowledged:
                    sold.append(target)
            elif action < 0.75:
                await self._call("Extend", pb.ExtendRequest(reservation_id=target))
                mine.append(target)
            else:
                await self._call("Cancel", pb.CancelRequest(reservation_id=target))
            if sold and action > 0.6:
                await self._call("Refund", pb.RefundRequest(reservation_id=sold.pop()))

    def _reserve(self, lines: dict[tuple[str, str], int]) -> pb.ReserveRequest:
        return pb.ReserveRequest(
            lines=[item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=n) for (sku, pool), n in lines.items()]
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
