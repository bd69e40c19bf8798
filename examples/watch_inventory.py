"""Prints the live stock of some items, as for a shop window or a dashboard.

    python examples/watch_inventory.py --sku mug --sku cup
    python examples/watch_inventory.py --prefix concert-2026- --until-sold-out

A watcher stores nothing: when the stream breaks it opens a new one, which starts with a snapshot. Needs `pip install
holdsvc`; if the service requires a key, set HOLDSVC_API_KEY.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator

import grpc

from inventoryhold.v1 import inventory_service_pb2, inventory_service_pb2_grpc, item_pb2

PAUSE_S = 0.5

Key = tuple[str, str]
"""The sku and pool of an item."""


def watch(address: str, request: inventory_service_pb2.WatchInventoryRequest) -> Iterator[dict[Key, item_pb2.Item]]:
    """Yields the known items after each message, without end."""
    key = os.environ.get("HOLDSVC_API_KEY")
    metadata = (("x-api-key", key),) if key else ()
    while True:
        items: dict[Key, item_pb2.Item] = {}
        complete = False
        with grpc.insecure_channel(address) as channel:
            stub = inventory_service_pb2_grpc.InventoryServiceStub(channel)
            try:
                for message in stub.WatchInventory(request, metadata=metadata):
                    items.update(((item.sku, item.pool), item) for item in message.items)
                    for deleted in message.deleted_items:
                        items.pop((deleted.sku, deleted.pool), None)
                    # Items missing from a complete snapshot do not exist; before its end they may still follow.
                    complete = complete or message.snapshot_complete
                    if complete:
                        yield items
            except grpc.RpcError as error:
                # A draining server ends its streams with UNAVAILABLE; another one answers.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                print(f"{address} does not answer: {error.details()}", file=sys.stderr, flush=True)
                time.sleep(PAUSE_S)


def name(sku: str, pool: str) -> str:
    """The name that is printed."""
    return f"{sku}@{pool}" if pool else sku


def main() -> int:
    """Prints a line for each item that changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=os.environ.get("HOLDSVC_LISTEN", "127.0.0.1:50051"))
    parser.add_argument("--sku", action="append", default=[], help="an item of the default pool; may be repeated")
    parser.add_argument("--prefix", default="", help="items whose sku begins with this")
    parser.add_argument("--until-sold-out", action="store_true", help="end when nothing remains")
    args = parser.parse_args()
    request = inventory_service_pb2.WatchInventoryRequest(
        items=[item_pb2.ItemKey(sku=sku) for sku in args.sku], sku_prefix=args.prefix
    )
    shown: dict[Key, int] = {}
    for items in watch(args.address, request):
        for key, item in items.items():
            if shown.get(key) != item.revision:
                shown[key] = item.revision
                print(f"{name(*key)}: {item.remaining} remain, {item.held} held, {item.confirmed} sold", flush=True)
        if args.until_sold_out and items and all(item.remaining <= 0 for item in items.values()):
            return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
