"""Settings: what is read, what is refused and what the refusal says."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from holdsvc import variables
from holdsvc.addresses import is_loopback, split_address
from holdsvc.durations import format_duration, parse_duration
from holdsvc.postgres import place_of
from holdsvc.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables.shown(Settings.model_construct()):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("90s", 90), ("30m", 1800), ("24h", 86400), ("2d", 172800), ("1h30m", 5400), ("0", 0), ("0s", 0)],
)
def test_a_duration_reads_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "90", "-1s", "1.5h", "1 h", "h", "1w", "PT30S", "1h30", "٣s", "9" * 30 + "d"])
def test_a_duration_without_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_is_shown_as_it_is_read(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:0", "[::1]:50051", "localhost:50051"])
def test_loopback_addresses_are_known(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_other_addresses_are_not_loopback(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize("address", ["", "50051", ":50051", "host:", "host:x", "host:65536", "::1:50051", "host:-1"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        split_address(address)


def test_defaults_are_those_of_the_contract() -> None:
    loaded = Settings.load()
    assert (loaded.listen, loaded.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9464")
    assert (loaded.auth, loaded.workers, loaded.data_dir) == ("api-key", 1, Path("data"))
    shown = variables.shown(loaded)
    durations = ("DEFAULT_TTL", "MIN_TTL", "MAX_TTL", "MAX_LIFETIME", "SWEEP_INTERVAL", "DEFAULT_DEADLINE")
    assert [shown[f"HOLDSVC_{name}"] for name in durations] == ["30m", "1s", "24h", "72h", "1s", "30s"]


def test_flags_win_over_the_environment_and_the_environment_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDSVC_DEFAULT_TTL", "90s")
    monkeypatch.setenv("HOLDSVC_REFLECTION", "off")
    monkeypatch.setenv("HOLDSVC_WORKERS", "2")
    loaded = Settings.load(workers="3", default_ttl=None)
    assert (loaded.default_ttl, loaded.reflection, loaded.workers) == (timedelta(seconds=90), False, 3)


def test_an_empty_file_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDSVC_TLS_CERT", "")
    monkeypatch.setenv("HOLDSVC_PG_BIN", "")
    assert Settings.load() == Settings()
    assert Settings.load().tls_cert is None


def test_an_empty_metrics_address_turns_metrics_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDSVC_METRICS_LISTEN", "")
    assert Settings.load().metrics_listen == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"auth": "off", "listen": "0.0.0.0:50051"},
            "AUTH=off would open 0.0.0.0:50051 to callers without a key",
        ),
        ({"listen": "50051"}, "HOLDSVC_LISTEN: '50051' is not an address"),
        ({"metrics_listen": "127.0.0.1:50051"}, "HOLDSVC_METRICS_LISTEN is the address of LISTEN"),
        ({"default_ttl": "25h"}, r"HOLDSVC_DEFAULT_TTL \(25h\) is above MAX_TTL \(24h\)"),
        ({"min_ttl": "1h"}, r"HOLDSVC_MIN_TTL \(1h\) is above DEFAULT_TTL \(30m\)"),
        ({"max_lifetime": "1h"}, r"HOLDSVC_MAX_TTL \(24h\) is above MAX_LIFETIME \(1h\)"),
        ({"min_ttl": "0"}, "HOLDSVC_MIN_TTL: "),
        ({"tls_cert": __file__}, "HOLDSVC_TLS_CERT needs TLS_KEY"),
        ({"tls_key": __file__}, "HOLDSVC_TLS_KEY needs TLS_CERT"),
        ({"tls_client_ca": __file__}, "HOLDSVC_TLS_CLIENT_CA needs TLS_CERT"),
        ({"tls_cert": "/absent", "tls_key": "/absent"}, "HOLDSVC_TLS_CERT: there is no file /absent"),
        ({"request_id_retention": "23h"}, "HOLDSVC_REQUEST_ID_RETENTION: "),
        ({"event_retention": "1h"}, "HOLDSVC_EVENT_RETENTION is under a day"),
        ({"lock_timeout": "1m"}, "HOLDSVC_LOCK_TIMEOUT is above STATEMENT_TIMEOUT"),
        ({"workers": 0}, "HOLDSVC_WORKERS: "),
        ({"auth": "none"}, "HOLDSVC_AUTH: "),
        ({"no_such_setting": 1}, "HOLDSVC_NO_SUCH_SETTING: "),
    ],
)
def test_settings_that_contradict_are_refused_with_what_to_do(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.load(**flags)


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.load(workers=0, listen="nowhere", default_ttl="soon")
    lines = str(refusal.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["HOLDSVC_LISTEN", "HOLDSVC_WORKERS", "HOLDSVC_DEFAULT_TTL"]


def test_a_password_is_never_shown() -> None:
    loaded = Settings.load(dsn="postgresql://app:hush@db/holdsvc", migrate_dsn="postgresql://owner:hush@db/holdsvc")
    assert "hush" not in repr(loaded)
    assert "hush" not in str(variables.shown(loaded))
    with pytest.raises(SettingsError) as refusal:
        Settings.load(dsn=["postgresql://app:hush@db/holdsvc"])
    assert "hush" not in str(refusal.value)


def test_migrations_use_their_own_dsn_when_there_is_one() -> None:
    app, owner = "dbname=holds user=app", "dbname=holds user=owner"
    assert [place_of(one.owner) for one in Settings.load(dsn=app).addresses] == [place_of(app)]
    [address] = Settings.load(dsn=app, migrate_dsn=owner).addresses
    assert "user=owner" in address.owner
    assert "user=app" in address.service


@pytest.mark.parametrize("name", ["service", "owner"])
def test_every_wait_for_the_network_has_an_end_and_the_dsns_own_stays(name: str) -> None:
    dsn = "postgresql://app:a%40b@db:5433,db2/holds?connect_timeout=2"
    [address] = Settings.load(dsn=dsn).addresses
    used = conninfo_to_dict(getattr(address, name))
    assert used.pop("connect_timeout") == "2"
    assert all(int(str(used.pop(end))) for end in ("keepalives_idle", "keepalives_count", "tcp_user_timeout"))
    assert int(str(used.pop("keepalives_interval")))
    assert {**used, "connect_timeout": "2"} == conninfo_to_dict(dsn)
    # An embedded database has no DSN.
    assert not getattr(Settings.load().addresses[0], name)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().workers = 2  # type: ignore[misc]


def test_every_setting_is_described_and_reads_back_from_its_shown_default(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(variables.rows())
    assert len(rows) == len(Settings.model_fields)
    for row in rows:
        assert row.description.endswith("."), row
        monkeypatch.setenv(row.env_name, row.default)
    assert Settings.load() == Settings.model_construct()


def test_a_misspelt_variable_is_found() -> None:
    environment = {"HOLDSVC_DEFAULT_TLL": "1m", "HOLDSVC_LISTEN": "", "HOME": "/"}
    assert variables.unknown_names(environment) == ["HOLDSVC_DEFAULT_TLL"]
