"""What other services import: clients that make retries safe, and errors with names.

Needs only the base installation. `Client` blocks, `AsyncClient` is for asyncio; both take the same arguments.
`RETRY_POLICY` is the gRPC service config for callers of any language that send a `request_id`.
"""

from holdsvc.client.aio import AsyncClient, AsyncHold
from holdsvc.client.blocking import Client, Hold
from holdsvc.client.connection import Tls
from holdsvc.client.errors import CallError
from holdsvc.client.retries import RETRY_POLICY, RetryPolicy

__all__ = ["RETRY_POLICY", "AsyncClient", "AsyncHold", "CallError", "Client", "Hold", "RetryPolicy", "Tls"]
