"""EventService: the change feed."""

from collections.abc import AsyncIterator

from holdsvc.api.calls import Call
from inventoryhold.v1 import event_service_pb2 as pb


class EventServicer:
    """One coroutine each rpc; the proto documents them."""

    async def StreamEvents(self, request: pb.StreamEventsRequest, call: Call) -> AsyncIterator[pb.StreamEventsResponse]:
        """Streams committed changes."""
        raise NotImplementedError
        yield
