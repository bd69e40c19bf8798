"""What stands in the database's catalogue after all migrations: who may do what."""

import psycopg
import pytest

from tests.support.harness import SET_NAME

SERVICE_ROLE = "holdsvc_service"

# Functions that the service may execute without naming a tenant, and why.
WITHOUT_TENANT = {
    "cell_name": "which cell this is, reads no tenant's data",
    "claim_webhooks": "the senders of all processes, which hand each webhook its own tenant's events",
    "create_event_partitions": "makes tables, reads no rows",
    "drop_event_partition": "retention by whole days, returns a day",
    "feed_identity": "which history of the feed this is, reads no tenant's data",
    "find_api_key": "the key is what tells the tenant",
    "limit_totals": "how many limits there are, numbers alone",
    "oldest_transactions": "ages of the server's transactions, no rows of ours",
    "poll_feed": "how far the feed has come, numbers alone",
    "purge_limit_subjects": "deletes what counts nothing, returns the place to go on from",
    "purge_event_history": "deletes by age, returns a count",
    "purge_requests": "deletes by age, returns a count",
    "purge_waitlist": "deletes by age, returns a count",
    "purge_stock_moves": "deletes by age, returns a count",
    "read_item_changes": "the one reader of a process, names of items which the tenant's own function then reads",
    "relay_position": "a relay serves all tenants, its place in the feed",
    "renew_webhooks": "a sender's own leases of whatever tenants, by an id that it alone knows",
    "save_relay_position": "a relay serves all tenants, its place in the feed",
    "remove_ended": "deletes by age, returns a count",
    "restore_mark": "when the database was put back, a number alone",
    "use_function_set": "which processes use the set, reads no tenant's data",
    "webhook_totals": "counts of all tenants together",
    "tenant_changes": "names of tenants, cells and states, for each process's copy",
    "tenants_mark": "up to where a process has read them, reads no tenant's data",
    "tenant_states": "names of tenants, cells and states, for each process's copy",
    "tenants": "the names of tenants alone, for counting units and holds of each",
}

SCHEMAS = ["holdsvc", SET_NAME]

SEARCH_PATH = f"search_path={SET_NAME}, holdsvc, pg_temp"

FUNCTIONS = """
SELECT p.pronamespace::regnamespace::text, p.proname, p.prosecdef,
       coalesce(p.proconfig, '{}'), coalesce(p.proargnames, '{}'),
       has_function_privilege('holdsvc_service', p.oid, 'EXECUTE'),
       p.proacl IS NULL OR EXISTS (SELECT 1 FROM aclexplode(p.proacl) a WHERE a.grantee = 0)
FROM pg_proc p WHERE p.pronamespace::regnamespace::text = ANY (%s)
ORDER BY p.proname
"""


class Function:
    """One function of the schema as the catalogue has it."""

    def __init__(self, row: tuple[object, ...]) -> None:
        self.schema, self.name, self.definer, config, arguments, self.of_service, self.of_public = row
        self.config = list(config)  # type: ignore[call-overload]
        self.arguments = list(arguments)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return str(self.name)


@pytest.fixture
def functions(ledger_dsn: str) -> list[Function]:
    with psycopg.connect(ledger_dsn) as owner:
        found = [Function(row) for row in owner.execute(FUNCTIONS.encode(), (SCHEMAS,))]
    assert len(found) > 30
    # The tests' clock, which travels in time, replaces the one of the baseline.
    return [function for function in found if function.name != "wall_clock"]


def test_the_service_has_no_right_on_any_table_or_sequence(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        tables = owner.execute(
            "SELECT c.relname FROM pg_class c WHERE c.relnamespace::regnamespace::text = ANY (%s)"
            " AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
            " AND (has_table_privilege(%s, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')"
            " OR has_any_column_privilege(%s, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))",
            (SCHEMAS, SERVICE_ROLE, SERVICE_ROLE),
        ).fetchall()
        sequences = owner.execute(
            "SELECT c.relname FROM pg_class c WHERE c.relnamespace::regnamespace::text = ANY (%s)"
            " AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(%s, c.oid, 'USAGE, SELECT, UPDATE') END",
            (SCHEMAS, SERVICE_ROLE),
        ).fetchall()
        books = owner.execute(
            "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'holdsvc_migrations'::regnamespace"
            " AND c.relkind = 'r' AND has_table_privilege(%s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')",
            (SERVICE_ROLE,),
        ).fetchall()
    assert tables == []
    assert sequences == []
    assert books == []


def test_the_service_owns_nothing_and_is_no_member_of_another_role(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as owner:
        [(superuser, creates_roles, creates_databases, bypasses)] = owner.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = %s",
            (SERVICE_ROLE,),
        ).fetchall()
        owned = owner.execute(
            "SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = %s::regrole", (SERVICE_ROLE,)
        ).fetchone()
        member = owner.execute(
            "SELECT count(*) FROM pg_auth_members WHERE member = %s::regrole", (SERVICE_ROLE,)
        ).fetchone()
        may_create = owner.execute(
            "SELECT bool_or(has_schema_privilege(%s, s, 'CREATE')) FROM unnest(%s::text[]) s",
            (SERVICE_ROLE, [*SCHEMAS, "holdsvc_migrations"]),
        ).fetchone()
    assert (superuser, creates_roles, creates_databases, bypasses) == (False, False, False, False)
    assert (owned, member, may_create) == ((0,), (0,), (False,))


def test_no_function_is_executable_by_public(functions: list[Function]) -> None:
    assert [function for function in functions if function.of_public] == []


def test_every_function_of_the_service_runs_as_its_owner_with_a_fixed_search_path(functions: list[Function]) -> None:
    loose = [
        function
        for function in functions
        if function.of_service and not (function.definer and SEARCH_PATH in function.config)
    ]
    assert loose == []


def test_every_function_that_runs_as_its_owner_has_a_fixed_search_path(functions: list[Function]) -> None:
    definers = [function for function in functions if function.definer]
    assert [function for function in definers if SEARCH_PATH not in function.config] == []


def test_every_function_of_the_service_takes_the_tenant(functions: list[Function]) -> None:
    without = {
        str(function)
        for function in functions
        if function.of_service and function.schema == SET_NAME and (function.arguments or [""])[0] != "_tenant"
    }
    assert without == {*WITHOUT_TENANT}


def test_the_service_may_not_read_a_table_in_sql(ledger_dsn: str) -> None:
    with psycopg.connect(ledger_dsn) as connection:
        connection.execute(f"SET ROLE {SERVICE_ROLE}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM holdsvc.reservation")
