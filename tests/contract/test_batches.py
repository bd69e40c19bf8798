"""Batches of changes: each entry alone, in the order of the request, answered as its call alone would be."""

from datetime import timedelta
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters, held, lines, sold, wanted
from tests.support.harness import Harness, refused

Reservation = reservation_pb2.Reservation
UNKNOWN = "00000000-0000-7000-8000-000000000000"


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def _results(response: Any) -> list[str]:
    """Of each result the state, or the reason of the error."""
    return [
        _reason(result.error) if result.HasField("error") else Reservation.State.Name(result.reservation.state)[6:]
        for result in response.results
    ]


async def _holds(service: Harness, count: int, quantity: int = 2, **fields: Any) -> list[str]:
    return [(await service.reserve({"bed": quantity}, **fields)).reservation_id for _ in range(count)]


def _entry(rpc: str, reservation_id: str, **fields: Any) -> Any:
    request = getattr(pb, f"{rpc}Request")(reservation_id=reservation_id, **fields)
    if rpc == "Modify":
        request.update_mask.paths.append("lines")
        request.lines.append(pb.LineChange(sku="bed", quantity=1))
    return request


def _batch(rpc: str, entries: list[Any]) -> Any:
    return getattr(pb, f"Batch{rpc}Request")(requests=entries)


END = {
    "Modify": "HELD",
    "Confirm": "CONFIRMED",
    "Cancel": "CANCELLED",
    "Extend": "HELD",
    "Refund": "REFUNDED",
    "Fulfil": "FULFILLED",
}


async def _subjects(service: Harness, rpc: str, count: int) -> list[str]:
    """Reservations that the rpc can act on."""
    ids = await _holds(service, count)
    if rpc in ("Refund", "Fulfil"):
        await service.reservations.BatchConfirm(_batch("Confirm", [_entry("Confirm", id_) for id_ in ids]))
    return ids


@pytest.mark.parametrize("rpc", END)
async def test_each_entry_stands_alone_and_is_answered_in_the_order_of_the_request(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 100)
    first, second = await _subjects(service, rpc, 2)
    entries = [
        _entry(rpc, second, request_id="second"),
        _entry(rpc, UNKNOWN),
        _entry(rpc, "no id"),
        _entry(rpc, first, request_id="first"),
        # The same call again, in the same batch.
        _entry(rpc, second, request_id="second"),
    ]
    response = await getattr(service.reservations, f"Batch{rpc}")(_batch(rpc, entries))
    assert _results(response) == [END[rpc], "RESERVATION_NOT_FOUND", "INVALID_FIELD", END[rpc], END[rpc]]
    assert [result.reservation.reservation_id for result in response.results] == [second, "", "", first, second]
    assert [result.replayed for result in response.results] == [False, False, False, False, True]
    again = await getattr(service.reservations, f"Batch{rpc}")(_batch(rpc, entries))
    assert [result.replayed for result in again.results] == [True, False, False, True, True]
    # An entry and its call alone share name and content.
    alone = await getattr(service.reservations, rpc)(entries[3])
    assert alone.replayed
    await service.verify()


@pytest.mark.parametrize("rpc", END)
async def test_a_batch_has_from_one_to_a_thousand_entries(service: Harness, rpc: str) -> None:
    call = getattr(service.reservations, f"Batch{rpc}")
    for count in (0, 1001):
        refusal = await refused(call(_batch(rpc, [_entry(rpc, UNKNOWN)] * count)))
        assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "requests")
    assert _results(await call(_batch(rpc, [_entry(rpc, UNKNOWN)] * 1000))) == ["RESERVATION_NOT_FOUND"] * 1000


async def test_entries_that_name_the_same_reservation_take_effect_in_order(service: Harness) -> None:
    await service.create_item("bed", 100)
    [id_] = await _holds(service, 1, quantity=5)
    cancels = [pb.CancelRequest(reservation_id=id_, lines=lines(bed=quantity)) for quantity in (1, 9, 1, 3, 1)]
    response: Any = await service.reservations.BatchCancel(pb.BatchCancelRequest(requests=cancels))
    assert _results(response) == ["HELD", "QUANTITY_EXCEEDED", "HELD", "CANCELLED", "RESERVATION_ALREADY_CANCELLED"]
    assert [held(result.reservation).get("bed") for result in response.results] == [4, None, 3, 3, None]

    [id_] = await _holds(service, 1, quantity=5)
    modifies = [
        pb.ModifyRequest(reservation_id=id_, lines=wanted(bed=quantity), update_mask={"paths": ["lines"]})
        for quantity in (7, 200, 2)
    ]
    response = await service.reservations.BatchModify(pb.BatchModifyRequest(requests=modifies))
    assert _results(response) == ["HELD", "CAPACITY_EXCEEDED", "HELD"]
    assert held(await service.get(id_)) == {"bed": 2}

    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_))
    fulfils = [pb.FulfilRequest(reservation_id=id_, lines=lines(bed=1)) for _ in range(3)]
    response = await service.reservations.BatchFulfil(pb.BatchFulfilRequest(requests=fulfils))
    assert _results(response) == ["CONFIRMED", "FULFILLED", "ALREADY_FULFILLED"]
    assert sold(await service.get(id_)) == {"bed": (2, 2, 0, 0)}
    assert counters(await service.item("bed")) == (98, 98, 0, 0)
    await service.verify()


async def test_five_hundred_entries_of_ten_lines_are_confirmed_modified_and_refunded_at_once(service: Harness) -> None:
    skus = [f"item-{number}" for number in range(10)]
    for sku in skus:
        await service.create_item(sku, 10_000)
    reserves = [pb.ReserveRequest(lines=lines(**dict.fromkeys(skus, 2)), ttl=timedelta(minutes=10)) for _ in range(500)]
    made = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=reserves))
    ids = [result.reservation.reservation_id for result in made.results]
    mask: Any = {"paths": ["lines"]}
    changes: dict[str, Any] = {
        "Modify": {"lines": wanted(**dict.fromkeys(skus, 3)), "update_mask": mask},
        "Confirm": {"lines": lines(**dict.fromkeys(skus, 2))},
        "Fulfil": {"lines": lines(**dict.fromkeys(skus, 1))},
        "Refund": {"lines": lines(**dict.fromkeys(skus, 1))},
    }
    for rpc, fields in changes.items():
        entries = [getattr(pb, f"{rpc}Request")(reservation_id=id_, **fields) for id_ in ids]
        response = await getattr(service.reservations, f"Batch{rpc}")(_batch(rpc, entries))
        assert not any(result.HasField("error") for result in response.results), rpc
    assert counters(await service.item("item-0")) == (9500, 9500, 0, 0)
    await service.verify()
