"""Reserve as most teams write it: one transaction a call, SELECT … FOR UPDATE, INSERT, UPDATE, a connection pool.

It does what the service does for a hold of one unit: request id, reservation, line, event. It is given uvloop, prepared
statements, and a pool of four connections, psycopg's default: with 8, 16 or 32 a hot item came to half as many holds.
"""

import hashlib
import sys
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import uvloop
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from inventoryhold.v1 import reservation_pb2, reservation_service_pb2, reservation_service_pb2_grpc

POOL_SIZE = 4
TENANT = CLIENT = "bench"

Pool = AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]


class PlainService(reservation_service_pb2_grpc.ReservationServiceServicer):
    """Holds one call at a time on each connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def Reserve(  # noqa: N802
        self,
        request: reservation_service_pb2.ReserveRequest,
        context: grpc.aio.ServicerContext[
            reservation_service_pb2.ReserveRequest, reservation_service_pb2.ReserveResponse
        ],
    ) -> reservation_service_pb2.ReserveResponse:
        """Takes the units of the request's first line."""
        line = request.lines[0]
        reservation_id = uuid.uuid4()
        now = datetime.now(UTC)
        expire_time = now + timedelta(minutes=30)
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT reservation_id FROM request WHERE request_id = %s AND client = %s AND tenant = %s",
                (request.request_id, CLIENT, TENANT),
            )
            if await cursor.fetchone():
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "this request was made already")
            cursor = await connection.execute(
                "SELECT remaining FROM item WHERE sku = %s AND pool = %s AND tenant = %s FOR UPDATE",
                (line.sku, line.pool, TENANT),
            )
            row = await cursor.fetchone()
            if row is None or row[0] < line.quantity:  # type: ignore[operator]
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not enough left")
            await connection.execute(
                "INSERT INTO request (tenant, client, request_id, fingerprint, reservation_id, create_time)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (TENANT, CLIENT, request.request_id, _fingerprint(request), reservation_id, now),
            )
            await connection.execute(
                "INSERT INTO reservation (tenant, reservation_id, client, holder, reference, create_time, expire_time)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (TENANT, reservation_id, CLIENT, request.holder, request.reference, now, expire_time),
            )
            await connection.execute(
                "INSERT INTO reservation_line (tenant, reservation_id, sku, pool, quantity, expire_time)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (TENANT, reservation_id, line.sku, line.pool, line.quantity, expire_time),
            )
            await connection.execute(
                "INSERT INTO event (tenant, type, client, reservation_id, sku, pool, quantity, occur_time)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (TENANT, 1, CLIENT, reservation_id, line.sku, line.pool, line.quantity, now),
            )
            await connection.execute(
                "UPDATE item SET remaining = remaining - %s, held = held + %s, revision = revision + 1,"
                " update_time = %s WHERE sku = %s AND pool = %s AND tenant = %s",
                (line.quantity, line.quantity, now, line.sku, line.pool, TENANT),
            )
        return reservation_service_pb2.ReserveResponse(
            reservation=reservation_pb2.Reservation(
                reservation_id=str(reservation_id),
                client=CLIENT,
                state=reservation_pb2.Reservation.STATE_HELD,
                lines=[reservation_pb2.ReservationLine(sku=line.sku, pool=line.pool, quantity=line.quantity)],
                create_time=now,
                expire_time=expire_time,
                revision=1,
            )
        )


def _fingerprint(request: reservation_service_pb2.ReserveRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


async def _serve(port: int, dsn: str) -> None:
    pool = Pool(dsn, min_size=POOL_SIZE, max_size=POOL_SIZE, timeout=60, open=False, kwargs={"prepare_threshold": 1})
    await pool.open(wait=True)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    reservation_service_pb2_grpc.add_ReservationServiceServicer_to_server(
        PlainService(pool),  # type: ignore[abstract]  # gRPC answers UNIMPLEMENTED for the rest
        server,
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
