"""`holdsvc dev`: from nothing to a service with traffic, and back to nothing."""

import asyncio
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from holdsvc.client import Client
from holdsvc.commands.demo import ITEMS, Visitors, create_items
from inventoryhold.v1 import (
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    reservation_pb2,
    reservation_service_pb2,
)
from tests.support.harness import Harness
from tests.support.polling import wait_until
from tests.support.program import WAIT_S, Watched, descendants

FREE = "127.0.0.1:0"


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`holdsvc dev` whose temporary files are in the folder; a DSN in its environment is not for it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "holdsvc", "dev", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "HOLDSVC_DSN": "host=127.0.0.1 port=1 dbname=mine"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_dev_serves_demo_items_with_traffic_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with running(
        tmp_path, "--listen", FREE, "--metrics-listen", FREE, "--http-listen", FREE, "--rate", "50"
    ) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        found = re.search(r"gRPC +(\S+) ", said)
        assert found, said
        assert f"holdsvc top --address {found[1]}" in said
        web = re.search(r"console +http://(\S+)/ ", said)
        assert web, said
        with urllib.request.urlopen(f"http://{web[1]}/readyz", timeout=WAIT_S) as page:
            assert page.status == 200
        with grpc.insecure_channel(found[1]) as channel:
            request = event_service_pb2.StreamEventsRequest(
                from_oldest=True,
                types=[
                    event_pb2.EVENT_TYPE_ITEM_CREATED,
                    event_pb2.EVENT_TYPE_RESERVED,
                    event_pb2.EVENT_TYPE_CONFIRMED,
                ],
            )
            seen: Counter[event_pb2.EventType] = Counter()
            for message in event_service_pb2_grpc.EventServiceStub(channel).StreamEvents(request, timeout=WAIT_S):
                seen.update(event.type for event in message.events)
                if len(seen) == 3:
                    break
        assert seen[event_pb2.EVENT_TYPE_ITEM_CREATED] == len(ITEMS)
        everything = Watched([pid for pid, _, _ in descendants(process.pid)])
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WAIT_S)
        assert (process.returncode, "Traceback" in rest) == (130, False)
        assert everything.have_ended()
        assert list(tmp_path.iterdir()) == []


def test_a_killed_dev_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", FREE, "--metrics-listen", FREE, "--http-listen", FREE) as process:
        wait_until(lambda: any("postgres" in line for _, line, _ in descendants(process.pid)), timeout_s=WAIT_S)
        everything = Watched([pid for pid, _, _ in descendants(process.pid)])
        process.kill()
        assert everything.have_ended()
    shutil.rmtree(tmp_path)


def test_dev_says_which_address_is_in_use_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running(tmp_path, "--listen", address, "--metrics-listen", FREE, "--http-listen", FREE) as process:
            output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert f"HOLDSVC_LISTEN: cannot listen on {address}: Address already in use" in output
    assert list(tmp_path.iterdir()) == []


async def test_visitors_hold_buy_and_bring_back_for_ever(service: Harness) -> None:
    def visit() -> None:
        with Client(service.address, coalesce=False) as client:
            create_items(client)
            visitors = Visitors(client, random.Random(1))
            for _ in range(300):
                visitors.step()

    await asyncio.to_thread(visit)
    answer = await service.reservations.ListReservations(reservation_service_pb2.ListReservationsRequest(page_size=300))
    states = {reservation_pb2.Reservation.State.Name(each.state) for each in answer.reservations}
    assert states == {"STATE_HELD", "STATE_CONFIRMED", "STATE_CANCELLED", "STATE_REFUNDED"}
    await service.verify()
