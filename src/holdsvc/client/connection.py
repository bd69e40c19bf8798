"""What both clients do with a channel: credentials, options, request ids."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from inventoryhold.v1 import reservation_service_pb2

M = TypeVar("M", bound=Message)

TIMEOUT_S = 30.0
"""Deadline of a call whose caller names none, as in `retry_policy.json`."""


@dataclass(frozen=True)
class Tls:
    """TLS to the service, PEM bytes.

    Without `root_certificates` gRPC's own authorities are trusted; a client's certificate needs both `private_key` and
    `certificate_chain`.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def channel_options(more: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Options of the channel: calls wait for a connection, go round the target's addresses, and notice a dead one.

    The retries are the client's own, because gRPC's see only a code. gRPC keeps to transparent ones: of calls that
    never left this process.
    """
    options = {
        "grpc.service_config": json.dumps(
            {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "waitForReady": True}]}
        ),
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2_000,
        **(more or {}),
    }
    return list(options.items())


def call_metadata(api_key: str | None, metadata: Any) -> tuple[tuple[str, str | bytes], ...] | None:
    """The caller's metadata with the API key."""
    given = tuple(metadata) if metadata is not None else ()
    return (*given, ("x-api-key", api_key)) if api_key else given or None


def with_request_id(request: M) -> M:
    """The request with a request_id, where its kind has one and the caller made none.

    A copy: who sends the same message twice means two calls, not a replay of the first.
    """
    if isinstance(request, reservation_service_pb2.BatchReserveRequest):
        batch = reservation_service_pb2.BatchReserveRequest()
        batch.CopyFrom(request)
        for entry in batch.requests:
            entry.request_id = entry.request_id or str(uuid.uuid4())
        return batch  # type: ignore[return-value]
    if getattr(request, "request_id", None) != "":
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())  # type: ignore[attr-defined]
    return copy
