"""A running service for tests: a server on a free port, a client on the wire, PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import psycopg
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdsvc.cell_file import CellAddress, only
from holdsvc.ledger import function_set, upkeep
from holdsvc.process.cell import RunningCell
from holdsvc.process.worker import Service
from holdsvc.settings import Settings
from holdsvc.telemetry.counters import LOOP_FAILURES
from inventoryhold.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    error_reason_pb2,
    event_service_pb2_grpc,
    inventory_service_pb2,
    inventory_service_pb2_grpc,
    item_pb2,
    limit_service_pb2_grpc,
    reservation_pb2,
    reservation_service_pb2,
    reservation_service_pb2_grpc,
    waitlist_pb2,
    waitlist_service_pb2,
    waitlist_service_pb2_grpc,
    webhook_service_pb2_grpc,
)

_DETAILS: Mapping[str, type[Message]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_reason_pb2.CapacityShortfall,
        error_reason_pb2.LimitExceeded,
    )
}

SET_NAME = function_set.shipped().name
"""The schema of the functions that the code under test calls."""

TEST_CLOCK = """
CREATE TABLE public.test_clock (ahead interval NOT NULL);
INSERT INTO public.test_clock VALUES ('0');
CREATE OR REPLACE FUNCTION holdsvc.wall_clock() RETURNS timestamptz LANGUAGE sql VOLATILE
AS $$ SELECT clock_timestamp() + (SELECT ahead FROM public.test_clock) $$;
"""


class Clock:
    """The ledger's clock in a test's database; it runs, and a test can advance it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def advance(self, time: timedelta) -> None:
        """Advances the clock."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("UPDATE public.test_clock SET ahead = ahead + %s", (time,))


@dataclass
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Reads an error's status and details."""
    code, message = error.code(), error.details()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for detail in status.details if status else ():
        name = detail.type_url.rpartition("/")[2]
        found[name.rpartition(".")[2]] = message_of = _DETAILS[name]()
        assert detail.Unpack(message_of)
    info = found.get("ErrorInfo")
    if info is None:
        return Refusal(code, message or "", "", {}, found)
    assert info.domain == "holdsvc"
    return Refusal(code, message or "", info.reason, dict(info.metadata), found)


async def refused(call: Awaitable[Any]) -> Refusal:
    """Awaits a call that must fail; returns its refusal."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError(f"not refused: {answer}")


async def outcome(call: Awaitable[Any]) -> Any:
    """The answer of a call, or the reason of its refusal."""
    try:
        return await call
    except grpc.RpcError as error:
        return refusal_of(error).reason or refusal_of(error).code.name


def loop_failures(loop: str) -> float:
    """How many steps of a background loop of this process have failed."""
    return float(LOOP_FAILURES.labels(loop)._value.get())


class Harness:
    """A running service and a client of it."""

    def __init__(self, settings: Settings, dsn: str, owner_dsn: str, addresses: Sequence[CellAddress] = ()) -> None:
        self.settings = settings
        self.owner_dsn = owner_dsn
        self.clock = Clock(owner_dsn)
        self.service = Service(settings, addresses or only(dsn))
        self._stopped = False

    async def start(self, *, sweeping: bool) -> None:
        """Starts the service and opens a channel."""
        await self.service.start(sweeping=sweeping)
        self.channel = self.new_channel()
        self.reservations = reservation_service_pb2_grpc.ReservationServiceStub(self.channel)
        self.inventory = inventory_service_pb2_grpc.InventoryServiceStub(self.channel)
        self.limits = limit_service_pb2_grpc.LimitServiceStub(self.channel)
        self.events = event_service_pb2_grpc.EventServiceStub(self.channel)
        self.waitlist = waitlist_service_pb2_grpc.WaitlistServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self.webhooks = webhook_service_pb2_grpc.WebhookServiceStub(self.channel)

    @property
    def cell(self) -> RunningCell:
        """The only cell, or else the first."""
        return self.service.cells[0]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.service.port}"

    @property
    def http_address(self) -> str:
        """Where it listens for HTTP."""
        return f"127.0.0.1:{self.service.http_port}"

    def new_channel(self) -> grpc.aio.Channel:
        """A connection of its own, without retries."""
        return grpc.aio.insecure_channel(
            self.address, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        )

    @property
    def stopped(self) -> bool:
        """Whether it was stopped."""
        return self._stopped

    async def stop(self) -> None:
        """Closes the channel and drains the service; the second time does nothing."""
        if not self._stopped:
            self._stopped = True
            await self.channel.close()
            await self.service.stop()

    def sql(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Runs SQL as the schema's owner: what the tables really hold. Functions of the set need no schema's name."""
        path = f"-c search_path={SET_NAME},holdsvc"
        with psycopg.connect(self.owner_dsn, autocommit=True, options=path) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    async def sweep(self, max_count: int = 1000) -> upkeep.Released:
        """Runs one sweep, and serves the waitlists."""
        async with self.cell.database.connection() as connection:
            released = await upkeep.release_expired(connection, None, max_count)
        await self.cell.engine.waitlists.sweep()
        return released

    async def return_allotments(self) -> upkeep.Returned:
        """Returns the allotments that are due."""
        async with self.cell.database.connection() as connection:
            return await upkeep.return_allotments(connection, None, 100)

    async def create_item(self, sku: str, capacity: int, **fields: Any) -> item_pb2.Item:
        """Creates an item."""
        request = inventory_service_pb2.CreateItemRequest(item=item_pb2.Item(sku=sku, capacity=capacity, **fields))
        return (await self.inventory.CreateItem(request)).item

    async def item(self, sku: str, pool: str = "") -> item_pb2.Item:
        """Reads an item."""
        return (await self.inventory.GetItem(inventory_service_pb2.GetItemRequest(sku=sku, pool=pool))).item

    async def reserve(
        self, lines: Mapping[str, int] | list[tuple[str, str, int]], **fields: Any
    ) -> reservation_pb2.Reservation:
        """Reserves; `lines` is {sku: quantity} or [(sku, pool, quantity)]."""
        wanted = [(sku, "", quantity) for sku, quantity in lines.items()] if isinstance(lines, Mapping) else lines
        request = reservation_service_pb2.ReserveRequest(
            lines=[item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=quantity) for sku, pool, quantity in wanted],
            **fields,
        )
        return (await self.reservations.Reserve(request)).reservation

    async def join(
        self, lines: Mapping[str, int] | list[tuple[str, str, int]], holder: str, **fields: Any
    ) -> waitlist_pb2.WaitlistEntry:
        """Joins a waitlist; `lines` as in `reserve`."""
        wanted = [(sku, "", quantity) for sku, quantity in lines.items()] if isinstance(lines, Mapping) else lines
        request = waitlist_service_pb2.JoinWaitlistRequest(
            lines=[item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=quantity) for sku, pool, quantity in wanted],
            holder=holder,
            **fields,
        )
        return (await self.waitlist.JoinWaitlist(request)).entry

    async def entry(self, entry_id: str) -> waitlist_pb2.WaitlistEntry:
        """Reads a waitlist entry."""
        request = waitlist_service_pb2.GetWaitlistEntryRequest(entry_id=entry_id)
        return (await self.waitlist.GetWaitlistEntry(request)).entry

    async def get(self, reservation_id: str) -> reservation_pb2.Reservation:
        """Reads a reservation."""
        request = reservation_service_pb2.GetReservationRequest(reservation_id=reservation_id)
        return (await self.reservations.GetReservation(request)).reservation

    async def verify(self) -> None:
        """Asserts that every counter equals what the reservations add up to."""
        report = await self.admin.VerifyLedger(admin_service_pb2.VerifyLedgerRequest())
        assert report.ok, report.drifts


StartService = Callable[..., Awaitable[Harness]]
"""The fixture `start_service`: settings as keywords, `sweeping` for the background sweep."""


async def started(dsn: str, *, sweeping: bool = False, owner_dsn: str | None = None, **settings: Any) -> Harness:
    """A running service without authentication; its owner's DSN is the same unless it is named."""
    values = {"listen": "127.0.0.1:0", "metrics_listen": "", "auth": "off", "drain_grace": "5s", **settings}
    harness = Harness(Settings.load(**values), dsn, owner_dsn or dsn)
    await harness.start(sweeping=sweeping)
    return harness


@asynccontextmanager
async def services(ledger_dsn: str) -> AsyncIterator[StartService]:
    """Starts services on a database; they stop at the end of the block."""
    running: list[Harness] = []

    async def start(*, dsn: str | None = None, owner_dsn: str | None = None, **how: Any) -> Harness:
        harness = await started(dsn or ledger_dsn, owner_dsn=owner_dsn or ledger_dsn, **how)
        running.append(harness)
        return harness

    yield start
    for harness in running:
        await harness.stop()
