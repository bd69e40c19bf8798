"""The client's calls for holds that change, each over the wire."""

import pytest

from holdsvc.client import AsyncClient, errors
from inventoryhold.v1 import reservation_pb2
from tests.contract.lines import counters, held, sold
from tests.support.harness import Harness

Reservation = reservation_pb2.Reservation


async def test_a_hold_is_modified_cancelled_in_part_confirmed_fulfilled_and_refunded(service: Harness) -> None:
    await service.create_item("bed", 10)
    async with AsyncClient(f"127.0.0.1:{service.service.port}") as client:
        made = await client.reserve({"bed": 4}, holder="ann")
        id_ = made.reservation_id
        changed = await client.modify(id_, lines={"bed": 6}, reference="cart")
        assert (held(changed), changed.holder, changed.reference) == ({"bed": 6}, "ann", "cart")
        assert held(await client.cancel(id_, lines={"bed": 1})) == {"bed": 5}
        await client.confirm(id_)
        assert (await client.fulfil(id_, lines={"bed": 2})).state == Reservation.STATE_CONFIRMED
        assert (await client.fulfil(id_)).state == Reservation.STATE_FULFILLED
        with pytest.raises(errors.AlreadyFulfilled):
            await client.fulfil(id_)
        assert sold(await client.refund(id_, lines={"bed": 1})) == {"bed": (5, 5, 1, 1)}
        for call in (client.cancel, client.fulfil):
            with pytest.raises(errors.InvalidField):
                await call(id_, lines={})
    assert counters(await service.item("bed")) == (6, 6, 0, 0)
    await service.verify()
