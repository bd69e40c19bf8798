"""Ports for services that a test starts, ends and starts again."""

import random
import socket
from pathlib import Path

LOWEST = 10_000
_dice = random.SystemRandom()  # tests seed the common one
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on, and that no connection gets for its own end.

    One that the system chose may be given to a client while the service is down, even to the one that calls for it.
    """
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    while True:
        # 0: where the system gives out all of them, any is as good.
        port = _dice.randrange(LOWEST, first) if first > 2 * LOWEST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
