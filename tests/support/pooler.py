"""pgbouncer before a database, where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.polling import wait_until
from tests.support.ports import free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 8
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pooling(dsn: str, folder: Path, mode: str) -> Iterator[str]:
    """The DSN of a pooler before a database, for as long as the block runs."""
    assert PROGRAM is not None
    parts = conninfo_to_dict(dsn)
    listen_port = free_port()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(_CONFIGURATION.format(**parts, listen_port=listen_port, mode=mode))
    command = [PROGRAM, str(configuration)]
    if os.geteuid() == 0:
        # It refuses to run as root.
        command = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--", *command]
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        pooled = make_conninfo(host="127.0.0.1", port=str(listen_port), user=parts["user"], dbname=parts["dbname"])
        wait_until(lambda: _answers(pooled))
        yield pooled
    finally:
        process.kill()
        process.wait()


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True
