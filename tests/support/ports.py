"""Ports for services that a test stops and starts again."""

import random
import socket
from pathlib import Path

LOWEST = 10_000
_dice = random.SystemRandom()  # tests seed the shared generator
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A free port outside of the range for outgoing connections.

    A port that the system chose could be given to a client while the service is down.
    """
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    while True:
        # 0: if that range covers all ports, let the system choose.
        port = _dice.randrange(LOWEST, first) if first > 2 * LOWEST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
