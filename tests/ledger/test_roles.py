"""Which database roles are enough: a server of its own, since roles are the whole server's."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import migrate
from tests.support.harness import SET_NAME


@pytest.mark.parametrize("pre_made", [False, True])
def test_a_role_that_is_no_superuser_migrates_and_may_serve(tmp_path: Path, pre_made: bool) -> None:
    with EmbeddedServer(tmp_path, settings={"fsync": "off"}) as server:
        superuser = running_dsn(server.data_dir)
        assert superuser is not None
        with psycopg.connect(superuser, autocommit=True) as administrator:
            if pre_made:
                administrator.execute("CREATE ROLE holdsvc_service NOLOGIN")
                administrator.execute("CREATE ROLE shop LOGIN IN ROLE holdsvc_service")
            else:
                administrator.execute("CREATE ROLE shop LOGIN CREATEROLE")
            administrator.execute("CREATE DATABASE shop OWNER shop")
        dsn = make_conninfo(superuser, dbname="shop", user="shop")
        migrate.up(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET ROLE holdsvc_service")
            listed = f"SELECT * FROM {SET_NAME}.list_items('shop', '', '', 'z', NULL, 10, 10)"
            found = connection.execute(listed.encode()).fetchall()
            assert found == []
