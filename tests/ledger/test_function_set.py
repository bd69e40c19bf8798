"""Function sets on a real PostgreSQL: installed once, verified, repaired or refused, pruned."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.ledger import function_set, migrate, schema_files
from holdsvc.ledger.function_set import FunctionSet
from holdsvc.ledger.schema_files import MigrationError

SHIPPED = function_set.shipped()


def other(mark: str) -> FunctionSet:
    """The set of another release: the shipped one with another text."""
    files = tuple((name, f"-- {mark}\n{text}") for name, text in SHIPPED.files)
    return replace(SHIPPED, name=f"holdsvc_{mark}", files=files)


def query(dsn: str, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def sets(dsn: str) -> set[str]:
    return {name for (name,) in query(dsn, "SELECT nspname FROM pg_namespace WHERE nspname ~ '^holdsvc_[^m]'")}


def registered(dsn: str) -> set[str]:
    return {row.name for row in migrate.status(dsn).function_sets}


def use(dsn: str, name: str, *, ago: timedelta = timedelta()) -> None:
    """As if a process had last said so that long ago."""
    query(
        dsn,
        "INSERT INTO holdsvc_migrations.function_set_use VALUES (gen_random_uuid(), %s, clock_timestamp() - %s)",
        (name, ago),
    )
    query(
        dsn,
        "UPDATE holdsvc_migrations.function_set SET last_use_time = clock_timestamp() - %s WHERE name = %s",
        (ago, name),
    )


def test_the_name_of_a_set_follows_from_its_text_and_its_schema_version(tmp_path: Path) -> None:
    (tmp_path / "answers.sql").write_text("SELECT 1;")
    first = function_set.read(tmp_path, "0100")
    assert function_set.read(tmp_path, "0100").name == first.name
    assert function_set.read(tmp_path, "0101").name != first.name
    (tmp_path / "answers.sql").write_text("SELECT 2;")
    assert function_set.read(tmp_path, "0100").name != first.name


def test_a_second_start_installs_nothing(migrated: str) -> None:
    assert sets(migrated) == registered(migrated) == {SHIPPED.name}
    assert migrate.up(migrated) == migrate.Done([], None)


def test_ten_starts_of_two_releases_at_once_install_each_set_once(database_dsn: str) -> None:
    barrier = Barrier(10)

    def start(number: int) -> str | None:
        barrier.wait()
        return migrate.up(database_dsn, functions=other("newer") if number % 2 else None).function_set

    with ThreadPoolExecutor(10) as pool:
        installed = [name for name in pool.map(start, range(10)) if name]
    assert sorted(installed) == sorted([SHIPPED.name, "holdsvc_newer"])
    assert sets(database_dsn) == registered(database_dsn) == {SHIPPED.name, "holdsvc_newer"}


def _install_and_hang(dsn: str, mark: str, ready: Any) -> None:
    hanging = other(mark)
    name, text = hanging.files[-1]
    waits = f"{text}\nSELECT pg_notify('hanging', ''); SELECT pg_sleep(600);"
    ready.set()
    migrate.up(dsn, functions=replace(hanging, files=(*hanging.files[:-1], (name, waits))))


def test_a_kill_in_the_middle_of_an_installation_leaves_nothing_and_the_next_start_installs(migrated: str) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_install_and_hang, args=(migrated, "killed", ready))
    process.start()
    assert ready.wait(30)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    while query(migrated, waiting) == [(0,)]:
        assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    query(migrated, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    assert sets(migrated) == registered(migrated) == {SHIPPED.name}
    assert migrate.up(migrated, functions=other("killed")).function_set == "holdsvc_killed"


REPLACED = """
CREATE OR REPLACE FUNCTION {0}.tenants() RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path = {0}, holdsvc, pg_temp AS 'SELECT NULL::text'
"""


@pytest.mark.parametrize(
    "harm",
    [
        REPLACED,
        "ALTER FUNCTION {0}.find_api_key(text) SECURITY INVOKER",
        "ALTER FUNCTION {0}.find_api_key(text) RESET ALL",
        "GRANT EXECUTE ON FUNCTION {0}.begin_epoch() TO PUBLIC",
        "DROP FUNCTION {0}.watch_items(text, text[], text[])",
        "DROP SCHEMA {0} CASCADE",
    ],
)
def test_a_set_that_is_not_as_it_was_installed_is_repaired(migrated: str, harm: str) -> None:
    [(before,)] = query(migrated, "SELECT digest FROM holdsvc_migrations.function_set")
    query(migrated, harm.format(SHIPPED.name))
    assert migrate.up(migrated) == migrate.Done([], SHIPPED.name)
    assert migrate.up(migrated) == migrate.Done([], None)
    assert query(migrated, "SELECT digest FROM holdsvc_migrations.function_set") == [(before,)]


def test_a_function_of_others_in_the_schema_of_a_set_is_refused(migrated: str) -> None:
    query(migrated, f"CREATE FUNCTION {SHIPPED.name}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(MigrationError, match=r"holds what holdsvc did not make: mine\(\)"):
        migrate.up(migrated)
    assert query(migrated, f"SELECT {SHIPPED.name}.mine()") == [(1,)]


@pytest.fixture
def stranger(server_dsn: str) -> Iterator[str]:
    query(server_dsn, "CREATE ROLE stranger LOGIN")
    yield "stranger"
    query(server_dsn, "DROP ROLE stranger")


def test_a_schema_that_a_stranger_made_first_is_refused_and_its_functions_are_not_called(
    migrated: str, stranger: str
) -> None:
    first = other("first")
    query(migrated, f"CREATE SCHEMA {first.name} AUTHORIZATION {stranger}")
    with pytest.raises(MigrationError, match="holdsvc_first exists and was not installed by this database's holdsvc"):
        migrate.up(migrated, functions=first)
    # Nor does a forged row help where the owner is another one.
    query(
        migrated,
        "INSERT INTO holdsvc_migrations.function_set (name, release, schema_version, digest, functions, types)"
        " SELECT 'holdsvc_first', release, schema_version, digest, functions, types"
        " FROM holdsvc_migrations.function_set",
    )
    with pytest.raises(MigrationError, match="holdsvc_first exists and was not installed"):
        migrate.up(migrated, functions=first)
    query(migrated, f"DROP SCHEMA {first.name}")


def test_a_set_belongs_to_the_owner_of_the_schema_whoever_installs_it(migrated: str, stranger: str) -> None:
    query(migrated, f"ALTER SCHEMA holdsvc OWNER TO {stranger}")
    query(migrated, f"GRANT ALL ON ALL TABLES IN SCHEMA holdsvc, holdsvc_migrations TO {stranger}")
    query(migrated, f"GRANT CREATE ON DATABASE {psycopg.conninfo.conninfo_to_dict(migrated)['dbname']} TO {stranger}")
    query(migrated, f"ALTER TABLE holdsvc.event OWNER TO {stranger}")
    query(migrated, "DROP FUNCTION holdsvc.release_expired_reservations")
    query(migrated, f"GRANT EXECUTE ON FUNCTION holdsvc.wall_clock() TO {stranger}")
    assert migrate.up(migrated, functions=other("owned")).function_set == "holdsvc_owned"
    owners = query(
        migrated,
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'holdsvc_owned'::regnamespace",
    )
    assert owners == [(stranger,)]
    query(migrated, f"REASSIGN OWNED BY {stranger} TO CURRENT_USER")
    query(migrated, f"DROP OWNED BY {stranger}")


def test_a_role_that_only_serves_verifies_a_set_and_is_told_who_must_install_it(migrated: str, stranger: str) -> None:
    dsn = make_conninfo(migrated, user=stranger)
    assert migrate.up(dsn) == migrate.Done([], None)
    with pytest.raises(MigrationError, match=r"stranger may not migrate: .*Set HOLDSVC_MIGRATE_DSN"):
        migrate.up(dsn, functions=other("newer"))


def test_prune_keeps_the_own_set_those_used_within_a_day_and_the_last_of_another_release(migrated: str) -> None:
    for mark in ("older", "previous", "used", "stale"):
        migrate.up(migrated, functions=other(mark))
    query(migrated, "UPDATE holdsvc_migrations.function_set SET install_time = install_time - interval '9 days'")
    query(
        migrated,
        "UPDATE holdsvc_migrations.function_set SET release = '0.0.1' WHERE name ~ 'older|previous'",
    )
    use(migrated, "holdsvc_older", ago=timedelta(days=5))
    use(migrated, "holdsvc_previous", ago=timedelta(days=3))
    use(migrated, "holdsvc_used", ago=timedelta(hours=23))
    use(migrated, "holdsvc_stale", ago=timedelta(hours=25))
    with psycopg.connect(migrated) as owner:
        function_set.point_entrances(owner, SHIPPED.name)
    dropped, kept = migrate.prune(migrated)
    assert ({row.name for row in dropped}, kept) == ({"holdsvc_older", "holdsvc_stale"}, [])
    assert sets(migrated) == registered(migrated) == {SHIPPED.name, "holdsvc_previous", "holdsvc_used"}


def test_prune_keeps_the_set_that_the_operators_entrances_call(migrated: str) -> None:
    migrate.up(migrated, functions=other("newest"))
    query(migrated, "UPDATE holdsvc_migrations.function_set SET install_time = install_time - interval '9 days'")
    assert migrate.prune(migrated) == ([], [])
    assert query(migrated, "SELECT expired_count FROM holdsvc.release_expired_reservations(max_count => 5)") == [(0,)]


def test_prune_leaves_a_set_on_which_a_view_of_an_operator_depends(migrated: str) -> None:
    migrate.up(migrated, functions=other("seen"))
    with psycopg.connect(migrated) as owner:
        function_set.point_entrances(owner, SHIPPED.name)
    query(migrated, "UPDATE holdsvc_migrations.function_set SET install_time = install_time - interval '9 days'")
    query(migrated, "CREATE VIEW public.mine AS SELECT * FROM holdsvc_seen.tenants()")
    dropped, kept = migrate.prune(migrated)
    assert (dropped, [row.name for row in kept]) == ([], ["holdsvc_seen"])
    assert query(migrated, "SELECT * FROM public.mine") == []
    query(migrated, "DROP VIEW public.mine")
    query(migrated, "CREATE TABLE holdsvc_seen.notes ()")
    assert [row.name for row in migrate.prune(migrated)[1]] == ["holdsvc_seen"]
    query(migrated, "DROP TABLE holdsvc_seen.notes")
    assert [row.name for row in migrate.prune(migrated)[0]] == ["holdsvc_seen"]


def test_rights_that_an_operator_granted_on_an_entrance_outlive_the_next_set(migrated: str, stranger: str) -> None:
    query(migrated, f"GRANT USAGE ON SCHEMA holdsvc TO {stranger}")
    query(migrated, f"GRANT EXECUTE ON FUNCTION holdsvc.release_expired_reservations TO {stranger}")
    migrate.up(migrated, functions=other("next"))
    with psycopg.connect(migrated) as owner:
        assert function_set.entrances_set(owner) == "holdsvc_next"
    dsn = make_conninfo(migrated, user=stranger)
    released = query(dsn, "SELECT * FROM holdsvc.release_expired_reservations(tenant => 'a', max_count => 5)")
    assert released == [(0, 0, False)]
    query(migrated, f"DROP OWNED BY {stranger}")


Schema = Callable[[], Path]

SECOND = """-- compatible since: 0100
-- migrate:up
ALTER TABLE holdsvc.item ADD COLUMN colour text;
INSERT INTO holdsvc_migrations.feature (name, since) VALUES ('colours', '0101');
-- migrate:down
DELETE FROM holdsvc_migrations.feature WHERE name = 'colours';
ALTER TABLE holdsvc.item DROP COLUMN colour;
"""


@pytest.fixture
def younger(migrated: str, tmp_path: Path) -> tuple[Path, FunctionSet]:
    """The schema folder and the set of a release with one migration more, installed."""
    for path in schema_files.FOLDER.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "0101_colour.sql").write_text(SECOND)
    newer = replace(other("younger"), schema_version="0101")
    assert migrate.up(migrated, folder=tmp_path, functions=newer).function_set == newer.name
    return tmp_path, newer


def test_down_refuses_while_a_process_uses_a_set_that_needs_the_migration(
    migrated: str, younger: tuple[Path, FunctionSet]
) -> None:
    folder, newer = younger
    use(migrated, newer.name, ago=function_set.IN_USE - timedelta(minutes=1))
    use(migrated, SHIPPED.name)
    with pytest.raises(MigrationError, match=r"1 processes of release .* use holdsvc_younger, which needs .* 0101"):
        migrate.down(migrated, 1, folder=folder)
    assert sets(migrated) == {SHIPPED.name, newer.name}
    query(migrated, "DELETE FROM holdsvc_migrations.function_set_use WHERE name = %s", (newer.name,))
    assert [migration.version for migration in migrate.down(migrated, 1, folder=folder)] == ["0101"]
    # The entrances call a set that is left.
    assert sets(migrated) == registered(migrated) == {SHIPPED.name}
    assert query(migrated, "SELECT expired_count FROM holdsvc.release_expired_reservations()") == [(0,)]


def test_a_process_that_was_killed_counts_for_half_an_hour(migrated: str, younger: tuple[Path, FunctionSet]) -> None:
    folder, newer = younger
    use(migrated, newer.name, ago=function_set.IN_USE + timedelta(minutes=1))
    assert [migration.version for migration in migrate.down(migrated, 1, folder=folder)] == ["0101"]


def test_a_feature_is_activated_when_every_set_in_use_knows_it_and_then_older_code_is_refused(
    migrated: str, younger: tuple[Path, FunctionSet]
) -> None:
    folder, newer = younger
    with pytest.raises(MigrationError, match="no feature colour: there are colours"):
        migrate.activate(migrated, "colour")
    assert query(migrated, "SELECT holdsvc_younger.feature_refusal('colours')") == [("FEATURE_NOT_ACTIVE colours",)]
    use(migrated, newer.name)
    use(migrated, SHIPPED.name)
    with pytest.raises(MigrationError, match=f"use {SHIPPED.name}, which does not know colours"):
        migrate.activate(migrated, "colours")
    assert migrate.up(migrated) == migrate.Done([], None)
    query(migrated, "DELETE FROM holdsvc_migrations.function_set_use WHERE name = %s", (SHIPPED.name,))
    migrate.activate(migrated, "colours")
    assert query(migrated, "SELECT holdsvc_younger.feature_refusal('colours')") == [(None,)]
    assert migrate.status(migrated, folder=folder).compatible_since == "0101"
    with pytest.raises(schema_files.DatabaseNewer, match="schema version 0101 and newer"):
        migrate.up(migrated)
    assert migrate.up(migrated, folder=folder, functions=newer) == migrate.Done([], None)
