"""The data folder of the embedded server: who holds it, and where its socket is."""

import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO

SOCKET_NAME = ".s.PGSQL.5432"
ORPHAN_TIMEOUT = timedelta(minutes=1)  # for the server of a killed process to end by itself

_SETTINGS = "settings.json"
_OWN_NAMES = {".lock", "pgdata", "pgdata.new", "postgres.log", "run", "lost+found", _SETTINGS}
_SHOWN_NAMES = 3

_SOCKET_PATH_MAX = 107  # bytes that sockaddr_un takes, without the closing zero
_POLL_SECONDS = 0.02


class EmbeddedServerError(Exception):
    """The embedded server cannot run; the message says what to do."""


class StartGivenUp(EmbeddedServerError):
    """The start was given up before the server was ready."""


class DataDirInUse(EmbeddedServerError):
    """Another process runs the server of this data folder."""


def lock(data_dir: Path) -> IO[str]:
    """Locks the folder for this process and the server that inherits the lock.

    Raises DataDirInUse, or EmbeddedServerError for a folder that holds other things than a database of ours.
    """
    try:
        _refuse_other_things(data_dir)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (data_dir / ".lock").open("a+")
    except OSError as error:
        raise EmbeddedServerError(f"The data folder {data_dir} cannot be used: {error}") from error
    deadline = time.monotonic() + ORPHAN_TIMEOUT.total_seconds()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            alive = _is_alive(owner)
            if not alive and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)  # the server of a killed process is shutting down
                continue
            file.close()
            who = f"process {owner}" if alive else "a PostgreSQL that outlived its service"
            raise DataDirInUse(
                f"{data_dir} is in use by {who}: stop it, or give this service another folder with HOLDSVC_DATA_DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file


def owner(data_dir: Path) -> str | None:
    """The process id of the service or command that holds the folder; None when none does.

    The server of one that was killed holds the folder for a moment longer.
    """
    try:
        with (data_dir / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = file.read().strip()
                return holder if _is_alive(holder) else None
    except OSError:
        return None
    return None


def note_settings(data_dir: Path, settings: Mapping[str, str]) -> None:
    """Leaves the settings of this process, which holds the folder, for `holdsvc config`; passwords must be masked."""
    part = data_dir / f"{_SETTINGS}.part"
    part.write_text(json.dumps({"pid": str(os.getpid()), "settings": dict(settings)}))
    part.chmod(0o600)
    part.replace(data_dir / _SETTINGS)


def noted_settings(data_dir: Path) -> dict[str, str] | None:
    """The settings that the holder of the folder has noted; None where it has noted none."""
    holder = owner(data_dir)
    try:
        noted = json.loads((data_dir / _SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    # A service that was killed leaves its note behind.
    return dict(noted["settings"]) if holder and noted["pid"] == holder else None


def _refuse_other_things(data_dir: Path) -> None:
    if not data_dir.exists() or (data_dir / "pgdata").exists():
        return
    others = sorted(path.name for path in data_dir.iterdir() if path.name not in _OWN_NAMES)
    if others:
        more = f" and {len(others) - _SHOWN_NAMES} more" if len(others) > _SHOWN_NAMES else ""
        raise EmbeddedServerError(
            f"{data_dir} holds other things ({', '.join(others[:_SHOWN_NAMES])}{more}) and no database of holdsvc: name"
            " an empty folder, or one that does not exist yet, in HOLDSVC_DATA_DIR"
        )


def release(file: IO[str]) -> None:
    """Releases the folder. The owner's process id goes first: a process that waits then waits for the server alone."""
    file.truncate(0)
    file.close()


def make_socket_dir(data_dir: Path) -> Path:
    """Makes the socket's folder: in the data folder, or where the path is too long for a socket, in a short one."""
    if "," not in str(data_dir) and _fits(data_dir / "run"):  # libpq takes a comma for the end of a host
        (data_dir / "run").mkdir(mode=0o700, exist_ok=True)
        return data_dir / "run"
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    bases = [Path(base) for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp") if base]  # noqa: S108
    folders = [base / f"holdsvc-{os.geteuid()}-{digest}" for base in bases if base.is_dir()]
    folder = next((folder for folder in folders if _fits(folder)), None)
    if folder is None:
        raise EmbeddedServerError(f"No folder's path is short enough for a socket: set TMPDIR, or move {data_dir}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedServerError(f"{folder} is not a folder of this user alone: remove it")
    return folder


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET_NAME)) <= _SOCKET_PATH_MAX


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
