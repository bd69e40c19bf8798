"""Streams that send one message and then nothing, served through the interceptors of real calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from holdsvc.api.auth.identity import authenticator
from holdsvc.api.auth.keyring import Keyring
from holdsvc.api.bodies import Bodies
from holdsvc.api.calls import Call, Calls, grpc_handlers
from holdsvc.api.services import SERVICES
from holdsvc.engine.limits import AtOnce, ClientLimits, Entrances
from inventoryhold.v1 import event_service_pb2 as events
from tests.support.harness import Harness
from tests.support.partners import Partner


class _Servicer:
    async def StreamEvents(self, _request: Any, _call: Call) -> AsyncIterator[Any]:  # noqa: N802 - as in the proto
        yield events.StreamEventsResponse(heartbeat=True)
        await asyncio.Event().wait()


class _Deaf:
    def started(self, method: str) -> None:
        pass

    def handled(
        self, method: str, call: Call | None, request: Message | None, code: str, reason: str, seconds: float
    ) -> None:
        pass


class EndlessStreams:
    """Opens such streams."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def open(self, secret: str) -> Any:
        """Opens one and reads its only message."""
        stream = Partner(self._channel, secret).events.StreamEvents(events.StreamEventsRequest())
        assert (await stream.read()).heartbeat
        return stream


@asynccontextmanager
async def endless_streams(service: Harness, streams_max: int = 0) -> AsyncIterator[EndlessStreams]:
    """Serves such streams with the keys of a service."""
    limits = ClientLimits(0, streams_max)
    places = service.service.places
    entrances = Entrances(AtOnce(64, 64), AtOnce(64, 64))
    calls = Calls(authenticator(Keyring(places)), places, limits, Bodies(64), entrances, _Deaf(), 30.0)
    server = grpc.aio.server()
    [service_of_events] = [each for each in SERVICES if each.name == "EventService"]
    endpoints = calls.endpoints(service_of_events, _Servicer())
    server.add_generic_rpc_handlers((grpc_handlers(service_of_events, endpoints),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield EndlessStreams(channel)
    finally:
        await server.stop(None)
