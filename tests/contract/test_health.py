"""Health and reflection: need no key, name every service."""

from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.harness import Harness, StartService, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
OURS = {f"inventoryhold.v1.{name}Service" for name in ("Reservation", "Inventory", "Event", "Admin")}


async def _check(service: Harness, name: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status  # type: ignore[no-any-return]


async def _reflect(service: Harness, **request: Any) -> Any:
    # Their stubs are typed for the channel of the synchronous client alone.
    channel: Any = service.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]))
    async for answer in call:
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
    await service.service._server.announce_stop()  # type: ignore[union-attr]
    assert (await call.read()).status == NOT_SERVING
    call.cancel()


async def test_reflection_lists_every_service_without_a_key(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    answer = await _reflect(service, list_services="")
    names = {found.name for found in answer.list_services_response.service}
    assert names == OURS | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


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
