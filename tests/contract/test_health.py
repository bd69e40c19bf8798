"""Health and reflection: need no key, name every service."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from holdsvc.api import health
from holdsvc.api.services import SERVICES
from tests.faults import attackers
from tests.support.harness import Harness, StartService, refused
from tests.support.polling import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
OURS = {service.full_name for service in SERVICES}


async def _check(service: Harness, name: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status  # type: ignore[no-any-return]


async def _reflect(service: Harness, version: str = "v1", **request: Any) -> Any:
    # The package ships stubs for v1alpha alone; the messages of v1 are the same.
    call: Any = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in call(iter([reflection_pb2.ServerReflectionRequest(**request)])):
        return answer
    raise AssertionError("no answer")


async def test_each_service_is_serving_without_a_key(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    for name in ("", "liveness", *sorted(OURS)):
        assert await _check(service, name) == SERVING, name


async def test_a_service_that_there_is_not_is_not_found(service: Harness) -> None:
    refusal = await refused(_check(service, "inventoryhold.v1.Nothing"))
    assert refusal.code == grpc.StatusCode.NOT_FOUND


async def test_a_watcher_of_health_is_told_at_once_and_of_the_stop(start_service: StartService) -> None:
    service = await start_service(auth="api-key", drain_grace="1s")
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await call.read()).status == SERVING
    service.service._services.health.stop()  # type: ignore[union-attr]
    assert (await call.read()).status == NOT_SERVING
    call.cancel()


async def test_health_lists_the_state_of_every_service(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    answer = await stub.List(health_pb2.HealthListRequest())
    assert {name: state.status for name, state in answer.statuses.items()} == dict.fromkeys(
        ("", "liveness", *OURS), SERVING
    )


async def test_a_watcher_of_a_service_that_there_is_not_is_told_so(service: Harness) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service="inventoryhold.v1.Nothing"))
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    call.cancel()


async def test_a_watch_beyond_the_limit_is_refused_and_an_ended_one_makes_room(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WATCHERS_MAX", 2)
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    calls = [stub.Watch(health_pb2.HealthCheckRequest(service="")) for _ in range(2)]
    for call in calls:
        assert (await call.read()).status == SERVING
    refusal = await refused(_first(stub.Watch(health_pb2.HealthCheckRequest(service=""))))
    assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    calls.pop().cancel()
    async with asyncio.timeout(10):
        while True:
            with suppress(grpc.RpcError):
                assert (await _first(stub.Watch(health_pb2.HealthCheckRequest(service="")))).status == SERVING
                break


async def _first(call: Any) -> Any:
    async for answer in call:
        return answer
    raise AssertionError("no answer")


@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
async def test_a_request_of_health_that_is_too_large_is_refused(service: Harness, method: str) -> None:
    call: Any = service.channel.unary_stream(f"/grpc.health.v1.Health/{method}")
    refusal = await refused(_first(call(b"\x0a\x80\x80\x01" + b"x" * 16384)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_every_service_without_a_key(start_service: StartService, version: str) -> None:
    service = await start_service(auth="api-key")
    answer = await _reflect(service, version, list_services="")
    names = {found.name for found in answer.list_services_response.service}
    assert names == OURS | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_describes_each_service_with_all_that_its_files_import(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    for name in sorted(OURS):
        answer = await _reflect(service, file_containing_symbol=name)
        files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
        described = {f"{file.package}.{declared.name}" for file in files for declared in file.service}
        assert name in described
        for dependency in {dependency for file in files for dependency in file.dependency}:
            answer = await _reflect(service, file_by_filename=dependency)
            assert answer.file_descriptor_response.file_descriptor_proto, dependency


async def test_reflection_can_be_turned_off(start_service: StartService) -> None:
    service = await start_service(reflection=False)
    refusal = await refused(_reflect(service, list_services=""))
    assert refusal.code == grpc.StatusCode.UNIMPLEMENTED


async def test_a_watch_that_is_never_read_holds_up_neither_health_nor_the_stop(start_service: StartService) -> None:
    service = await start_service(drain_grace="500ms")
    services = service.service._services
    assert services is not None
    with attackers.attacking("unread_watches", service.service.port):
        await until(lambda: len(services.health._watchers) == 400)
        async with asyncio.timeout(10):
            for serving in (False, True, False):
                services.set_serving({"": serving})
                while await _check(service, "") != (SERVING if serving else NOT_SERVING):
                    # The service had looked meanwhile and told how it really is.
                    services.set_serving({"": serving})
            await service.service.stop()
