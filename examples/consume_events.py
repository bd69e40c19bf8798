"""Follows every change exactly once, as an order system, a search index or a data warehouse does.

    python examples/consume_events.py --state place.json

The position in the stream is written together with the effect of the events, here the units sold of each item, in one
step, so a crash neither counts an event twice nor loses one. Needs `pip install holdsvc`; if the service requires a
key, set HOLDSVC_API_KEY.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from inventoryhold.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc

PAUSE_S = 0.5


class Sold:
    """Units sold of each item, and the position of the stream up to which they are counted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"token": "", "sold": {}}
        self.token: str = state["token"]
        self.sold: dict[str, int] = state["sold"]

    def count(self, event: event_pb2.Event) -> None:
        """Adds the units that an event sold or refunded."""
        sign = {event_pb2.EVENT_TYPE_CONFIRMED: 1, event_pb2.EVENT_TYPE_REFUNDED: -1}.get(event.type, 0)
        for line in event.lines:
            self.sold[line.sku] = self.sold.get(line.sku, 0) + sign * line.quantity

    def save(self, token: str) -> None:
        """Writes the counts and the position together, or neither."""
        self.token = token
        part = self._file.with_name(self._file.name + ".part")
        part.write_text(json.dumps({"token": self.token, "sold": self.sold}))
        part.replace(self._file)


def follow(address: str, state: Sold, until_sold: int) -> None:
    """Counts until `until_sold` units are sold; 0: without end."""
    key = os.environ.get("HOLDSVC_API_KEY")
    metadata = (("x-api-key", key),) if key else ()
    while sum(state.sold.values()) < until_sold or not until_sold:
        request = event_service_pb2.StreamEventsRequest(
            resume_token=state.token,
            from_oldest=not state.token,
            types=[event_pb2.EVENT_TYPE_CONFIRMED, event_pb2.EVENT_TYPE_REFUNDED],
        )
        with grpc.insecure_channel(address) as channel:
            call = event_service_pb2_grpc.EventServiceStub(channel).StreamEvents(request, metadata=metadata)
            try:
                for message in call:
                    for event in message.events:
                        state.count(event)
                    state.save(message.resume_token)
                    if until_sold and sum(state.sold.values()) >= until_sold:
                        return
            except grpc.RpcError as error:
                # OUT_OF_RANGE and INVALID_ARGUMENT: the position is gone; start again from the current state.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                print(f"{address} does not answer: {error.details()}", file=sys.stderr, flush=True)
                time.sleep(PAUSE_S)


def main() -> int:
    """Prints the units sold at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=os.environ.get("HOLDSVC_LISTEN", "127.0.0.1:50051"))
    parser.add_argument("--state", type=Path, required=True, help="file for the position and the counts")
    parser.add_argument("--until-sold", type=int, default=0, help="end when that many units are sold; 0: never")
    args = parser.parse_args()
    state = Sold(args.state)
    follow(args.address, state, args.until_sold)
    print(json.dumps(state.sold))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
