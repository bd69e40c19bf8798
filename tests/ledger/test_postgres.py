"""Connection strings and versions: what is refused, and that no refusal shows a password."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from holdsvc.postgres import check_dsn, check_version, masked_dsn
from holdsvc.settings import Settings, SettingsError
from holdsvc.variables import shown

MALFORMED = [
    "postgresql://me:hunter@2word@db/holds",
    "postgresql://me:hunter/2word@db/holds",
    "postgresql://me:1234/2word@db/holds",
    "postgresql://me:hunter?2/word@db/holds",
    "postgresql://me:hunter%2word@db/holds",
    "postgresql://me:hunter2word",
    "postgresql://me:hunter2word@db:port/holds",
    "postgresql://me:hunter2word@db/holds?colour=red",
    "mysql://me:hunter2word@db/holds",
    "http//me:hunter2word@db",
    "host=db password=hunter 2word",
    "host=db password='hunter2word",
    "host=db passwrd=hunter2word",
    "host=db user=me dbname=postgresql://me:hunter2word@db/holds",
    "hunter2word",
    "\udcff host=hunter2word",
    "   ",
]

WELL_FORMED = [
    "postgresql://me:hunter2word@db/holds",
    "postgres://me:hunter%402word@db:5432/holds",
    "postgresql://me:hunter2word@[::1]:5432/holds",
    "postgresql://me:hunter2word@one:1,two:2/holds?target_session_attrs=read-write",
    "postgresql:///holds?host=/run/postgresql&user=me&password=hunter2word",
    "host=/run/postgresql user=me password='hunter 2word' dbname=a@b",
    "service=holds",
    "postgresql://",
    "host=@abstract dbname=holds",
]


@pytest.mark.parametrize("dsn", MALFORMED)
def test_a_malformed_dsn_is_refused_without_a_word_of_it(dsn: str) -> None:
    with pytest.raises(ValueError, match="write postgresql://") as refusal:
        check_dsn(dsn)
    for word in ("hunter", "2word", "1234"):
        assert word not in str(refusal.value)


@pytest.mark.parametrize("name", ["dsn", "migrate_dsn"])
@pytest.mark.parametrize("dsn", MALFORMED)
def test_settings_refuse_a_malformed_dsn(name: str, dsn: str) -> None:
    with pytest.raises(SettingsError, match=f"HOLDSVC_{name.upper()}: this is not a connection string") as refusal:
        Settings.load(**{name: dsn})
    assert "2word" not in str(refusal.value)


@pytest.mark.parametrize("dsn", WELL_FORMED)
def test_a_well_formed_dsn_is_taken_and_shown_without_its_password(dsn: str) -> None:
    check_dsn(dsn)
    masked = masked_dsn(dsn)
    assert "2word" not in masked
    given = conninfo_to_dict(dsn)
    assert conninfo_to_dict(masked) == given | ({"password": "***"} if "password" in given else {})
    assert shown(Settings.load(dsn=dsn))["HOLDSVC_DSN"] == masked


@pytest.mark.parametrize(("number", "refused"), [(90624, True), (140009, True), (150000, False), (180001, False)])
def test_a_server_before_15_is_refused(number: int, refused: bool) -> None:
    if not refused:
        check_version(number)
        return
    with pytest.raises(ValueError, match=f"is PostgreSQL {number // 10_000}: holdsvc needs 15 or newer"):
        check_version(number)
