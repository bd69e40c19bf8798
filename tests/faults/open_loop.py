"""Calls at a fixed rate, answered or not, in a process of its own so that it does not delay the service.

`open_loop.py ADDRESS RATE SECONDS DEADLINE` prints the outcomes of the Reserve calls as JSON.
"""

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub

ITEMS = 20


def reason_of(error: grpc.RpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    found = any(detail.Unpack(info) for detail in status.details) if status else False
    return str(info.reason) if found else str(error.code().name)


async def run(address: str, rate: float, seconds: float, deadline_s: float) -> dict[str, Any]:
    codes: Counter[str] = Counter()
    times_ms: dict[str, list[float]] = {"OK": [], "OVERLOADED": []}
    behind_ms: list[float] = []
    name = uuid.uuid4().hex

    async def call(stub: Any, number: int, due: float) -> None:
        lines = [item_pb2.ItemQuantity(sku=f"sku-{number % ITEMS}", quantity=1)]
        start = time.monotonic()
        behind_ms.append((start - due) * 1000)
        try:
            await stub.Reserve(pb.ReserveRequest(lines=lines, request_id=f"{name}-{number}"), timeout=deadline_s)
            code = "OK"
        except grpc.RpcError as error:
            code = reason_of(error)
        codes[code] += 1
        times_ms.setdefault(code, []).append((time.monotonic() - start) * 1000)

    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        await channel.channel_ready()
        stub: Any = ReservationServiceStub(channel)
        start = time.monotonic()
        calls = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.append(asyncio.create_task(call(stub, number, due)))
        await asyncio.gather(*calls)
        took_s = time.monotonic() - start
    return {
        "codes": codes,
        "goodput": codes["OK"] / took_s,
        "answered_ms": times_ms["OK"],
        "refused_ms": times_ms["OVERLOADED"],
        "behind_ms": behind_ms,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], *(float(argument) for argument in sys.argv[2:])))))  # noqa: T201
