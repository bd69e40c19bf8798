"""The running service that `make load` and `make smoke` call: address, key and TLS from the environment."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdsvc.commands import CommandError
from holdsvc.commands.endpoint import Endpoint

CONNECT_TIMEOUT_S = 5.0

HOW_TO_START = """\
Nothing answers at {address}. Start a service in another terminal:

    make serve

or name the address of a running one: HOLDSVC_LISTEN=host:port make {command}"""


class Target(Endpoint):
    """The endpoint that the environment names, with plain channels to it."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return (("x-api-key", self.api_key),) if self.api_key else ()

    def channel(self) -> grpc.Channel:
        """A channel with a connection of its own: the kernel balances connections between workers, not calls."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        tls = self.tls
        if tls is None:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, tls.credentials(), options=options)

    def check(self, command: str) -> None:
        """Raises CommandError, with advice for `make command`, unless the service can be reached."""
        with self.channel() as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
            except grpc.FutureTimeoutError:
                raise CommandError(HOW_TO_START.format(address=self.address, command=command)) from None


def reason_of(error: grpc.RpcError) -> str:
    """The reason of an error, or its code if it has none, as after a broken connection."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)
