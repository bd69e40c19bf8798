"""Callers with API keys."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import grpc.aio

from holdsvc.api.auth.keyring import make_key
from holdsvc.api.rpcs import ALL_SCOPES
from holdsvc.commands.keys import create_key
from inventoryhold.v1 import (
    admin_service_pb2_grpc,
    event_service_pb2_grpc,
    inventory_service_pb2_grpc,
    reservation_service_pb2_grpc,
    waitlist_service_pb2_grpc,
    webhook_service_pb2_grpc,
)
from tests.support.harness import Harness

Metadata = tuple[tuple[str, str], ...]


class _Keyed:
    """A channel that adds the same metadata to every call."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, name: str) -> Callable[..., Any]:
        make = getattr(self._channel, name)
        return lambda *args, **kwargs: partial(make(*args, **kwargs), metadata=self._metadata)


class Partner:
    """A client with a key: stubs that send it with every call."""

    def __init__(self, channel: grpc.aio.Channel, secret: str, header: str = "x-api-key") -> None:
        self.secret = secret
        self.key_id = secret.removeprefix("holdsvc_").partition("_")[0]
        self.metadata: Metadata = ((header, f"Bearer {secret}" if header == "authorization" else secret),)
        keyed: Any = _Keyed(channel, self.metadata)
        self.reservations: Any = reservation_service_pb2_grpc.ReservationServiceStub(keyed)
        self.inventory: Any = inventory_service_pb2_grpc.InventoryServiceStub(keyed)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(keyed)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(keyed)
        self.waitlist: Any = waitlist_service_pb2_grpc.WaitlistServiceStub(keyed)
        self.webhooks: Any = webhook_service_pb2_grpc.WebhookServiceStub(keyed)


async def new_secret(
    service: Harness,
    client: str,
    *,
    tenant: str = "default",
    scopes: Sequence[str] = ("all",),
    pools: str = "",
    lifetime: timedelta | None = None,
) -> str:
    """Creates a key with the code of `holdsvc keys create`."""
    return await asyncio.to_thread(create_key, service.owner_dsn, tenant, client, ",".join(scopes), pools, lifetime)


async def new_partner(service: Harness, client: str, **key: Any) -> Partner:
    """A client on the harness's own channel with a new key."""
    return Partner(service.channel, await new_secret(service, client, **key))


def new_caller(
    service: Harness,
    client: str,
    *,
    tenant: str = "default",
    scopes: Sequence[str] = ALL_SCOPES,
    pools: Sequence[str] = (),
) -> Metadata:
    """Stores a key by SQL, which is quicker than the command; returns the metadata of the client's calls."""
    key = make_key(tenant)
    service.sql(
        "SELECT create_api_key(%s, %s, %s, %s, %s, %s, NULL, NULL)",
        (tenant, key.key_id, client, key.secret_hash, list(scopes), list(pools)),
    )
    return (("x-api-key", key.secret),)
