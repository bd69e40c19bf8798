"""EventService: streams of committed changes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import date
from functools import partial

from holdsvc import outages
from holdsvc.api import validation
from holdsvc.api.calls import Call
from holdsvc.api.tokens import Held, Tokens
from holdsvc.errors import HoldError
from holdsvc.ledger import tenants
from holdsvc.ledger.feed import Filter, Position
from holdsvc.ledger.proofs import Proof, nothing_told
from holdsvc.model import Caller
from holdsvc.streams.events import Batch
from inventoryhold.v1 import event_service_pb2 as pb


class EventServicer:
    """One async generator each rpc; the proto documents them."""

    async def StreamEvents(self, request: pb.StreamEventsRequest, call: Call) -> AsyncGenerator[bytes]:
        """Streams events, first of all the token of where the stream begins."""
        validation.check(request)
        streams = call.cell.streams
        with streams.sending.admitted():
            identity, last = await streams.events.look(call.caller.tenant)
            tokens, filter_ = Tokens(identity, call.caller.tenant), _filter(call.caller, request)
            begun: Proof | None
            if request.resume_token:
                held = tokens.read(request.resume_token)
                start, begun = held.position, held.proof.of(filter_)
                if held.epoch != identity.epoch:
                    begun = await _arrived(call, held, filter_)
                    start = begun.place
                elif held.history != identity.history:
                    begun = await streams.events.resume(held.proof, filter_, identity.floor)
                    start = begun.place
                if start.event_id > last.last_event_id:
                    # A database that was put back without telling so: it will draw the same ids for other events.
                    raise HoldError(outages.resume_token_foreign())
            elif request.from_oldest:
                start = Position(identity.floor, date.min)
                begun = nothing_told(start, filter_, proven=True)
            else:
                while (begun := await streams.events.begin(last, filter_)) is None:
                    yield pb.StreamEventsResponse(heartbeat=True).SerializeToString()
                start = begun.place
            yield _message(tokens, Batch([], start, begun))
            async with aclosing(streams.events.stream(filter_, start, identity.history, begun)) as batches:
                async for batch in batches:
                    yield _message(tokens, batch)


async def _arrived(call: Call, held: Held, filter_: Filter) -> Proof:
    """Where a stream goes on whose tenant came here from the cell of its token.

    Raises RESUME_TOKEN_FOREIGN for a token of another database, RESUME_TOKEN_EXPIRED for one that was not told all
    events there.
    """
    find = partial(tenants.arrival, tenant=call.caller.tenant)
    arrival = await call.cell.engine.read(call.caller.tenant, find, call.deadline)
    if arrival is None or arrival.history != held.history:
        raise HoldError(outages.resume_token_foreign())
    if held.position.event_id < arrival.last_event_id:
        raise HoldError(outages.resume_token_expired())
    return nothing_told(Position(arrival.begin_event_id, arrival.begin_day), filter_, proven=True)


def _filter(caller: Caller, request: pb.StreamEventsRequest) -> Filter:
    client = None if caller.reads_all else caller.client
    return Filter(caller.tenant, client, frozenset(request.types), caller.pools)


def _message(tokens: Tokens, batch: Batch) -> bytes:
    rest = pb.StreamEventsResponse(resume_token=tokens.write(batch.position, batch.proof), heartbeat=not batch.events)
    return b"".join((*(event.payload for event in batch.events), rest.SerializeToString()))
