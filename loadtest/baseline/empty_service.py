"""Reserve without any work: the upper bound for grpc.aio with uvloop and these messages in one process."""

import sys

import grpc.aio
import uvloop

from inventoryhold.v1 import reservation_pb2, reservation_service_pb2, reservation_service_pb2_grpc


class EmptyService(reservation_service_pb2_grpc.ReservationServiceServicer):
    """Reads the request and answers with a reservation as the service would."""

    def __init__(self) -> None:
        self._reservation = reservation_pb2.Reservation(
            reservation_id="01900000-0000-7000-8000-000000000000",
            client="bench",
            state=reservation_pb2.Reservation.STATE_HELD,
            lines=[reservation_pb2.ReservationLine(sku="hot", quantity=1)],
            revision=1,
        )
        self._reservation.create_time.GetCurrentTime()
        self._reservation.expire_time.GetCurrentTime()

    async def Reserve(  # noqa: N802
        self, request: reservation_service_pb2.ReserveRequest, _context: object
    ) -> reservation_service_pb2.ReserveResponse:
        """Answers immediately."""
        assert len(request.lines) == 1
        return reservation_service_pb2.ReserveResponse(reservation=self._reservation)


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    reservation_service_pb2_grpc.add_ReservationServiceServicer_to_server(
        EmptyService(),  # type: ignore[abstract]  # gRPC answers UNIMPLEMENTED for the rest
        server,
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
