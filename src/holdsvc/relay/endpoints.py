"""What the endpoints of webhooks share: which addresses they may reach, and the look-ups of their names."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from holdsvc.addresses import Network
from holdsvc.engine.fairness import FairQueue
from holdsvc.relay.public_addresses import PublicAddresses

if TYPE_CHECKING:
    from holdsvc.relay.endpoint import Endpoint

LOOK_UPS_MAX = 32
TENANT_LOOK_UPS_MAX = 4
LOOK_UPS_WAITING_MAX = 1000
"""Names that are looked up at once, of all tenants and of one, and that wait: each takes a thread, and a name server
may let it wait for long."""

REACH_S = 2.0
"""The longest that a name is looked up before its webhook is stored."""


class Found(NamedTuple):
    """An address of a name."""

    family: int
    protocol: int
    host: str


class Endpoints:
    """What the endpoints of a process share. Construct it on the loop that sends; close it at the end."""

    def __init__(self, networks: Sequence[Network], timeout_s: float) -> None:
        self.addresses = PublicAddresses(networks)
        self.timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(LOOK_UPS_MAX, thread_name_prefix="webhook name")
        self._turns = FairQueue(LOOK_UPS_MAX, TENANT_LOOK_UPS_MAX, LOOK_UPS_WAITING_MAX)
        self._looking: set[asyncio.Task[list[Found]]] = set()

    async def open(self, tenant: str, url: str, secret: bytes) -> "Endpoint":
        """The endpoint of a webhook; it connects when it sends."""
        # In a thread: the loop does not wait for the imports of the first one.
        kind = await asyncio.to_thread(_endpoint)
        return kind(self, tenant, url, secret)

    async def look_up(self, tenant: str, host: str, port: int, family: socket.AddressFamily) -> list[Found]:
        """The addresses of a name; raises OSError."""
        # Not awaited itself: its thread goes on when the caller gives up, and its turn must last as long.
        task = asyncio.create_task(self._look_up(tenant, host, port, family))
        self._looking.add(task)
        task.add_done_callback(self._looked_up)
        return await asyncio.shield(task)

    async def _look_up(self, tenant: str, host: str, port: int, family: socket.AddressFamily) -> list[Found]:
        async with self._turns.turn(tenant):
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            )
        return [Found(kind, protocol, str(address[0])) for kind, _, protocol, _, address in found]

    async def reaches(self, tenant: str, url: URL) -> bool:
        """Whether some address of a URL may be reached; true where its name cannot be looked up now."""
        host, plain = url.host or "", url.scheme == "http"
        try:
            async with asyncio.timeout(REACH_S):
                found = await self.look_up(tenant, host, url.port or 0, socket.AF_UNSPEC)
        except (TimeoutError, OSError, UnicodeError):
            return not plain or self.addresses.some_plain
        return any(self.addresses.allows(address.host, plain=plain) for address in found)

    def _looked_up(self, task: "asyncio.Task[list[Found]]") -> None:
        self._looking.discard(task)
        if not task.cancelled():
            # Read also where no call waits for it any more.
            task.exception()

    async def close(self) -> None:
        """Ends what is being looked up."""
        for task in self._looking:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)


@cache
def _endpoint() -> type["Endpoint"]:
    """Brings the HTTP client, which takes 0.1 s and which a process without a webhook does not need."""
    from holdsvc.relay.endpoint import Endpoint, trusted

    trusted()
    return Endpoint
