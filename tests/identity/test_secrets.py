"""Keys, customers and metadata reach no log line, no error and no metric, whatever goes wrong."""

from typing import Any

import grpc
import psycopg
from google.protobuf.message import Message

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import admin_service_pb2_grpc, inventory_service_pb2_grpc, reservation_service_pb2_grpc
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.program import Program, command, serving, variables

NAME = "Xaver Ypsilon"
EMAIL = "xaver.ypsilon@example.org"
METADATA_KEY = "passport"
METADATA_VALUE = "C01X00T478"
REFUSED = "refused-by-the-table"

BROKEN_TABLES = f"""
ALTER TABLE holdsvc.sales_order ADD CHECK (customer_name NOT LIKE '%{REFUSED}%');
ALTER TABLE holdsvc.reservation ADD CHECK (metadata->>'{METADATA_KEY}' NOT LIKE '%{REFUSED}%');
"""
"""Refusals of the database that quote the whole row in their detail."""


class Talk:
    """Calls with secrets in them; keeps what was answered to refusals."""

    def __init__(self, channel: grpc.Channel, secret: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {secret}"),)
        self.reservations = reservation_service_pb2_grpc.ReservationServiceStub(channel)
        self.inventory = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.refusals: list[str] = []
        self.codes: set[str] = set()

    def __call__(
        self,
        rpc: Any,
        request: Message,
        metadata: tuple[tuple[str, str], ...] | None = None,
        timeout: float = 60,
    ) -> Message | None:
        try:
            metadata = self._metadata if metadata is None else metadata
            answer: Message = rpc(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            refused: Any = error
            self.codes.add(refused.code().name)
            self.refusals.append(f"{refused.details()} {refused.trailing_metadata()}")
            return None
        return answer


def reserve(value: str = METADATA_VALUE, **fields: Any) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}], metadata={METADATA_KEY: value}, **fields)


def everything(talk: Talk, secret: str, new_secrets: list[str]) -> None:
    """Calls that go well and calls that go wrong in every way at hand."""
    call, customer = talk, {"name": NAME, "email": EMAIL}
    call(talk.inventory.CreateItem, inventory.CreateItemRequest(item={"sku": "seat", "capacity": 50}))
    # Refused for what they bring.
    for metadata in (
        (("x-api-key", secret[:-1]),),
        (("x-api-key", secret), ("x-api-key", secret)),
        (("authorization", f"Basic {secret}"),),
        (("authorization", f"Bearer {secret} {secret}"),),
    ):
        call(talk.reservations.Reserve, reserve(), metadata)
    call(talk.reservations.Reserve, reserve("x" * 5000 + METADATA_VALUE))
    call(talk.reservations.Reserve, pb.ReserveRequest(metadata={METADATA_KEY * 30: METADATA_VALUE}))
    call(talk.reservations.Reserve, pb.ReserveRequest(metadata={METADATA_KEY + "\x01": METADATA_VALUE + "\x01"}))
    held = call(talk.reservations.Reserve, reserve(request_id="once", reference="cart"))
    assert isinstance(held, pb.ReserveResponse)
    call(talk.reservations.Reserve, reserve("another " + METADATA_VALUE, request_id="once"))
    target: dict[str, Any] = {"reservation_id": held.reservation.reservation_id}
    for wrong in ({"name": NAME + "\x01", "email": EMAIL}, {"name": NAME, "email": EMAIL + "\x01"}):
        call(talk.reservations.Confirm, pb.ConfirmRequest(**target, customer=wrong))
    # Refused by the database, alone and among others, with a caller who waits and one who does not.
    call(talk.reservations.Confirm, pb.ConfirmRequest(**target, customer={"name": f"{NAME} {REFUSED}", "email": EMAIL}))
    call(talk.reservations.Reserve, reserve(f"{METADATA_VALUE} {REFUSED}"))
    call(
        talk.reservations.BatchReserve,
        pb.BatchReserveRequest(requests=[reserve(), reserve(f"{METADATA_VALUE} {REFUSED}")]),
    )
    call(talk.reservations.Reserve, reserve(f"{METADATA_VALUE} {REFUSED}"), timeout=0.001)
    # What goes well.
    confirmed = call(talk.reservations.Confirm, pb.ConfirmRequest(**target, customer=customer, request_id="twice"))
    assert isinstance(confirmed, pb.ConfirmResponse)
    assert confirmed.reservation.customer.email == EMAIL
    call(talk.reservations.Confirm, pb.ConfirmRequest(**target, customer={"name": "Another"}, request_id="twice"))
    call(talk.reservations.Cancel, pb.CancelRequest(**target))
    made = call(talk.admin.CreateApiKey, admin.CreateApiKeyRequest(client="partner", scopes=["reserve"]))
    assert isinstance(made, admin.CreateApiKeyResponse)
    new_secrets.append(made.secret)
    call(talk.inventory.ListItems, inventory.ListItemsRequest(), (("x-api-key", made.secret),))
    # A person who finds a key may pass the whole key to have it revoked.
    revoked = call(talk.admin.RevokeApiKey, admin.RevokeApiKeyRequest(key_id=made.secret))
    assert isinstance(revoked, admin.RevokeApiKeyResponse)
    unknown = f"holdsvc_{'0' * 16}_{secret[-43:]}"
    call(talk.admin.RevokeApiKey, admin.RevokeApiKeyRequest(key_id=unknown))


def test_secrets_stay_out_of_logs_errors_and_metrics(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as connection:
        connection.execute(BROKEN_TABLES.encode())
        # The embedded server's own log says no more than ours.
        assert connection.execute("SHOW log_error_verbosity").fetchone() == ("terse",)
    made = command("keys", "create", "--client", "partner", "--scopes", "all", environment=variables(dsn=ledger_dsn))
    secret = made.stdout.strip()
    new_secrets: list[str] = []
    with serving(dsn=ledger_dsn, auth="api-key", log_level="debug", log_calls_per_second="1000") as service:
        with grpc.insecure_channel(service.address, options=[("grpc.enable_retries", 0)]) as channel:
            talk = Talk(channel, secret)
            everything(talk, secret, new_secrets)
        metrics = service.metrics()
        _assert_stopped_well(service)
        log = service.output
    assert {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "INTERNAL", "FAILED_PRECONDITION"} <= talk.codes
    assert "CheckViolation" in log
    assert "confirm line " in log
    assert 'reason="INTERNAL"' in metrics
    errors = "\n".join(talk.refusals)
    kept = secret.removeprefix("holdsvc_").split("_", 1)[1]
    for word in (kept, *(s.removeprefix("holdsvc_").split("_", 1)[1] for s in new_secrets)):
        assert word not in log
        assert word not in errors
        assert word not in metrics
    for word in (NAME, EMAIL, "ypsilon", METADATA_KEY, METADATA_VALUE, REFUSED):
        assert word not in log, word
        assert word not in errors, word
        assert word not in metrics, word


def _assert_stopped_well(service: Program) -> None:
    assert service.stop() == 0
