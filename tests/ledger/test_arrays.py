"""Array literals: PostgreSQL reads back what was written, whatever stands in it."""

import psycopg
import pytest

from holdsvc.ledger import arrays

ODD = ['"', '","', "\\", '\\"', "{}", "NULL", "null", "", " ", ",", "a b", "ü", "\n", "'", '{"a":"b"}']


@pytest.mark.parametrize(
    "values", [[], [""], ["a", "b"], [None, "a"], [None, None], ODD, [*ODD, None], *([value, value] for value in ODD)]
)
def test_texts_come_back_as_they_were(server_dsn: str, values: list[str | None]) -> None:
    with psycopg.connect(server_dsn) as connection:
        assert connection.execute("SELECT %s::text[]", (arrays.texts(values),)).fetchone() == (values,)


def test_numbers_flags_and_bytes_come_back_as_they_were(server_dsn: str) -> None:
    numbers, flags, blobs = [1, None, -(2**62), 0], [True, False], [b"", b'\x00"\\\xff']
    written = (arrays.plain(numbers), arrays.flags(flags), arrays.blobs(blobs))
    with psycopg.connect(server_dsn) as connection:
        read = connection.execute("SELECT %s::bigint[], %s::boolean[], %s::bytea[]", written).fetchone()
    assert read == (numbers, flags, blobs)


def test_an_empty_document_is_null(server_dsn: str) -> None:
    documents = [{}, {"a": 'b"\\'}]
    with psycopg.connect(server_dsn) as connection:
        read = connection.execute("SELECT %s::jsonb[]", (arrays.documents(documents),)).fetchone()
    assert read == ([None, documents[1]],)
