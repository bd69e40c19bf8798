"""The choice among hosts: what is believed, what is refused, and what is remembered."""

import json
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import pytest

from holdsvc.ledger import primary
from holdsvc.ledger.known_primary import Known, Memory
from holdsvc.ledger.primary import State, judge, standbys_awaited
from holdsvc.model import Cause
from holdsvc.postgres import host_name, hosts_of
from holdsvc.settings import Settings, SettingsError


def state(timeline: int | None, *, system: str = "7", born: int = 1, mark: int = 0, sync: str = "") -> State:
    return State(system, datetime.fromtimestamp(born, UTC), timeline, sync, mark)


OLD, NEW, STANDBY = state(1, born=1), state(2, born=2), state(None, born=3)


@pytest.mark.parametrize("order", list(permutations(["old", "new", "standby"])))
def test_the_latest_timeline_wins_in_any_order(order: tuple[str, ...]) -> None:
    states = {"old": OLD, "new": NEW, "standby": STANDBY}
    verdict = judge({name: states[name] for name in order}, None, 0, 0)
    assert verdict == ("new", {"old": "OLDER"})


def test_an_older_primary_is_refused_also_when_it_is_the_only_one_that_answers() -> None:
    verdict = judge({"old": OLD}, Known(0, 2, "7"), 0, 0)
    assert (verdict.chosen, verdict.refused, verdict.cause) == (None, {"old": "OLDER"}, Cause.PRIMARY_REFUSED)
    assert judge({"old": OLD}, None, 2, 0).refused == {"old": "OLDER"}
    assert judge({"new": NEW}, Known(0, 2, "7"), 2, 0).chosen == "new"


def test_another_cluster_is_refused_until_an_operator_has_begun_an_epoch() -> None:
    other = state(1, system="8")
    assert judge({"it": other}, Known(0, 2, "7"), 0, 0).refused == {"it": "OTHER_SYSTEM"}
    assert judge({"it": other._replace(restore_mark=5)}, Known(0, 2, "7"), 0, 0).chosen == "it"
    # A restored database has a lower timeline: the same word lets it in, and keeps the one of before out.
    restored = state(1, mark=5)
    assert judge({"it": restored, "before": NEW}, Known(0, 2, "7"), 0, 0) == ("it", {"before": "OLDER"})


def test_two_servers_of_the_same_timeline_are_both_refused() -> None:
    verdict = judge({"one": NEW, "two": NEW._replace(start_time=OLD.start_time), "old": OLD}, Known(0, 2, "7"), 0, 0)
    assert verdict.refused == {"one": "SPLIT", "two": "SPLIT", "old": "OLDER"}
    assert verdict.cause is Cause.DATABASE_SPLIT
    # A server with two names is one server.
    assert judge({"one": NEW, "alias": NEW}, None, 0, 0).chosen == "one"


def test_no_answer_is_no_refusal() -> None:
    assert judge({}, Known(0, 2, "7"), 0, 0).cause is None
    assert judge({"standby": STANDBY}, Known(0, 2, "7"), 0, 0).cause is None


@pytest.mark.parametrize(
    ("names", "awaited"),
    [
        ("", 0),
        ("  ", 0),
        ("*", 1),
        ("s1, s2", 1),
        ("1 (s1, s2)", 1),
        ("FIRST 2 (s1, s2, s3)", 2),
        ('any 3 ("s 1", *)', 3),
    ],
)
def test_a_primary_whose_commits_wait_for_too_few_standbys_is_refused(names: str, awaited: int) -> None:
    assert standbys_awaited(names) == awaited
    it = {"it": state(1, sync=names)}
    assert judge(it, None, 0, awaited).chosen == "it"
    assert judge(it, None, 0, awaited + 1).refused == {"it": "NOT_SYNCHRONOUS"}


def test_what_one_process_has_seen_the_others_of_its_folder_know(tmp_path: Path) -> None:
    one, other = Memory(tmp_path / "state", ""), Memory(tmp_path / "state", "")
    one.learn(Known(0, 2, "7"))
    other.learn(Known(0, 1, "7"))
    assert other.known == one.known == Memory(tmp_path / "state", "").known == Known(0, 2, "7")
    # Of another cluster nothing is learnt, unless it was put back later.
    one.learn(Known(0, 9, "8"))
    assert one.known == Known(0, 2, "7")
    one.learn(Known(5, 1, "8"))
    other.learn(None)
    assert other.known == Known(5, 1, "8")
    # Another cell's is another.
    assert Memory(tmp_path / "state", "b").known is None
    # A file of before, written back: the next look writes what is known.
    (tmp_path / "state" / "primary.json").write_text(json.dumps(Known(0, 1, "7")._asdict()))
    other.learn(None)
    assert Memory(tmp_path / "state", "").known == Known(5, 1, "8")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"timeline": 1}', '{"timeline": "x", "system": "7", "restore_mark": 0}']
)
def test_a_file_that_cannot_be_read_ends_the_start_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "primary.json").write_text(content)
    with pytest.raises(SettingsError, match="delete the file"):
        Memory(tmp_path, "")


def test_a_dsn_is_taken_apart_into_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hosts_of("host=a dbname=x") == ["host=a dbname=x"]
    of_url = hosts_of("postgresql://me:secret@a:1,b:2/x?target_session_attrs=read-write")
    assert [host_name(each) for each in of_url] == ["a:1", "b:2"]
    assert all("password=secret" in each and "target_session_attrs=any" in each for each in of_url)
    assert [host_name(each) for each in hosts_of("host=a,b,c port=7")] == ["a:7", "b:7", "c:7"]
    assert [host_name(each) for each in hosts_of("hostaddr=10.0.0.1,10.0.0.2")] == ["10.0.0.1:5432", "10.0.0.2:5432"]
    monkeypatch.setenv("PGHOST", "a,b")
    assert [host_name(each) for each in hosts_of("dbname=x")] == ["a:5432", "b:5432"]


def test_ports_that_do_not_match_the_hosts_are_refused_in_words() -> None:
    with pytest.raises(SettingsError, match="a port for each host"):
        Settings.load(dsn="host=a,b,c port=1,2")


def test_the_settings_are_checked() -> None:
    assert [Settings.load(require_sync=value).require_sync for value in ("off", "on", "2")] == [0, 1, 2]
    assert Settings.load(patroni_url="http://a:8008, https://b:8008").patroni_urls == [
        "http://a:8008",
        "https://b:8008",
    ]
    for wrong in ("a:8008", "ftp://a", "http://"):
        with pytest.raises(SettingsError, match="write http://host:8008"):
            Settings.load(patroni_url=wrong)


def test_looks_are_frequent_and_short() -> None:
    # docs/high-availability.md says so.
    assert (primary.LOOK_S, primary.ANSWER_S) == (1.0, 1.0)
