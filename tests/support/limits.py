"""Limits of a running service, for tests."""

from typing import Any

from inventoryhold.v1 import limit_service_pb2 as pb
from tests.support.harness import Harness


def limit(limit_id: str, most: int, **fields: Any) -> pb.Limit:
    """A limit, PER_HOLDER and COUNTS_HELD where nothing else is said; what is None stays unset."""
    terms = {"per": "PER_HOLDER", "counts": "COUNTS_HELD", **fields}
    return pb.Limit(limit_id=limit_id, max_quantity=most, **{k: v for k, v in terms.items() if v is not None})


async def set_limit(service: Harness, limit_id: str, most: int, metadata: Any = (), **fields: Any) -> pb.Limit:
    """Sets a limit and returns it."""
    request = pb.SetLimitRequest(limit=limit(limit_id, most, **fields))
    return (await service.limits.SetLimit(request, metadata=metadata)).limit


async def used(service: Harness, limit_id: str, holder: str = "", client: str = "") -> int:
    """How many units a holder or a client has of a limit."""
    request = pb.GetLimitUsageRequest(limit_id=limit_id, holder=holder, client=client)
    return (await service.limits.GetLimitUsage(request)).usage.used
