"""What another transaction has locked, by request."""

import pytest

from holdsvc.change_requests import Adjust, Cancel, Reserve, Transfer
from holdsvc.ledger import holds, items, locks
from holdsvc.ledger.database import Connection
from holdsvc.model import ItemKey
from tests.support import sessions
from tests.support.holds import CALLER, new_id, reserves, stock

LOCK_ITEM = "SELECT 1 FROM holdsvc.item WHERE sku = %s FOR NO KEY UPDATE"


@pytest.fixture
async def connection(connection: Connection) -> Connection:
    await items.create(connection, CALLER, stock(("a", "b", "c")))
    return connection


def reserve(*skus: str) -> Reserve:
    [made] = reserves(skus[:1])
    made.lines = [line._replace(sku=sku) for sku in skus for line in made.lines]
    return made


async def test_requests_for_a_locked_item_are_found(connection: Connection, ledger_dsn: str) -> None:
    wanted = [reserve("a"), reserve("b"), reserve("a", "b", "c"), reserve("none"), reserve("c")]
    assert await locks.RESERVES.find(connection, "default", wanted) == {}
    with sessions.transaction(ledger_dsn) as other:
        other.execute(LOCK_ITEM, ("b",))
        locked = ItemKey("b", "")
        assert await locks.RESERVES.find(connection, "default", wanted) == {1: locked, 2: locked}
        assert await locks.RESERVES.find(connection, "another", wanted) == {}
        adjusts = [Adjust(CALLER, "", b"", sku, "", 1, "") for sku in "abc"]
        assert await locks.ADJUSTS.find(connection, "default", adjusts) == {1: locked}
        transfers = [Transfer(CALLER, "", b"", sku, "", "other", 1, "") for sku in "abc"]
        assert await locks.TRANSFERS.find(connection, "default", transfers) == {1: locked}
    # What the question itself locked is free again.
    assert await locks.RESERVES.find(connection, "default", wanted) == {}


async def test_requests_for_a_reservation_that_is_locked_or_lies_on_a_locked_item_are_found(
    connection: Connection, ledger_dsn: str
) -> None:
    targets = locks.TargetLocks[Cancel]()
    held = reserves("abc")
    held[1].reference = "cart-1"
    await holds.reserve(connection, "default", held)
    ids = [one.reservation_id for one in held]
    wanted = [
        Cancel(CALLER, "", b"", ids[0], None, ""),
        Cancel(CALLER, "", b"", None, "cart-1", ""),
        Cancel(CALLER, "", b"", ids[2], None, ""),
        Cancel(CALLER, "", b"", new_id(), None, ""),
        Cancel(CALLER, "", b"", None, "unknown", ""),
    ]
    assert await targets.find(connection, "default", wanted) == {}
    with sessions.transaction(ledger_dsn) as other:
        other.execute(LOCK_ITEM, ("b",))
        other.execute("SELECT 1 FROM holdsvc.reservation WHERE reservation_id = %s FOR UPDATE", (ids[2],))
        assert await targets.find(connection, "default", wanted) == {1: ItemKey("b", ""), 2: locks.RESERVATION}
    assert await targets.find(connection, "default", wanted) == {}
