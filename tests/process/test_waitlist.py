"""kill -9 of the service between the release of units and the offers of them."""

from pathlib import Path

import psycopg

from holdsvc.embedded.server import running_dsn
from inventoryhold.v1 import inventory_service_pb2, item_pb2, waitlist_service_pb2_grpc
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import waitlist_service_pb2 as waitlist_pb
from tests.support.polling import wait_until
from tests.support.program import WAIT_S, Client, Program, Watched


def test_units_freed_before_kill_9_are_offered_after_the_restart(data_dir: Path) -> None:
    with Program(data_dir) as program:
        client = Client(program.serving())
        item = item_pb2.Item(sku="seat", capacity=5, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING)
        client.inventory.CreateItem(inventory_service_pb2.CreateItemRequest(item=item), timeout=WAIT_S)
        hold = client.reserve("seat", 5).reservation_id
        waitlist = waitlist_service_pb2_grpc.WaitlistServiceStub(program.channel())
        lines = [item_pb2.ItemQuantity(sku="seat", quantity=1)]
        for number in range(8):
            joined = waitlist_pb.JoinWaitlistRequest(lines=lines, holder=f"holder-{number}")
            waitlist.JoinWaitlist(joined, timeout=WAIT_S)
        dsn = running_dsn(data_dir)
        assert dsn is not None
        locking = psycopg.connect(dsn)
        # Nobody can be served from here on; this session ends with the database.
        locking.execute("LOCK TABLE holdsvc.waitlist_entry IN EXCLUSIVE MODE")
        client.reservations.Cancel(pb.CancelRequest(reservation_id=hold), timeout=WAIT_S)
        below = Watched(program.children(""))
        program.kill()
        assert below.have_ended()
        locking.close()
    with Program(data_dir) as program:
        client = Client(program.serving())
        wait_until(lambda: client.item("seat").held == 5)
        assert client.item("seat").waiting == 3
