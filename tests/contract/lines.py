"""Lines and counters as the tests of changes write them."""

from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb


def lines(**quantities: int) -> list[item_pb2.ItemQuantity]:
    """Lines by sku."""
    return [item_pb2.ItemQuantity(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]


def wanted(**quantities: int) -> list[pb.LineChange]:
    """The quantities that a Modify is to lead to, by sku."""
    return [pb.LineChange(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]


def counters(item: item_pb2.Item) -> tuple[int, int, int, int]:
    """Capacity, remaining, held, confirmed."""
    return (item.capacity, item.remaining, item.held, item.confirmed)


def held(reservation: reservation_pb2.Reservation) -> dict[str, int]:
    """The quantity of each line."""
    return {line.sku: line.quantity for line in reservation.lines}


def sold(reservation: reservation_pb2.Reservation) -> dict[str, tuple[int, int, int, int]]:
    """The confirmed, fulfilled, refunded and returned units of each line."""
    return {
        line.sku: (
            line.confirmed_quantity,
            line.fulfilled_quantity,
            line.refunded_quantity,
            line.returned_quantity,
        )
        for line in reservation.lines
    }
