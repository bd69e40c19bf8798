"""Commands that show the stock by calling a service: what can be had, and what changes."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Optional

import typer

from holdsvc.commands import CommandError, output
from holdsvc.commands.call_options import (
    Address,
    AsJson,
    Lines,
    Pool,
    Screen,
    Timeout,
    as_object,
    called,
    duration_of,
)
from holdsvc.commands.endpoint import Endpoint
from holdsvc.commands.lines import lines_of
from holdsvc.commands.outcome import REFUSED
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2

Key = tuple[str, str]
"""The sku and pool of an item."""

_HEAD_LINES = 4
"""Lines of a live table beside its rows."""


def availability(
    *,
    line: Lines,
    pool: Pool = None,
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Tell whether units can be had now; exit code 3 where one of the lines cannot."""
    screen = Screen(as_json=as_json)
    with called(address, timeout) as client:
        answer = client.inventory.CheckAvailability(pb.CheckAvailabilityRequest(lines=lines_of(line, pool)))
    if screen.as_json:
        screen.messages(answer.lines)
    else:
        from holdsvc.commands import tables

        screen.table(tables.availability(answer.lines))
    if not answer.available:
        raise typer.Exit(REFUSED)


def explain(
    *,
    item: Annotated[
        str, typer.Argument(metavar="ITEM", help="The item: tour, or of another pool tour@web.", show_default=False)
    ],
    pool: Pool = None,
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Tell how much of an item can be had and why, and when held units may come free."""
    [line] = lines_of([f"{item}=1"], pool)
    screen = Screen(as_json=as_json)
    with called(address, timeout) as client:
        answer = client.inventory.ExplainAvailability(pb.ExplainAvailabilityRequest(sku=line.sku, pool=line.pool))
    if screen.as_json:
        screen.messages([answer])
    else:
        from holdsvc.commands import tables

        screen.table(tables.explanation(answer))


def watch(
    *,
    item: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads annotations of this form
        typer.Argument(metavar="ITEM", help="Items: tour, or of another pool tour@web.", show_default=False),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Items whose sku begins with this, besides those named.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Every item.")] = False,
    interval: Annotated[
        str, typer.Option(metavar="DURATION", help="At most one look at the stock in this time.")
    ] = "100ms",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Show items as they change, until Ctrl-C; a lost connection is told and opened again."""
    if not (item or prefix or every):
        raise CommandError("name items, a --prefix, or --all")
    keys = [
        item_pb2.ItemKey(sku=line.sku, pool=line.pool) for line in lines_of((f"{name}=1" for name in item or ()), None)
    ]
    request = pb.WatchInventoryRequest(
        items=[] if every else keys, sku_prefix=prefix, min_interval=duration_of("--interval", interval)
    )
    screen = Screen(as_json=as_json)
    endpoint = Endpoint.load(address)
    with endpoint.streaming() as client:
        if screen.as_json:
            for message in endpoint.followed(lambda: client.inventory.WatchInventory(request)):
                output.write_lines((*map(as_object, message.items), *map(_deleted, message.deleted_items)))
                sys.stdout.flush()
        else:
            # States are made anew for each opening of the stream: what was deleted in between is not in its snapshot.
            _live(endpoint.followed(lambda: states(client.inventory.WatchInventory(request))), screen)


def _deleted(key: item_pb2.ItemKey) -> dict[str, object]:
    return {"sku": key.sku, "pool": key.pool, "deleted": True}


def _live(changes: Iterable[Mapping[Key, item_pb2.Item]], screen: Screen) -> None:
    """A table that follows the items; as many of them as the terminal has room for."""
    from rich.live import Live

    from holdsvc.commands import tables

    console = screen.console()
    with Live(console=console, auto_refresh=False) as live:
        for items in changes:
            room = max(console.height - _HEAD_LINES, 1)
            more = f"and {len(items) - room} more" if len(items) > room else ""
            live.update(tables.items([items[key] for key in sorted(items)[:room]], more), refresh=True)


def states(messages: Iterable[pb.WatchInventoryResponse]) -> Iterator[Mapping[Key, item_pb2.Item]]:
    """All items that a stream tells of, from its complete snapshot on, after each message that changes them."""
    items: dict[Key, item_pb2.Item] = {}
    complete = False
    for message in messages:
        items.update(((item.sku, item.pool), item) for item in message.items)
        for deleted in message.deleted_items:
            items.pop((deleted.sku, deleted.pool), None)
        complete = complete or message.snapshot_complete
        if complete and not message.heartbeat:
            yield items
