"""Random bytes, broken frames and mutated messages: a clear error, the server unharmed, other callers unharmed."""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from holdsvc.api.services import SERVICES
from tests.support.harness import Harness, refusal_of

ROUNDS = int(os.environ.get("HOLDSVC_TEST_FUZZ_ROUNDS", "400"))

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

ALLOWED = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED", "UNIMPLEMENTED",
}  # fmt: skip


def random_bytes(dice: random.Random) -> bytes:
    return dice.randbytes(dice.randint(1, 4000))


def http1(dice: random.Random) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * dice.randint(0, 20000) + b"\r\n\r\n"


def preface_and_garbage(dice: random.Random) -> bytes:
    return PREFACE + EMPTY_SETTINGS + dice.randbytes(dice.randint(1, 4000))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def random_frames(dice: random.Random) -> bytes:
    data = PREFACE + EMPTY_SETTINGS
    for _ in range(dice.randint(1, 20)):
        stream = dice.choice([0, 1, 3, 2**31 - 1])
        data += frame(dice.randint(0, 12), dice.randint(0, 255), stream, dice.randbytes(dice.randint(0, 300)))
    return data


def truncated_frame(dice: random.Random) -> bytes:
    whole = frame(1, 4, 1, dice.randbytes(200))
    return PREFACE + EMPTY_SETTINGS + whole[: dice.randint(1, len(whole) - 1)]


def huge_headers(dice: random.Random) -> bytes:
    """A header block that never ends."""
    parts = [frame(1, 0, 1, b"\x00\x01a\x7f\xff\x03" + b"b" * 1000)]
    parts += [frame(9, 0, 1, b"c" * 16000) for _ in range(dice.randint(1, 20))]
    return PREFACE + EMPTY_SETTINGS + b"".join(parts)


def settings_flood(dice: random.Random) -> bytes:
    return PREFACE + EMPTY_SETTINGS * dice.randint(1, 2000)


def rapid_resets(dice: random.Random) -> bytes:
    """Opens streams and resets them at once (CVE-2023-44487)."""
    streams = range(1, 2 * dice.randint(1, 500), 2)
    pairs = [frame(1, 5, stream, b"\x83\x86\x84") + frame(3, 0, stream, b"\x00\x00\x00\x08") for stream in streams]
    return PREFACE + EMPTY_SETTINGS + b"".join(pairs)


async def throw(service: Harness, data: bytes) -> None:
    """Sends bytes and reads what comes back for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.service.port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(0.5):
            while await reader.read(65536):
                pass
    except (TimeoutError, OSError):
        pass
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "make",
    [
        random_bytes,
        http1,
        preface_and_garbage,
        random_frames,
        truncated_frame,
        huge_headers,
        settings_flood,
        rapid_resets,
    ],
)
async def test_bytes_that_are_no_call_harm_nobody(service: Harness, make: Callable[[random.Random], bytes]) -> None:
    await service.create_item("seat", 1000)
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    before = psutil.Process().memory_info().rss

    async def neighbour() -> None:
        for _ in range(20):
            await service.reserve({"seat": 1})

    good = asyncio.create_task(neighbour())
    for _ in range(max(1, ROUNDS // 100)):
        await asyncio.gather(*(throw(service, make(dice)) for _ in range(10)))
    await good
    assert (await service.item("seat")).held == 20
    assert psutil.Process().memory_info().rss - before < 64 * 1024 * 1024


def mutated(message: Message, dice: random.Random) -> bytes:
    """A message's bytes with some of them changed, lost, doubled or cut."""
    data = bytearray(message.SerializeToString())
    for _ in range(dice.randint(0, 6)):
        if not data:
            data += dice.randbytes(4)
        place = dice.randrange(len(data))
        action = dice.randrange(5)
        if action == 0:
            data[place] = dice.randrange(256)
        elif action == 1:
            del data[place]
        elif action == 2:
            data[place:place] = dice.randbytes(dice.randint(1, 12))
        elif action == 3:
            data += data[: place + 1]
        else:
            del data[place:]
    return bytes(data)


def filled(message: Message, dice: random.Random, depth: int = 0) -> Message:
    """A message with random values of the right types, often at their edges."""
    for field in message.DESCRIPTOR.fields:
        if dice.random() < 0.3 or (depth > 2 and field.message_type):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue
        values = [_value(field, dice, depth) for _ in range(dice.randint(0, 3) if field.is_repeated else 1)]
        for value in values:
            if field.message_type:
                place = getattr(message, field.name)
                (place.add() if field.is_repeated else place).CopyFrom(value)
            elif field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


_EDGES = [0, 1, -1, 2**31 - 1, -(2**31), 10**12, 2**63 - 1, -(2**63)]
_TEXTS = ["", "seat", "x" * 200, "\u0000", "\U0001f3ab", "'; DROP TABLE item", "019a0000-0000-7000-8000-000000000000"]


def _value(field: Any, dice: random.Random, depth: int) -> Any:
    if field.message_type:
        return filled(GetMessageClass(field.message_type)(), dice, depth + 1)
    if field.enum_type:
        return dice.choice([0, 1, 2, 99])
    if field.cpp_type == field.CPPTYPE_STRING:
        return dice.choice(_TEXTS) if field.type == field.TYPE_STRING else dice.randbytes(8)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return dice.random() < 0.5
    if field.cpp_type == field.CPPTYPE_INT32:
        return dice.choice([edge for edge in _EDGES if -(2**31) <= edge < 2**31])
    return dice.choice(_EDGES)


async def test_mutated_messages_get_clear_errors_and_leave_the_ledger_right(service: Harness) -> None:
    await service.create_item("seat", 1000)
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    methods = [method for descriptor in SERVICES for method in descriptor.methods if not method.server_streaming]

    async def one() -> None:
        method = dice.choice(methods)
        message = filled(GetMessageClass(method.input_type)(), dice)
        data = mutated(message, dice)
        call: Any = service.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        try:
            await call(data, timeout=20)
            code, reason = "OK", ""
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            code, reason = refusal.code.name, refusal.reason
        assert code in ALLOWED, (method.full_name, code, reason, data.hex())
        assert code == "OK" or reason, (method.full_name, code, data.hex())

    for _ in range(ROUNDS // 8):
        await asyncio.gather(*(one() for _ in range(8)))
    await service.verify()
