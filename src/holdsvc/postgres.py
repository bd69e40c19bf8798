"""PostgreSQL as callers name it: which connection strings (DSNs) and which versions are refused, and in what words."""

import os
import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

OLDEST_MAJOR = 15

_ENDS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""In seconds, the last one in milliseconds: libpq alone waits without end for a connection, and for a silent network as
long as the system does, some hours."""

_SECRET = re.compile(r"password|secret")
_SLASH_BEFORE_AT = re.compile(r"postgres(?:ql)?://[^/?]*/[^?]*@")
_PORTS = re.compile(r"\d{0,5}(?:,\d{0,5})*", re.ASCII)

_REFUSAL = (
    "this is not a connection string of PostgreSQL ({}; it may hold a password, so it is not shown): write"
    " postgresql://user:password@host:5432/dbname, with %40 for an @ and %2F for a / in user or password, or"
    " host=… port=… user=… password='…' dbname=…"
)


def check_dsn(dsn: str) -> None:
    """Raises ValueError, without a word of the DSN, when libpq cannot read it or would take a password for a name.

    libpq quotes what it takes for a host, port or database in its messages, so that a password with an unescaped `@` or
    `/` would be written to logs.
    """
    fault = _fault(dsn)
    if fault:
        raise ValueError(_REFUSAL.format(fault))
    hosts_of(dsn)


def _fault(dsn: str) -> str:
    try:
        parameters = conninfo_to_dict(dsn)
    except (psycopg.Error, ValueError):
        return "libpq cannot read it"
    if not parameters and "://" not in dsn:
        return "it names nothing"
    if not _PORTS.fullmatch(str(parameters.get("port", ""))):
        return "its port is not a number"
    if any("@" in host.removeprefix("@") for host in str(parameters.get("host", "")).split(",")):
        return "its host has an @"
    if "://" in str(parameters.get("dbname", "")) or _SLASH_BEFORE_AT.match(dsn):
        return "its database has an @ or ://"
    return ""


def masked_dsn(dsn: str) -> str:
    """The DSN as `name=value` words with *** for each secret; raises ValueError as `check_dsn` does."""
    if not dsn:
        return ""
    check_dsn(dsn)
    parameters = conninfo_to_dict(dsn)
    return make_conninfo("", **{name: "***" if _SECRET.search(name) else value for name, value in parameters.items()})


def without_password(dsn: str) -> tuple[str, str | None]:
    """The DSN without its password, and the password: other users can read a program's arguments."""
    parameters = conninfo_to_dict(dsn)
    password = parameters.pop("password", None)
    return make_conninfo("", **parameters), None if password is None else str(password)


def hosts_of(dsn: str) -> list[str]:
    """The DSN for each of its hosts alone, in their order; the DSN itself where it names one."""
    parameters: dict[str, Any] = dict(conninfo_to_dict(dsn))
    hosts, addresses, ports = (_listed(parameters, name) for name in ("host", "hostaddr", "port"))
    count = max(len(hosts), len(addresses))
    if count < 2:
        return [dsn]
    if any(len(each) not in (0, count) for each in (hosts, addresses)) or len(ports) not in (0, 1, count):
        raise ValueError("hosts and ports do not match: give a port for each host, or one for all")
    # The service asks each host and chooses; libpq must connect to the one that it is given.
    parameters = {**parameters, "target_session_attrs": "any", "load_balance_hosts": "disable"}
    if ports:
        ports = ports * count if len(ports) == 1 else ports
    named = (("host", hosts), ("hostaddr", addresses), ("port", ports))
    return [
        make_conninfo("", **{**parameters, **{name: values[index] for name, values in named if values}})
        for index in range(count)
    ]


def _listed(parameters: dict[str, Any], name: str) -> list[str]:
    text = str(parameters.get(name) or os.environ.get(f"PG{name.upper()}", ""))
    return text.split(",") if text else []


def host_name(dsn: str) -> str:
    """The host of a DSN with one host, for logs."""
    parameters = conninfo_to_dict(dsn)
    return f"{parameters.get('host') or parameters.get('hostaddr', '')}:{parameters.get('port', '5432')}"


def place_of(dsn: str) -> tuple[object, ...]:
    """What says which database it is, as far as the DSN shows that."""
    parameters = conninfo_to_dict(dsn)
    return tuple(parameters.get(name) for name in ("host", "hostaddr", "port", "dbname", "service"))


def with_ends(dsn: str) -> str:
    """The DSN with ends to the waits for a connection and for a network that has fallen silent, where it has none.

    An empty one stays empty.
    """
    return make_conninfo("", **{**_ENDS, **conninfo_to_dict(dsn)}) if dsn else ""


def check_version(server_version: int) -> None:
    """Raises ValueError for a server that is too old; `server_version` is libpq's number, as in 150004."""
    major = server_version // 10_000
    if major < OLDEST_MAJOR:
        raise ValueError(f"the database is PostgreSQL {major}: holdsvc needs {OLDEST_MAJOR} or newer")
