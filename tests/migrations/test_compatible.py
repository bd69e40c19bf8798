"""The schema against that of the last release: what a released set relies on is still there."""

from pathlib import Path

import psycopg
import pytest

from holdsvc.ledger import schema_files
from tests.support import schema_snapshot
from tests.support.schema_snapshot import Snapshot


def taken(dsn: str, *statements: str) -> Snapshot:
    with psycopg.connect(dsn) as owner:
        for statement in statements:
            owner.execute(statement.encode())
        snapshot = schema_snapshot.take(owner, max(schema_files.read()))
        owner.rollback()
    return snapshot


def test_the_schema_takes_nothing_away_from_sets_of_the_last_release(ledger_dsn: str) -> None:
    released = schema_snapshot.released()
    assert schema_snapshot.breaks(released, taken(ledger_dsn), schema_snapshot.widened(released.version)) == []


def test_the_snapshot_of_a_release_is_that_of_its_schema(ledger_dsn: str) -> None:
    released = schema_snapshot.released()
    if released.version == max(schema_files.read()):
        assert schema_snapshot.as_text(taken(ledger_dsn)) == schema_snapshot.SNAPSHOT.read_text()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE holdsvc.relay", "table relay is gone"),
        ("ALTER TABLE holdsvc.item DROP COLUMN display_name", "column item.display_name is gone"),
        ("ALTER TABLE holdsvc.event RENAME client TO caller", "column event.client is gone"),
        ("ALTER TABLE holdsvc.request ALTER fingerprint TYPE text", "column request.fingerprint was bytea and is text"),
        (
            "ALTER TABLE holdsvc.reservation ALTER reason SET NOT NULL",
            "column reservation.reason takes no NULL any more",
        ),
        ("ALTER TABLE holdsvc.item ALTER held DROP DEFAULT", "column item.held has lost its default"),
        (
            "ALTER TABLE holdsvc.relay ADD COLUMN owner text NOT NULL",
            "new column relay.owner is NOT NULL and has no default",
        ),
        ("ALTER TABLE holdsvc.item ADD CONSTRAINT small CHECK (capacity < 10)", "constraint small of item is new"),
        ("CREATE UNIQUE INDEX one_name ON holdsvc.item (display_name)", "constraint one_name of item is new"),
        ("DROP SEQUENCE holdsvc.event_id CASCADE", "sequence event_id is gone"),
    ],
)
def test_a_change_that_a_released_set_cannot_bear_is_named(ledger_dsn: str, statement: str, said: str) -> None:
    before = taken(ledger_dsn)
    assert any(said in one for one in schema_snapshot.breaks(before, taken(ledger_dsn, statement), set()))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE holdsvc.item ADD COLUMN colour text",
        "ALTER TABLE holdsvc.item ADD COLUMN shelf bigint NOT NULL DEFAULT 0",
        "CREATE TABLE holdsvc.synthetic (tenant text PRIMARY KEY, state text NOT NULL)",
        "ALTER TABLE holdsvc.item DROP CONSTRAINT item_capacity_check",
        "CREATE INDEX item_by_name ON holdsvc.item (display_name)",
    ],
)
def test_a_change_that_only_adds_or_widens_is_let_through(ledger_dsn: str, statement: str) -> None:
    before = taken(ledger_dsn)
    assert schema_snapshot.breaks(before, taken(ledger_dsn, statement), set()) == []


def test_a_changed_check_is_let_through_where_a_migration_says_that_it_widens(ledger_dsn: str, tmp_path: Path) -> None:
    before = taken(ledger_dsn)
    after = taken(
        ledger_dsn,
        "ALTER TABLE holdsvc.reservation DROP CONSTRAINT reservation_state_check",
        "ALTER TABLE holdsvc.reservation ADD CONSTRAINT reservation_state_check CHECK (state BETWEEN 1 AND 7)",
    )
    assert len(schema_snapshot.breaks(before, after, set())) == 1
    (tmp_path / "0101_state.sql").write_text("-- widens: reservation_state_check\n")
    assert schema_snapshot.widened("0101", tmp_path) == set()
    assert schema_snapshot.breaks(before, after, schema_snapshot.widened("0100", tmp_path)) == []
