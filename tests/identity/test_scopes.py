"""Scopes: every rpc has a rule, and it comes before anything else."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from holdsvc.api import reflection
from holdsvc.api.rpcs import ALL_SCOPES, RPCS
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refusal_of, refused
from tests.support.partners import Metadata, new_partner

# The contract, once more and on its own: each rpc's scope, and what else opens it.
NEEDED: Mapping[str, str] = {
    "Reserve": "reserve",
    "BatchReserve": "reserve",
    "Confirm": "confirm",
    "Cancel": "reserve",
    "Refund": "refund",
    "Extend": "reserve",
    "Fulfil": "fulfil",
    "Modify": "reserve",
    "BatchConfirm": "confirm",
    "BatchCancel": "reserve",
    "BatchRefund": "refund",
    "BatchExtend": "reserve",
    "BatchFulfil": "fulfil",
    "BatchModify": "reserve",
    "GetReservation": "reserve",
    "ListReservations": "reserve",
    "ListReservationEvents": "reserve",
    "Cleanup": "cleanup",
    "CreateItem": "inventory.write",
    "BatchCreateItems": "inventory.write",
    "GetItem": "inventory.read",
    "ListItems": "inventory.read",
    "UpdateItem": "inventory.write",
    "AdjustCapacity": "inventory.write",
    "BatchSetStock": "inventory.write",
    "TransferCapacity": "inventory.write",
    "DeleteItem": "inventory.write",
    "CheckAvailability": "inventory.read",
    "ExplainAvailability": "inventory.read",
    "WatchInventory": "inventory.read",
    "SetLimit": "limits.write",
    "ListLimits": "reserve",
    "DeleteLimit": "limits.write",
    "GetLimitUsage": "reserve",
    "JoinWaitlist": "waitlist.join",
    "LeaveWaitlist": "waitlist.join",
    "GetWaitlistEntry": "waitlist.join",
    "ListWaitlistEntries": "waitlist.join",
    "StreamEvents": "events.read",
    "CreateWebhook": "webhooks.manage",
    "ListWebhooks": "webhooks.manage",
    "DeleteWebhook": "webhooks.manage",
    "TestWebhook": "webhooks.manage",
    "CreateApiKey": "admin",
    "ListApiKeys": "admin",
    "RevokeApiKey": "admin",
    "VerifyLedger": "admin",
}
ALSO_BY_READ_ALL = ("GetReservation", "ListReservations", "ListReservationEvents", "ListLimits", "GetLimitUsage")
ANY_KEY = ("GetCaller",)
ALSO_BY = {
    **{name: {"reservations.read_all"} for name in ALSO_BY_READ_ALL},
    **{name: {"reservations.read_all", "limits.write"} for name in ("ListLimits", "GetLimitUsage")},
    "LeaveWaitlist": {"waitlist.manage"},
    "GetWaitlistEntry": {"waitlist.read", "waitlist.manage"},
    "ListWaitlistEntries": {"waitlist.read", "waitlist.manage"},
}
"""Scopes that open an rpc as well."""
OPEN = ("grpc.health.v1.Health", *reflection.SERVICES)

NONSENSE = b"\xff\xff\xff"
"""No message of any kind."""


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    return await start_service(auth="api-key")


def methods_of(address: str) -> dict[str, bool]:
    """Every method that the service shows by reflection, and whether it streams."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        found = {}
        for service in sorted(set(database.get_services()) - set(OPEN)):
            file = database.FindFileContainingSymbol(service)
            [described] = [s for s in file.service if f"{file.package}.{s.name}" == service]
            for method in described.method:
                found[f"/{service}/{method.name}"] = method.server_streaming
    return found


async def call(channel: grpc.aio.Channel, method: str, streams: bool, metadata: Metadata = ()) -> grpc.RpcError:
    """How a call with a request that is no message is refused."""
    rpc: Any = channel.unary_stream(method) if streams else channel.unary_unary(method)
    answer = rpc(NONSENSE, metadata=metadata, timeout=60)
    with pytest.raises(grpc.RpcError) as error:
        await (answer.read() if streams else answer)
    return error.value


async def test_every_method_needs_a_key_and_its_scope_before_it_looks_at_the_request(guarded: Harness) -> None:
    methods = await asyncio.to_thread(methods_of, guarded.address)
    assert {method.rpartition("/")[2] for method in methods} == {*NEEDED, *ANY_KEY}
    for method, streams in methods.items():
        name = method.rpartition("/")[2]
        if name in ANY_KEY:
            continue
        needed = NEEDED[name]
        anonymous = refusal_of(await call(guarded.channel, method, streams))
        assert anonymous.reason == "UNAUTHENTICATED", method
        lacking = set(ALL_SCOPES) - {needed} - ALSO_BY.get(name, set())
        partner = await new_partner(guarded, "everything else", scopes=sorted(lacking))
        denied = refusal_of(await call(guarded.channel, method, streams, partner.metadata))
        assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"), method
        assert denied.metadata == {"required_scope": needed}, method
        partner = await new_partner(guarded, "just this", scopes=[needed])
        admitted = refusal_of(await call(guarded.channel, method, streams, partner.metadata))
        assert (admitted.reason, admitted.metadata) == ("INVALID_FIELD", {"fields": "request"}), method


async def test_read_all_alone_reads_reservations_and_nothing_else(guarded: Harness) -> None:
    partner = await new_partner(guarded, "watcher", scopes=["reservations.read_all"])
    methods = await asyncio.to_thread(methods_of, guarded.address)
    for method, streams in methods.items():
        name = method.rpartition("/")[2]
        answer = refusal_of(await call(guarded.channel, method, streams, partner.metadata))
        may = name in (*ALSO_BY_READ_ALL, *ANY_KEY)
        assert answer.reason == ("INVALID_FIELD" if may else "PERMISSION_DENIED"), method


async def test_any_key_hears_who_it_is_and_no_key_nothing(guarded: Harness) -> None:
    assert (await refused(guarded.admin.GetCaller(admin.GetCallerRequest()))).reason == "UNAUTHENTICATED"
    partner = await new_partner(guarded, "agency", scopes=["cleanup", "confirm"], pools=",web")
    caller = await partner.admin.GetCaller(admin.GetCallerRequest())
    assert (caller.tenant, caller.client) == ("default", "agency")
    assert caller.key_id == partner.key_id
    assert (list(caller.scopes), list(caller.pools)) == (["cleanup", "confirm"], ["", "web"])


async def test_without_keys_every_caller_hears_that_it_may_do_everything(service: Harness) -> None:
    caller = await service.admin.GetCaller(admin.GetCallerRequest())
    assert (caller.tenant, caller.client, caller.key_id) == ("default", "dev", "")
    assert set(caller.scopes) == set(ALL_SCOPES)


async def test_a_method_without_a_scope_rule_is_not_served(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = {method: rpc for method, rpc in RPCS.items() if not method.endswith("/Reserve")}
    monkeypatch.setattr("holdsvc.api.calls.RPCS", fewer)
    with pytest.raises(LookupError, match="ReservationService/Reserve has no row"):
        await start_service()


async def test_health_and_reflection_need_no_key(guarded: Harness) -> None:
    answer = await _health(guarded).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert await asyncio.to_thread(methods_of, guarded.address)


def _health(service: Harness) -> Any:
    return health_pb2_grpc.HealthStub(service.channel)


async def test_another_clients_reservation_is_not_there_without_read_all(guarded: Harness) -> None:
    held = await _held(guarded, "owner")
    other = await new_partner(guarded, "other", scopes=["reserve", "confirm", "refund", "reservations.write_all"])
    for method, request in _on(held):
        refusal = await refused(getattr(other.reservations, method)(request))
        assert refusal.reason == "RESERVATION_NOT_FOUND", method
    for list_of_client in ("", "owner"):
        listed = await other.reservations.ListReservations(
            pb.ListReservationsRequest(client=list_of_client, include_total=True)
        )
        assert (list(listed.reservations), listed.total_count) == ([], 0)


async def test_read_all_shows_other_clients_reservations_and_write_all_acts_on_them(guarded: Harness) -> None:
    held = await _held(guarded, "owner")
    scopes = ["reserve", "confirm", "refund", "reservations.read_all"]
    reader = await new_partner(guarded, "back office", scopes=scopes)
    for method, request in _on(held):
        answer = getattr(reader.reservations, method)(request)
        if method in ALSO_BY_READ_ALL:
            await answer
        else:
            refusal = await refused(answer)
            assert (refusal.reason, refusal.metadata) == (
                "PERMISSION_DENIED",
                {"required_scope": "reservations.write_all"},
            ), method
    listed = await reader.reservations.ListReservations(pb.ListReservationsRequest(client="owner"))
    assert [r.reservation_id for r in listed.reservations] == [held]
    writer = await new_partner(guarded, "back office", scopes=[*scopes, "reservations.write_all"])
    await writer.reservations.Extend(pb.ExtendRequest(reservation_id=held))
    await writer.reservations.Confirm(pb.ConfirmRequest(reservation_id=held))
    refunded = await writer.reservations.Refund(pb.RefundRequest(reservation_id=held))
    assert refunded.reservation.client == "owner"


async def test_a_right_that_was_lost_is_not_found_again_by_a_replay(guarded: Harness) -> None:
    held = await _held(guarded, "owner")
    strong = await new_partner(guarded, "agent", scopes=["reserve", "reservations.read_all", "reservations.write_all"])
    request = pb.CancelRequest(reservation_id=held, request_id="once")
    assert not (await strong.reservations.Cancel(request)).replayed
    assert (await strong.reservations.Cancel(request)).replayed
    weak = await new_partner(guarded, "agent", scopes=["reserve"])
    assert (await refused(weak.reservations.Cancel(request))).reason == "RESERVATION_NOT_FOUND"


async def test_a_reference_counts_within_the_calling_client(guarded: Harness) -> None:
    await _held(guarded, "owner", reference="cart")
    other = await new_partner(guarded, "other")
    refusal = await refused(other.reservations.Cancel(pb.CancelRequest(reference="cart")))
    assert refusal.reason == "RESERVATION_NOT_FOUND"
    refusal = await refused(other.reservations.GetReservation(pb.GetReservationRequest(reference="cart")))
    assert refusal.reason == "RESERVATION_NOT_FOUND"


def _on(reservation_id: str) -> list[tuple[str, object]]:
    """A call of each rpc on a reservation; reading comes first."""
    return [
        ("GetReservation", pb.GetReservationRequest(reservation_id=reservation_id)),
        ("ListReservationEvents", pb.ListReservationEventsRequest(reservation_id=reservation_id)),
        ("Extend", pb.ExtendRequest(reservation_id=reservation_id)),
        ("Confirm", pb.ConfirmRequest(reservation_id=reservation_id)),
        ("Refund", pb.RefundRequest(reservation_id=reservation_id)),
        ("Cancel", pb.CancelRequest(reservation_id=reservation_id)),
    ]


async def _held(service: Harness, client: str, **fields: Any) -> str:
    """A new hold of a client on an item of its own."""
    owner = await new_partner(service, client)
    sku = f"sku {owner.key_id}"
    await owner.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": sku, "capacity": 5}))
    answer = await owner.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": sku, "quantity": 1}], **fields))
    return str(answer.reservation.reservation_id)
