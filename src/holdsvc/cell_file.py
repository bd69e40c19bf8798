"""The file that HOLDSVC_CELLS names: a table of TOML for each cell, by its name, with the DSNs of its database."""

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from holdsvc.addresses import check_urls
from holdsvc.postgres import check_dsn, masked_dsn, place_of, with_ends

CELLS_MAX = 64
"""Cells of a process: each costs it a pool and background work, some 0.1 % of a core when nothing happens."""

FILE_BYTES_MAX = 256 * 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_NAME_RULE = "1 to 32 small letters, digits and hyphens, and no hyphen at its beginning"
_KEYS = {"dsn", "migrate_dsn", "patroni_url"}


class CellAddress(NamedTuple):
    """A database and its name as the operator calls it; empty: the only one, which needs none."""

    name: str
    dsn: SecretStr
    migrate_dsn: SecretStr = SecretStr("")
    patroni_url: str = ""
    """As the setting of this name."""

    @property
    def service(self) -> str:
        """The DSN that workers use."""
        return with_ends(self.dsn.get_secret_value())

    @property
    def owner(self) -> str:
        """The DSN of the schema's owner."""
        return with_ends(self.migrate_dsn.get_secret_value() or self.dsn.get_secret_value())

    @property
    def masked(self) -> str:
        """Where it is, without secrets."""
        return masked_dsn(self.dsn.get_secret_value())


def only(dsn: str) -> list[CellAddress]:
    """The only database, which needs no name."""
    return [CellAddress("", SecretStr(dsn))]


def read(path: Path) -> list[CellAddress]:
    """The cells in the order of the file; raises ValueError that says, without a secret, what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ValueError(f"{path} has more than {FILE_BYTES_MAX} bytes: name another file")
        tables = tomllib.loads(data.decode())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Its words are about signs and places, and quote no line.
        raise ValueError(f"{path} is not TOML: {error}") from None
    if not 1 <= len(tables) <= CELLS_MAX:
        raise ValueError(f"{path} has {len(tables)} tables: write one for each cell, 1 to {CELLS_MAX}")
    cells = [_cell(path, name, table) for name, table in tables.items()]
    _check_distinct(path, cells)
    return cells


def _cell(path: Path, name: str, table: object) -> CellAddress:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{path}: {name!r} cannot be a cell's name: write {_NAME_RULE}")
    if not isinstance(table, dict):
        # For people who write the file, as all of these.
        raise ValueError(f'{path}: {name} must be a table: [{name}] and a line dsn = "…"')  # noqa: TRY004
    if unknown := sorted(table.keys() - _KEYS):
        known = "dsn and, where it needs them, migrate_dsn and patroni_url"
        raise ValueError(f"{path}: [{name}] has {', '.join(unknown)}: a cell has {known}")
    for key in _KEYS & table.keys():
        if not isinstance(table[key], str):
            raise ValueError(f"{path}: [{name}] {key} must be a string")  # noqa: TRY004
        try:
            (check_urls if key == "patroni_url" else check_dsn)(table[key])
        except ValueError as error:
            raise ValueError(f"{path}: [{name}] {key}: {error}") from None
    if not table.get("dsn"):
        raise ValueError(f"{path}: [{name}] has no dsn")
    return CellAddress(
        name, SecretStr(table["dsn"]), SecretStr(table.get("migrate_dsn", "")), table.get("patroni_url", "")
    )


def _check_distinct(path: Path, cells: list[CellAddress]) -> None:
    """Refuses a database that has two names, as far as the DSNs show it; the database itself knows its name, too."""
    seen: dict[tuple[object, ...], str] = {}
    for cell in cells:
        other = seen.setdefault(place_of(cell.service), cell.name)
        if other != cell.name:
            raise ValueError(f"{path}: [{other}] and [{cell.name}] are the same database")
