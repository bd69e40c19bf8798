"""gRPC's server reflection, under the names v1 and v1alpha: their messages are the same. It needs no key."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_status import rpc_status

from holdsvc.api.bodies import Bodies
from holdsvc.api.statuses import status
from holdsvc.errors import HoldError

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

STREAMS_MAX = 8
"""Streams that are open in a process; the next one is refused with RESOURCE_EXHAUSTED."""

LIFE_S = 30.0
"""The longest that one stream lives, so that idle ones do not keep others out."""


class Reflection:
    """Describes services. Construct it on the loop that will serve."""

    def __init__(self, services: Iterable[str], bodies: Bodies) -> None:
        _describe_v1()
        self._servicer = ReflectionServicer([*services, *SERVICES])
        self._bodies = bodies
        self._open = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The handlers of both names."""
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._reflect)
        return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in SERVICES)

    async def _reflect(self, _messages: object, context: Any) -> None:
        if self._open >= STREAMS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams are open")
        self._open += 1
        try:
            async with asyncio.timeout(LIFE_S):
                async for answer in self._servicer.ServerReflectionInfo(self._requests(context), context):
                    await context.write(answer.SerializeToString())
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"a reflection stream lives {LIFE_S:.0f} s")
        except HoldError as error:
            await context.abort_with_status(rpc_status.to_status(status(error.refused)))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no ServerReflectionRequest")
        finally:
            self._open -= 1

    async def _requests(self, context: Any) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        while (data := await self._bodies.read_next(context)) is not None:
            yield reflection_pb2.ServerReflectionRequest.FromString(data)


def _describe_v1() -> None:
    """Makes v1 known, so that it can be described too: the package carries v1alpha alone."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(reflection_pb2.DESCRIPTOR.name.replace("v1alpha", "v1"))
    except KeyError:
        file = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        text = text_format.MessageToString(file).replace("v1alpha", "v1")
        pool.AddSerializedFile(text_format.Parse(text, FileDescriptorProto()).SerializeToString())
