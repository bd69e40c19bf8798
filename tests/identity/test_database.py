"""The database's part: a service whose login may do nothing but execute the ledger's functions."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.ledger import migrate
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import SET_NAME, StartService
from tests.support.partners import new_partner

LOGIN = "holdsvc_test_login"


@pytest.fixture
def login_dsn(ledger_dsn: str) -> Iterator[str]:
    """The DSN of a login that has nothing but the service's role."""
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE holdsvc_service".encode())
        yield make_conninfo(ledger_dsn, user=LOGIN)
        owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (LOGIN,))
        owner.execute(f"DROP ROLE {LOGIN}".encode())


async def test_a_login_with_no_right_but_the_services_role_serves_every_kind_of_call(
    start_service: StartService, login_dsn: str
) -> None:
    service = await start_service(auth="api-key", dsn=login_dsn, sweeping=True)
    partner = await new_partner(service, "partner")
    item = {"sku": "seat", "capacity": 5}
    await partner.inventory.CreateItem(inventory.CreateItemRequest(item=item))
    await partner.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="seat", delta=1))
    await partner.inventory.TransferCapacity(inventory.TransferCapacityRequest(sku="seat", to_pool="web", quantity=1))
    await partner.inventory.UpdateItem(inventory.UpdateItemRequest(item=item, update_mask={"paths": ["capacity"]}))
    await partner.inventory.ListItems(inventory.ListItemsRequest())
    line = {"sku": "seat", "quantity": 1}
    await partner.inventory.CheckAvailability(inventory.CheckAvailabilityRequest(lines=[line]))
    made = await partner.reservations.Reserve(pb.ReserveRequest(lines=[line], request_id="once", reference="cart"))
    target = {"reservation_id": made.reservation.reservation_id}
    await partner.reservations.Extend(pb.ExtendRequest(**target))
    await partner.reservations.Confirm(pb.ConfirmRequest(reference="cart", customer={"name": "N"}))
    await partner.reservations.Refund(pb.RefundRequest(**target))
    await partner.reservations.ListReservations(pb.ListReservationsRequest(include_total=True))
    await partner.reservations.ListReservationEvents(pb.ListReservationEventsRequest(**target))
    await partner.reservations.Cleanup(pb.CleanupRequest())
    made_key = await partner.admin.CreateApiKey(admin.CreateApiKeyRequest(client="more", scopes=["reserve"]))
    await partner.admin.ListApiKeys(admin.ListApiKeysRequest())
    await partner.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=made_key.api_key.key_id))
    assert (await partner.admin.VerifyLedger(admin.VerifyLedgerRequest())).ok


def test_that_login_reads_and_writes_no_table_and_finds_no_other_way_in(login_dsn: str) -> None:
    for statement in (
        "SELECT * FROM holdsvc.api_key",
        "SELECT tenant FROM holdsvc.reservation",
        "UPDATE holdsvc.item SET remaining = 0",
        "DELETE FROM holdsvc.event",
        "TRUNCATE holdsvc.request",
        "SELECT nextval('holdsvc.event_id')",
        f"SELECT {SET_NAME}.find_requests('t', 'Reserve', '{{}}', '{{}}')",
        f"SELECT {SET_NAME}.tenants_of_nobody()",
        f"SELECT {SET_NAME}.point_entrances()",
        f"CREATE FUNCTION {SET_NAME}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        f"DROP FUNCTION {SET_NAME}.tenants()",
        "UPDATE holdsvc_migrations.function_set SET digest = ''",
        "UPDATE holdsvc_migrations.feature SET activate_time = now()",
        "CREATE TABLE holdsvc.mine ()",
        "CREATE FUNCTION holdsvc.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE postgres",
    ):
        with psycopg.connect(login_dsn, autocommit=True) as connection, pytest.raises(psycopg.Error) as refused:
            connection.execute(statement.encode())
        assert refused.value.sqlstate in {"42501", "42883"}, statement


def test_every_function_of_the_ledger_has_a_fixed_search_path(database_dsn: str) -> None:
    migrate.up(database_dsn)
    with psycopg.connect(database_dsn) as owner:
        loose = owner.execute(
            "SELECT f.proname FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang"
            " WHERE f.pronamespace IN ('holdsvc'::regnamespace, %s::regnamespace)"
            " AND NOT %s = ANY (coalesce(f.proconfig, '{}'))"
            # Expressions, which read no table and inline into what calls them.
            " AND NOT (l.lanname = 'sql' AND f.provolatile = 'i')",
            (SET_NAME, f"search_path={SET_NAME}, holdsvc, pg_temp"),
        ).fetchall()
    # A clock, which inlines too.
    assert loose == [("wall_clock",)]
