"""Logs: a reader that does not read costs lines, and nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import grpc
import pytest

from holdsvc.api.access_log import REQUEST_ID_CHARS
from holdsvc.telemetry import logs
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as rpb
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.support.polling import wait_until
from tests.support.ports import free_port
from tests.support.program import variables

LINE = "x" * 199 + "\n"


def test_a_log_that_is_not_read_drops_lines_counts_them_and_says_so_later() -> None:
    reading, writing = os.pipe()
    counted: list[int] = []
    outlet = logs.Outlet(writing)
    outlet.count_with(counted.append)
    lines = 3 * logs.WAITING_BYTES_MAX // len(LINE)
    start = time.process_time()
    for _ in range(lines):
        outlet.write(LINE)
    # One that waited for the reader would wait for ever.
    assert time.process_time() - start < 5
    assert sum(counted) > lines // 2
    with os.fdopen(reading) as pipe:
        said = 0
        while said < sum(counted):
            text = pipe.readline()
            if text != LINE:
                told = json.loads(text)
                assert told["event"] == "log.dropped"
                said += told["count"]
        assert said == sum(counted)
        outlet.write("and on\n")
        assert any(text == "and on\n" for text in pipe)
    os.close(writing)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 100_000])
def test_lines_arrive_whole_and_in_order(size: int) -> None:
    reading, writing = os.pipe()
    outlet = logs.Outlet(writing)
    for number in range(5):
        outlet.write(f"{number}" * size + "\n")
    with os.fdopen(reading) as pipe:
        assert [pipe.readline() for _ in range(5)] == [f"{number}" * size + "\n" for number in range(5)]
    outlet.drain()
    os.close(writing)


def test_a_process_whose_log_is_not_read_ends_all_the_same() -> None:
    script = (
        "import structlog\n"
        "from holdsvc.telemetry import logs\n"
        "logs.configure('info')\n"
        "for _ in range(1000): structlog.get_logger().info('call', text='x' * 1000)\n"
        "raise SystemExit(7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 7
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_calls_and_the_drain_go_on_while_the_log_is_not_read(ledger_dsn: str) -> None:
    port, metrics_port = free_port(), free_port()
    settings = variables(
        listen=f"127.0.0.1:{port}",
        metrics_listen=f"127.0.0.1:{metrics_port}",
        auth="off",
        dsn=ledger_dsn,
        log_calls_per_second=1_000_000,
        drain_grace="5s",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "holdsvc", "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **settings},
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            inventory, reservations = InventoryServiceStub(channel), ReservationServiceStub(channel)
            # Refused without a look at the database, and a long line: each of these letters is written as six.
            long = rpb.ReserveRequest(request_id="ü" * REQUEST_ID_CHARS)

            def dropped() -> bool:
                asked = [reservations.Reserve.future(long, timeout=60, wait_for_ready=True) for _ in range(250)]
                assert {call.code() for call in asked} == {grpc.StatusCode.INVALID_ARGUMENT}
                return _dropped(metrics_port) > 0

            wait_until(dropped)
            # One that waited for the log would wait for ever.
            for call in [inventory.ListItems.future(ipb.ListItemsRequest(), timeout=60) for _ in range(100)]:
                call.result()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        events = [json.loads(line)["event"] for line in process.stdout]
        # What the pipe had room for.
        assert events.count("call") > 30
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _dropped(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("holdsvc_log_lines_dropped_total"))


LOGGING = """
import logging
import structlog
from grpc._cython.cygrpc import ExecuteBatchError
from holdsvc.telemetry import logs
logs.configure("info")
structlog.get_logger("x").info("hold.made", sku="seat\\x1b[31m", count=3)
try:
    raise ValueError("secret words")
except ValueError:
    structlog.get_logger("x").exception("hold.failed")
try:
    raise ExecuteBatchError("the caller has gone")
except ExecuteBatchError:
    logging.getLogger("grpc._cython.cygrpc").exception("an answer was not sent")
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_lines_for_people_and_everything_else_json(terminal: bool) -> None:
    reading, writing = os.openpty() if terminal else os.pipe()
    process = subprocess.Popen([sys.executable, "-c", LOGGING], stdout=writing, env={**os.environ, "NO_COLOR": "1"})
    os.close(writing)
    text = ""
    with suppress(OSError):  # a terminal ends so when its last program has
        while part := os.read(reading, 65536):
            text += part.decode()
    os.close(reading)
    assert process.wait(60) == 0
    assert "secret words" not in text
    assert "\x1b" not in text
    if terminal:
        assert "hold.made" in text.splitlines()[0]
        assert "count=3" in text.splitlines()[0]
        assert "ValueError" in text
    else:
        assert [json.loads(line)["event"] for line in text.splitlines()] == ["hold.made", "hold.failed"]
