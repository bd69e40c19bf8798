"""`holdsvc events tail`: what happens, as it happens, by calling a service."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Optional

import typer

from holdsvc.client import Client, messages
from holdsvc.commands.call_options import Address, AsJson, Screen, one_of
from holdsvc.commands.endpoint import Endpoint
from inventoryhold.v1 import event_pb2
from inventoryhold.v1 import event_service_pb2 as pb

_PREFIX = "EVENT_TYPE_"


def tail(
    *,
    kind: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads annotations of this form
        typer.Option(
            "--type",
            parser=one_of(event_pb2.EventType, _PREFIX),
            metavar="TYPE",
            help="Only events of this type; may be repeated.",
            show_default=False,
        ),
    ] = None,
    from_oldest: Annotated[
        bool, typer.Option("--from-oldest", help="Begin with the oldest event that is kept.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many events. 0: never.")] = 0,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Show events as they happen, until Ctrl-C; a lost connection is told and continued without a gap."""
    request = pb.StreamEventsRequest(from_oldest=from_oldest, types=kind)
    screen = Screen(as_json=as_json)
    endpoint = Endpoint.load(address)
    with endpoint.streaming() as client:
        events = islice(endpoint.followed(lambda: resumed(client, request)), count or None)
        if screen.as_json:
            for event in events:
                screen.messages([event])
        else:
            from holdsvc.commands import tables

            console = screen.console()
            for event in events:
                console.print(tables.event(event))


def resumed(client: Client, request: pb.StreamEventsRequest) -> Iterator[event_pb2.Event]:
    """The events of one stream; the request moves on with them, so that the next stream continues behind."""
    for message in client.events.StreamEvents(request):
        yield from message.events
        messages.advance(request, message)
