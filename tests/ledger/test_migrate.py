"""The migration runner on a real PostgreSQL, with small files of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.ledger import migrate, schema_files
from holdsvc.ledger.schema_files import DatabaseNewer, MigrationChanged, MigrationError

SINCE = "-- compatible since: 0001\n"
ONE = SINCE + "-- The first table.\n-- migrate:up\nCREATE TABLE one (id int);\n-- migrate:down\nDROP TABLE one;\n"
TWO = """-- compatible since: 0001
-- migrate:up
CREATE FUNCTION two() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  RETURN 2; -- a semicolon; 'a quote
END
$$;
INSERT INTO one VALUES (two());
-- migrate:down
DELETE FROM one;
DROP FUNCTION two();
"""
INDEX = (
    SINCE + "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS one_id ON one (id);\n"
    "-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY IF EXISTS one_id;\n"
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_files(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name.removeprefix('m')}.sql").write_text(text)
        return tmp_path

    return write_files


def query(dsn: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def applied(dsn: str, to: str | None = None, *, folder: Path) -> list[str]:
    return [migration.version for migration in migrate.up(dsn, to, folder=folder).migrations]


def taken_back(dsn: str, steps: int, *, folder: Path) -> list[str]:
    return [migration.version for migration in migrate.down(dsn, steps, folder=folder)]


def states(dsn: str, folder: Path) -> list[tuple[str, str, str]]:
    return [(row.version, row.name, row.state) for row in migrate.status(dsn, folder=folder).migrations]


def test_up_applies_every_pending_file_once_and_in_order(database_dsn: str, write: Write) -> None:
    folder = write(m0002_two=TWO, m0001_one=ONE)
    assert applied(database_dsn, folder=folder) == ["0001", "0002"]
    assert applied(database_dsn, folder=folder) == []
    assert query(database_dsn, "SELECT id FROM one") == [(2,)]


def test_up_stops_at_the_version_asked_for(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0002_two=TWO)
    assert applied(database_dsn, "1", folder=folder) == ["0001"]
    assert states(database_dsn, folder) == [("0001", "one", "applied"), ("0002", "two", "pending")]
    with pytest.raises(MigrationError, match="no migration 3: the versions are 0001, 0002"):
        migrate.up(database_dsn, "3", folder=folder)


def test_down_takes_back_the_newest_first_and_up_brings_it_again(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0002_two=TWO)
    migrate.up(database_dsn, folder=folder)
    assert taken_back(database_dsn, 1, folder=folder) == ["0002"]
    assert states(database_dsn, folder) == [("0001", "one", "applied"), ("0002", "two", "pending")]
    assert applied(database_dsn, folder=folder) == ["0002"]
    assert taken_back(database_dsn, 9, folder=folder) == ["0002", "0001"]
    assert query(database_dsn, "SELECT to_regclass('one')::text") == [(None,)]


def test_down_of_an_empty_database_and_of_no_steps_changes_nothing(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE)
    assert migrate.down(database_dsn, 1, folder=folder) == []
    with pytest.raises(MigrationError, match="1 or more"):
        migrate.down(database_dsn, 0, folder=folder)


def test_status_of_a_fresh_database_changes_nothing(database_dsn: str, write: Write) -> None:
    assert states(database_dsn, write(m0001_one=ONE)) == [("0001", "one", "pending")]
    assert query(database_dsn, "SELECT 1 FROM pg_namespace WHERE nspname = 'holdsvc_migrations'") == []


def test_a_failing_migration_leaves_nothing_of_itself_and_names_its_line(database_dsn: str, write: Write) -> None:
    bad = SINCE + "-- migrate:up\nCREATE TABLE left_over ();\nINSERT INTO\n  absent VALUES (1);\n-- migrate:down\n"
    folder = write(m0001_one=ONE, m0002_bad=bad)
    with pytest.raises(MigrationError, match=r'0002_bad\.sql failed near line 5: relation "absent" does not exist'):
        migrate.up(database_dsn, folder=folder)
    assert states(database_dsn, folder) == [("0001", "one", "applied"), ("0002", "bad", "pending")]
    assert query(database_dsn, "SELECT to_regclass('left_over')::text") == [(None,)]


def test_a_file_changed_after_it_was_applied_is_refused(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE)
    migrate.up(database_dsn, folder=folder)
    write(m0001_one=ONE + "-- edited\n", m0002_two=TWO)
    with pytest.raises(MigrationChanged, match="0001_one was changed after it was applied"):
        migrate.up(database_dsn, folder=folder)
    assert states(database_dsn, folder) == [("0001", "one", "changed"), ("0002", "two", "pending")]


def test_code_starts_on_a_newer_schema_that_still_serves_it_and_cannot_take_it_back(
    database_dsn: str, write: Write
) -> None:
    folder = write(m0001_one=ONE, m0002_two=TWO)
    migrate.up(database_dsn, folder=folder)
    (folder / "0002_two.sql").unlink()
    assert applied(database_dsn, folder=folder) == []
    with pytest.raises(DatabaseNewer, match="0002, which this version of holdsvc does not know"):
        migrate.down(database_dsn, 1, folder=folder)
    assert states(database_dsn, folder) == [("0001", "one", "applied"), ("0002", "two", "unknown")]


def test_code_older_than_what_the_schema_serves_is_refused(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0002_two=TWO.replace("since: 0001", "since: 0002"))
    migrate.up(database_dsn, folder=folder)
    assert migrate.status(database_dsn, folder=folder).compatible_since == "0002"
    (folder / "0002_two.sql").unlink()
    with pytest.raises(DatabaseNewer, match="schema version 0002 and newer, and this version of holdsvc has 0001"):
        migrate.up(database_dsn, folder=folder)


def test_a_database_of_another_line_of_versions_is_refused(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0003_two=TWO)
    migrate.up(database_dsn, folder=folder)
    write(m0002_index=INDEX)
    (folder / "0003_two.sql").unlink()
    with pytest.raises(DatabaseNewer, match="has the migration 0003 and lacks 0002"):
        migrate.up(database_dsn, folder=folder)


def test_a_database_of_an_unreleased_version_is_refused_with_what_to_do(database_dsn: str) -> None:
    query(database_dsn, "CREATE SCHEMA holdsvc_migrations")
    query(database_dsn, "CREATE TABLE holdsvc_migrations.schema_migrations (version text, name text, sha256 text)")
    query(database_dsn, "INSERT INTO holdsvc_migrations.schema_migrations VALUES ('0097', 'x', 'y')")
    for run in (migrate.up, migrate.status):
        with pytest.raises(
            MigrationError, match="made by an unreleased version of holdsvc: start with another DATA_DIR"
        ):
            run(database_dsn)


def test_a_part_without_transaction_builds_an_index_concurrently(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0002_index=INDEX)
    assert applied(database_dsn, folder=folder) == ["0001", "0002"]
    assert query(database_dsn, "SELECT to_regclass('one_id')::text") == [("one_id",)]
    assert taken_back(database_dsn, 1, folder=folder) == ["0002"]
    assert query(database_dsn, "SELECT to_regclass('one_id')::text") == [(None,)]


def test_runs_at_the_same_time_apply_each_migration_once(database_dsn: str, write: Write) -> None:
    folder = write(m0001_one=ONE, m0002_two=TWO, m0003_index=INDEX)
    barrier = threading.Barrier(6)

    def run(_: int) -> list[str]:
        barrier.wait()
        return applied(database_dsn, folder=folder)

    with ThreadPoolExecutor(6) as pool:
        found = [version for done in pool.map(run, range(6)) for version in done]
    assert sorted(found) == ["0001", "0002", "0003"]
    assert query(database_dsn, "SELECT count(*) FROM one") == [(1,)]


def test_a_setting_of_one_migration_does_not_reach_the_next(database_dsn: str, write: Write) -> None:
    sets = (
        SINCE
        + "-- migrate:up\nCREATE SCHEMA aside; SET search_path = aside;\n-- migrate:down\nDROP SCHEMA aside CASCADE;\n"
    )
    migrate.up(database_dsn, folder=write(m0001_sets=sets, m0002_one=ONE))
    assert query(database_dsn, "SELECT to_regclass('public.one')::text") == [("one",)]


ALTER = SINCE + "-- migrate:up\nALTER TABLE one ADD COLUMN more int;\n-- migrate:down\n"


def test_a_migration_that_never_gets_its_lock_gives_up_and_changes_nothing(
    database_dsn: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_TABLE_LOCK_WAIT", timedelta(milliseconds=200))
    folder = write(m0001_one=ONE)
    migrate.up(database_dsn, folder=folder)
    write(m0002_alter=ALTER)
    with psycopg.connect(database_dsn) as user:
        user.execute("SELECT * FROM one")
        with pytest.raises(MigrationError, match="0002_alter got no lock on a table within"):
            migrate.up(database_dsn, folder=folder)
    assert applied(database_dsn, folder=folder) == ["0002"]


@pytest.mark.alone
def test_callers_do_not_queue_up_behind_a_migration_that_waits_for_a_long_reader(
    database_dsn: str, write: Write
) -> None:
    folder = write(m0001_one=ONE)
    migrate.up(database_dsn, folder=folder)
    write(m0002_alter=ALTER)
    slowest_s = 0.0
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database_dsn) as reader,
        psycopg.connect(database_dsn, autocommit=True) as caller,
    ):
        reader.execute("SELECT * FROM one")
        migrating = pool.submit(applied, database_dsn, folder=folder)
        end = monotonic() + 1.5
        while monotonic() < end:
            start = monotonic()
            caller.execute("INSERT INTO one VALUES (1)")
            slowest_s = max(slowest_s, monotonic() - start)
        assert not migrating.done()
        reader.rollback()
        assert migrating.result(10) == ["0002"]
    assert slowest_s < 0.5


def test_another_run_that_does_not_end_is_reported(
    database_dsn: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK_WAIT", timedelta(milliseconds=50))
    with psycopg.connect(database_dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (migrate._LOCK_KEY,))
        with pytest.raises(MigrationError, match="Another run of migrations does not end within"):
            migrate.up(database_dsn, folder=write(m0001_one=ONE))


def test_a_role_that_may_not_migrate_is_told_so_but_may_see_that_nothing_is_pending(
    database_dsn: str, write: Write
) -> None:
    query(database_dsn, "CREATE ROLE only_serves LOGIN")
    service_dsn = make_conninfo(database_dsn, user="only_serves")
    folder = write(m0001_one=ONE)
    try:
        with pytest.raises(MigrationError, match=r"only_serves may not migrate: .*Set HOLDSVC_MIGRATE_DSN"):
            migrate.up(service_dsn, folder=folder)
        migrate.up(database_dsn, folder=folder)
        assert applied(service_dsn, folder=folder) == []
        assert states(service_dsn, folder) == [("0001", "one", "applied")]
        write(m0002_two=TWO)
        with pytest.raises(MigrationError, match=r"only_serves may not migrate: .*Set HOLDSVC_MIGRATE_DSN"):
            migrate.up(service_dsn, folder=folder)
    finally:
        query(database_dsn, "DROP ROLE only_serves")


def test_a_missing_database_is_reported_with_what_to_check(server_dsn: str, write: Write) -> None:
    with pytest.raises(MigrationError, match=r'(?s)database "absent" does not exist.*check HOLDSVC_MIGRATE_DSN'):
        migrate.up(make_conninfo(server_dsn, dbname="absent"), folder=write(m0001_one=ONE))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no migrations in"),
        ({"m1_one": ONE, "m0002_two": TWO}, "differ in length"),
        ({"m0001_one": ONE, "m0001_two": TWO}, "Two files have the version 0001"),
        ({"mone": ONE}, r"one\.sql is not named NNNN_name\.sql"),
        ({"m0001_one": "CREATE TABLE one ();"}, "needs one line `-- migrate:up`"),
        ({"m0001_one": "-- migrate:down\n-- migrate:up\n"}, "needs one line `-- migrate:up`"),
        ({"m0001_one": "-- migrate:up\n-- migrate:down\n"}, "needs one line `-- compatible since"),
        ({"m0001_one": "-- compatible since: 0002\n-- migrate:up\n-- migrate:down\n"}, "a version up to its own"),
        ({"m0001_one": SINCE + "-- migrate:up transaction:no\n-- migrate:down\n"}, "unknown option 'transaction:no'"),
    ],
)
def test_files_that_cannot_be_read_in_one_way_only_are_refused(
    write: Write, files: dict[str, str], message: str
) -> None:
    with pytest.raises(MigrationError, match=message):
        schema_files.read(write(**files))
