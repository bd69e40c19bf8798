"""UUIDs of version 7 in the database's time."""

import time
import uuid

from holdsvc.engine.identifiers import Uuid7


def milliseconds(text: str) -> int:
    return uuid.UUID(text).int >> 80


def test_an_id_is_a_uuid_of_version_7_in_canonical_form() -> None:
    make = Uuid7()
    for _ in range(1000):
        text = make()
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)


def test_ids_are_all_different_and_sort_by_time() -> None:
    make = Uuid7()
    ids = [make() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    times = [milliseconds(text) for text in ids]
    assert times == sorted(times)
    assert abs(times[-1] - time.time() * 1000) < 5_000


def test_ids_carry_the_time_of_the_database_not_of_this_machine() -> None:
    make = Uuid7()
    ahead = time.time() + 3600
    make.observe(ahead)
    assert abs(milliseconds(make()) - ahead * 1000) < 5_000


def test_ids_made_together_are_as_good_as_ids_made_one_by_one() -> None:
    ids = Uuid7().many(10_000)
    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in ids} == {(7, uuid.RFC_4122)}
    assert {text[19] for text in ids} == set("89ab")
    assert abs(milliseconds(ids[0]) - time.time() * 1000) < 5_000
