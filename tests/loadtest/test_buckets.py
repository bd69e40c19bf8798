"""`python loadtest/buckets.py`: the simulation of hidden buckets, and what its rows cost."""

import os
import sys

import pytest
from buckets import CAPACITY, RULES, Rule, main, measure, sell

from benchmark.machine import family_s
from tests.support.sessions import sql_of

REFUSE, TRY_OTHERS, COLLAPSE, COLLAPSE_EARLY = RULES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("buckets", [1, 4, 16])
def test_no_unit_is_sold_twice_or_lost(buckets: int, rule: Rule) -> None:
    for seed in range(3):
        sale = sell(buckets, rule, seed)
        assert sale.left >= 0
        assert sale.units + sale.left == CAPACITY


def test_only_one_row_refuses_nobody_wrongly() -> None:
    assert sell(1, REFUSE, seed=1).wrongly_refused == 0
    for buckets in (4, 16):
        assert sell(buckets, REFUSE, seed=1).wrongly_refused > 100
        assert 0 < sell(buckets, TRY_OTHERS, seed=1).wrongly_refused < 100, "units are left, but in no bucket enough"
        for rule in (COLLAPSE, COLLAPSE_EARLY):
            assert sell(buckets, rule, seed=1).wrongly_refused == 0


def test_a_sale_can_be_repeated_by_its_seed() -> None:
    assert sell(16, COLLAPSE, seed=7) == sell(16, COLLAPSE, seed=7) != sell(16, COLLAPSE, seed=8)


async def test_the_rows_are_measured_by_holds_that_were_made(ledger_dsn: str) -> None:
    found = await measure(ledger_dsn, lambda: family_s(os.getpid()), seconds=0.1)
    assert [row[:3] for row in found] == [["1", "1", "512"], ["4", "4", "128"], ["16", "16", "32"], ["1", "4", "128"]]
    left = sql_of(ledger_dsn)("SELECT pool FROM holdsvc.item WHERE sku = 'hot-16-16' AND remaining > 0")
    assert left == [("#0",)], "its buckets have collapsed into one row"


def test_the_program_prints_its_table_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["buckets.py", "--sales", "1", "--seconds", "0"])
    assert main() == 0
    assert "| 16 | collapse below 50 | 0 | 0 | 1.00 | " in capsys.readouterr().out
