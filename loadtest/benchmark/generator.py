"""One process that generates load: reads a plan from standard input, makes the calls, writes a report.

It imports neither gRPC nor protobuf: messages arrive serialised, with placeholders for what differs between calls.
"""

import base64
import gc
import json
import select
import sys
import time
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmark.wire import Connection

SERIAL = b"<serial no.>"
"""Placeholder for the call's number, twelve hexadecimal digits."""

BATCH = b"<batch #>"
"""Placeholder for the call's number, nine hexadecimal digits: three for the entry follow in the message."""

SCRAMBLED = b"<scrambled!>"
"""Placeholder for twelve hexadecimal digits that are unique, but not in order."""

DRAIN_S = 30.0
"""Longest wait for calls in flight at the end."""

_SCRAMBLE = 0x9E3779B97F4B  # odd, so multiplication by it is one to one
_MASK = 2**48 - 1


@dataclass
class Plan:
    """The work of one generator process."""

    host: str
    port: int
    path: str
    metadata: dict[str, str]
    messages: list[str]
    """Base64 of messages with their gRPC prefix; used in turn."""
    connections: int
    in_flight: int
    """Closed loop: calls in flight at all times, over all connections."""
    rate: float
    """Open loop: calls per second, however many are in flight; 0: closed loop."""
    start_at: float
    """On the monotonic clock, which all processes share."""
    warm_up_s: float
    seconds: float
    first_number: int = 0
    number_limit: int = 0
    """Calls to make at most; 0: no limit."""


@dataclass
class Report:
    """The result. Latencies are those of calls that ended within the measured time."""

    calls: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    measured: int = 0
    processor_s: float = 0.0
    ended: str = ""
    """Base64 of doubles: when each measured call ended, in seconds from the start of the measured time."""
    latency: str = ""
    """Base64 of doubles: seconds from when the call was due."""


class Generator:
    """Carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connections = [
            Connection(plan.host, plan.port, plan.path, plan.metadata) for _ in range(plan.connections)
        ]
        self._messages = [base64.b64decode(message) for message in plan.messages]
        self._number = plan.first_number
        self._limit = plan.first_number + plan.number_limit if plan.number_limit else 2**47
        self._statuses: Counter[int] = Counter()
        self._ended = array("d")
        self._latency = array("d")
        self._epoll = select.epoll()
        self._by_fd = {connection.fileno(): connection for connection in self._connections}
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)
        self._measure_from = plan.start_at + plan.warm_up_s
        self._measure_to = self._measure_from + plan.seconds

    def _message(self) -> bytes:
        number = self._number
        self._number = number + 1
        message = self._messages[number % len(self._messages)]
        if SCRAMBLED in message:
            message = message.replace(SCRAMBLED, b"%012x" % (number * _SCRAMBLE & _MASK))
        if BATCH in message:
            message = message.replace(BATCH, b"%09x" % number)
        if SERIAL in message:
            message = message.replace(SERIAL, b"%012x" % number)
        return message

    def _call(self, connection: Connection, due: float) -> None:
        if self._number < self._limit:
            connection.call(due, self._message())

    def run(self) -> Report:
        """Runs to the end."""
        while time.monotonic() < self._plan.start_at:
            # Meanwhile both sides exchange their HTTP/2 settings.
            self._turn(0.01, refill_to=0.0)
        started = time.process_time()
        if self._plan.rate:
            self._run_open()
        else:
            self._run_closed()
        self._drain()
        report = Report(
            calls=sum(self._statuses.values()),
            statuses={str(status): count for status, count in self._statuses.items()},
            measured=len(self._latency),
            processor_s=time.process_time() - started,
            ended=base64.b64encode(self._ended.tobytes()).decode(),
            latency=base64.b64encode(self._latency.tobytes()).decode(),
        )
        for connection in self._connections:
            connection.close()
        return report

    def _run_closed(self) -> None:
        now = time.monotonic()
        for number in range(self._plan.in_flight):
            self._call(self._connections[number % len(self._connections)], now)
        self._flush()
        while time.monotonic() < self._measure_to:
            self._turn(0.1, refill_to=self._measure_to)
            if self._number >= self._limit and not any(connection.in_flight for connection in self._connections):
                return

    def _run_open(self) -> None:
        """Makes each call at a time fixed in advance and measures its latency from that time.

        Calls that a stalled service delayed are therefore measured in full (no coordinated omission).
        """
        gap, due = 1.0 / self._plan.rate, self._plan.start_at
        turn = 0
        while due < self._measure_to:
            now = time.monotonic()
            if due <= now:
                while due <= now and due < self._measure_to:
                    self._call(self._connections[turn], due)
                    turn = (turn + 1) % len(self._connections)
                    due += gap
                self._flush()
            self._turn(max(0.0, min(due - time.monotonic(), 0.1)), refill_to=0.0)

    def _drain(self) -> None:
        give_up = time.monotonic() + DRAIN_S
        while any(connection.in_flight for connection in self._connections):
            if time.monotonic() > give_up:
                raise TimeoutError(f"calls were not answered within {DRAIN_S:.0f} s after the end")
            self._turn(0.1, refill_to=0.0)

    def _flush(self) -> None:
        for connection in self._connections:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        was_blocked = connection.blocked
        connection.flush()
        if connection.blocked != was_blocked or was_blocked:
            events = select.EPOLLIN | (select.EPOLLOUT if connection.blocked else 0)
            self._epoll.modify(connection.fileno(), events)

    def _turn(self, timeout: float, refill_to: float) -> None:
        """Handles ready sockets; until `refill_to` each call that ends is followed by another."""
        for fd, _ in self._epoll.poll(timeout):
            connection = self._by_fd[fd]
            ended = connection.receive()
            if ended:
                now = time.monotonic()
                refill = now < refill_to
                inside = self._measure_from <= now < self._measure_to
                for due, status in ended:
                    self._statuses[status] += 1
                    # An open loop counts the calls that were due within the measured time, even if they end later.
                    if inside if not self._plan.rate else due >= self._measure_from:
                        self._ended.append(now - self._measure_from)
                        self._latency.append(now - due)
                    if refill:
                        self._call(connection, now)
            self._send(connection)


def main() -> None:
    """Reads the plan, runs it, writes the report."""
    plan: dict[str, Any] = json.load(sys.stdin)
    generator = Generator(Plan(**plan))
    # Nothing here makes cycles, and a collection would count as latency of the service.
    gc.disable()
    json.dump(asdict(generator.run()), sys.stdout)


if __name__ == "__main__":
    main()
