"""Every migration up, down and up again, on a database with data, on each PostgreSQL that is supported."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from holdsvc.embedded import binaries
from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import migrate, schema_files
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import StartService

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
MAJORS = {binaries.major(folder): folder for folder in binaries._package_folders()}
if DEBIAN_15.exists():
    MAJORS[15] = DEBIAN_15

LEFT_OVER = """
SELECT 'relation ' || c.relname FROM pg_class c WHERE c.relnamespace::regnamespace::text = 'holdsvc'
UNION ALL SELECT 'function ' || p.proname FROM pg_proc p WHERE p.pronamespace::regnamespace::text ~ '^holdsvc'
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^holdsvc' AND nspname <> 'holdsvc_migrations'
"""


@pytest.fixture(params=sorted({15, 16, 18}))
def major_dsn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of a major version."""
    if request.param not in MAJORS:
        pytest.skip(f"PostgreSQL {request.param} is not installed")
    unsafe = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    with EmbeddedServer(tmp_path / "data", bin_dir=MAJORS[request.param], settings=unsafe):
        yield running_dsn(tmp_path / "data") or ""


async def use(start_service: StartService, dsn: str) -> None:
    """Walks a hold through its life on that database."""
    service = await start_service(dsn=dsn)
    sku = f"sku-{service.service.port}"
    await service.create_item(sku, 10)
    for number in range(4):
        held = await service.reserve({sku: 1}, request_id=f"{sku}/{number}", reference=f"{sku}-{number}", holder="me")
        held_id = held.reservation_id
        if number == 1:
            await service.reservations.Cancel(pb.CancelRequest(reservation_id=held_id))
        elif number > 1:
            await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held_id))
            await service.reservations.Extend(pb.ExtendRequest(reference=f"{sku}-0"))
        if number == 3:
            await service.reservations.Refund(pb.RefundRequest(reservation_id=held_id))
    await service.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku=sku, delta=5))
    item = await service.item(sku)
    assert (item.capacity, item.remaining, item.held, item.confirmed) == (15, 13, 1, 1)
    await service.verify()
    # While it serves, no migration that it needs can be taken back.
    await service.stop()


async def test_all_migrations_go_up_down_and_up_again_with_data(major_dsn: str, start_service: StartService) -> None:
    count = len(schema_files.read())
    assert len(migrate.up(major_dsn).migrations) == count
    await use(start_service, major_dsn)
    # One step at a time, so that each leaves a database from which the next can go on.
    for _ in range(count):
        assert len(migrate.down(major_dsn, 1)) == 1
    with psycopg.connect(major_dsn) as owner:
        assert owner.execute(LEFT_OVER.encode()).fetchall() == []
    assert len(migrate.up(major_dsn).migrations) == count
    await use(start_service, major_dsn)


async def test_each_migration_goes_down_and_up_again_under_the_later_ones_data(
    database_dsn: str, start_service: StartService
) -> None:
    for version in schema_files.read():
        migrate.up(database_dsn, version)
        migrate.down(database_dsn, 1)
        migrate.up(database_dsn, version)
    await use(start_service, database_dsn)


async def test_after_down_and_up_of_the_newest_the_service_still_works(
    database_dsn: str, start_service: StartService
) -> None:
    migrate.up(database_dsn)
    await use(start_service, database_dsn)
    [newest] = migrate.down(database_dsn, 1)
    assert [migration.version for migration in migrate.up(database_dsn).migrations] == [newest.version]
    await use(start_service, database_dsn)
