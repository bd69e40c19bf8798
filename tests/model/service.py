"""The real service for a test that is not a coroutine: in a thread of its own, on a clock that stands still."""

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import grpc
import psycopg

from holdsvc.api.auth.keyring import make_key
from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.ledger import upkeep
from holdsvc.settings import Settings
from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceStub
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from inventoryhold.v1.limit_service_pb2_grpc import LimitServiceStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from inventoryhold.v1.waitlist_service_pb2_grpc import WaitlistServiceStub
from tests.model.books import Client
from tests.support.harness import SET_NAME, Harness

T = TypeVar("T")

STILL_CLOCK = """
CREATE TABLE public.still_clock (at timestamptz NOT NULL);
INSERT INTO public.still_clock VALUES (clock_timestamp());
CREATE OR REPLACE FUNCTION holdsvc.wall_clock() RETURNS timestamptz LANGUAGE sql VOLATILE
AS $$ SELECT at FROM public.still_clock $$;
"""


async def _started(settings: Settings, dsn: str) -> Harness:
    harness = Harness(settings, dsn, dsn)
    await harness.start(sweeping=False)
    return harness


class StillService:
    """A service whose ledger's time moves only when the test says so."""

    def __init__(self, dsn: str) -> None:
        self._owner = psycopg.connect(dsn, autocommit=True)
        self._owner.execute(STILL_CLOCK)
        self.now: datetime = self._owner.execute("SELECT at FROM public.still_clock").fetchone()[0]  # type: ignore[index]
        self.now = self.now.astimezone(UTC)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tenants = itertools.count(1)
        settings = Settings.load(
            listen="127.0.0.1:0", metrics_listen="", auth="api-key", drain_grace="1s", cleanup_rate_per_second=1000
        )
        self._harness = self._run(_started(settings, dsn))
        self._channel = grpc.insecure_channel(self._harness.address, [("grpc.enable_retries", 0)])
        self.reservations = ReservationServiceStub(self._channel)
        self.inventory = InventoryServiceStub(self._channel)
        self.limits = LimitServiceStub(self._channel)
        self.admin = AdminServiceStub(self._channel)
        self.waitlist = WaitlistServiceStub(self._channel)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._channel.close()
        self._run(self._harness.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._owner.close()

    def advance(self, time: timedelta) -> None:
        self.now += time
        self._owner.execute("UPDATE public.still_clock SET at = %s", (self.now,))

    def sql(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Runs SQL as the schema's owner."""
        return self._owner.execute(query.encode(), parameters).fetchall()

    def return_allotments(self, tenant: str) -> int:
        """Returns the allotments of a tenant that are due; returns how many have sent units back."""
        return self._run(self._return_allotments(tenant))

    async def _return_allotments(self, tenant: str) -> int:
        async with self._harness.cell.database.connection() as connection:
            return (await upkeep.return_allotments(connection, tenant, 100)).returned_count

    def sweep(self) -> None:
        """Ends what has lapsed, and serves those who wait."""
        self._run(self._harness.sweep())

    def new_tenant(self, clients: list[Client]) -> tuple[str, dict[str, str]]:
        """A new tenant, and its keys by client."""
        self._owner.execute(f"SELECT {SET_NAME}.create_event_partitions()")
        tenant, secrets = f"t{next(self._tenants)}", {}
        for client in clients:
            key = make_key(tenant)
            scopes = [scope for scope in ALL_SCOPES if client.all_clients or not scope.startswith("reservations.")]
            self._owner.execute(
                f"SELECT * FROM {SET_NAME}.create_api_key(%s, %s, %s, %s, %s, %s, NULL, NULL)",
                (tenant, key.key_id, client.name, key.secret_hash, scopes, sorted(client.pools)),
            )
            secrets[client.name] = key.secret
        return tenant, secrets
