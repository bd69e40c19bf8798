"""Limits read by index alone, on tables never analysed and on analysed ones, and as little as they need."""

from dataclasses import replace

import psycopg
import pytest

from holdsvc.change_requests import Cancel, Confirm, Extend, Modify
from holdsvc.ledger import changes, holds, items, limits, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import Counts, LimitTerms, Per
from holdsvc.model import Done, Line
from tests.support.holds import CALLER, new_id, reserves, stock

HOLDERS = 200
TABLES = ("limit_use", "limit_subject", "limit_change", "reservation", "reservation_line", "item")
SCANNED = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'holdsvc' AND seq_tup_read > 0"
READ = (
    "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes"
    " WHERE schemaname = 'holdsvc' AND relname LIKE 'limit%'"
)
ROWS_READ_AT_MOST = 20
"""Rows of limits that one change of one hold, with two limits, may read."""


async def _holds(connection: Connection, name: str) -> list[str]:
    """A batch of one hold for each holder, all accepted; returns their ids."""
    wanted = [replace(each, holder=f"{name}-{n}") for n, each in enumerate(reserves(["tour"] * HOLDERS))]
    outcomes = await holds.reserve(connection, "default", wanted)
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    return [each.reservation_id for each in wanted]


async def _everything(connection: Connection, name: str) -> int:
    """Reserves, extends, grows, and ends what each holder has; returns how many changes of a hold that was."""
    max_us = 72 * 3600 * 10**6
    ids = await _holds(connection, name)
    await changes.extend(
        connection, "default", [Extend(CALLER, "", b"", id_, None, 2 * max_us) for id_ in ids], max_lifetime_us=max_us
    )
    grown = [Line("tour", "", 2)]
    await changes.modify(
        connection, "default", [Modify(CALLER, "", b"", id_, None, 0, grown, None, None, None) for id_ in ids]
    )
    half = HOLDERS // 2
    confirms = [Confirm(CALLER, "", b"", id_, None, new_id(), True, "", "", []) for id_ in ids[:half]]
    await changes.confirm(connection, "default", confirms, rescue_window_us=1)
    await changes.cancel(connection, "default", [Cancel(CALLER, "", b"", id_, None, "") for id_ in ids[half:]])
    return 4 * HOLDERS


@pytest.mark.parametrize("analysed", [False, True])
async def test_no_step_of_a_limit_scans_a_table_or_reads_what_is_of_others(
    connection: Connection, ledger_dsn: str, analysed: bool
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        await items.create(connection, CALLER, stock(["tour"]))
        for terms in (
            LimitTerms("each", "tour", None, Per.HOLDER, Counts.HELD_AND_CONFIRMED, 4, None),
            LimitTerms("client", "", None, Per.CLIENT, Counts.HELD, 10**6, None),
        ):
            await limits.set_limit(connection, "default", terms)
            while (await limits.build(connection, "default", terms.limit_id)).busy:
                pass
        for name in ("a", "b", "c"):
            await _everything(connection, name)
        if analysed:
            owner.execute("ANALYZE")
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        owner.execute("SELECT pg_stat_reset()")
        count = await _everything(connection, "d")
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        [[read]] = owner.execute(READ).fetchall()
        assert await limits.usage(connection, "default", "each", "dev", "d-1") is not None
        await upkeep.release_expired(connection, "default", 10)
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        scanned = {row[0] for row in owner.execute(SCANNED).fetchall()}
    assert scanned & {*TABLES} == set()
    assert 0 < read < ROWS_READ_AT_MOST * count
