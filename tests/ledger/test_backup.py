"""docs/backup.md: what a dump brings back is a ledger that adds up and goes on."""

import subprocess
from pathlib import Path

import psycopg

from holdsvc.embedded import binaries
from tests.support.harness import StartService


def _run(program: str, *arguments: str) -> None:
    with psycopg.connect(arguments[-1]) as connection:
        major = connection.info.server_version // 10000
    folder = binaries.find(None, major)
    subprocess.run([folder / program, *arguments[:-1], f"--dbname={arguments[-1]}"], check=True, capture_output=True)


async def test_a_restored_dump_adds_up_and_sells_on(
    start_service: StartService, database_dsn: str, tmp_path: Path
) -> None:
    before = await start_service()
    await before.create_item("seat", 10)
    held = await before.reserve({"seat": 2}, request_id="one")
    file = str(tmp_path / "holdsvc.dump")
    _run("pg_dump", "--format=custom", f"--file={file}", before.owner_dsn)
    # After the moment of the dump: it is lost.
    await before.reserve({"seat": 5})
    await before.service.stop()

    _run("pg_restore", "--no-owner", file, database_dsn)
    after = await start_service(dsn=database_dsn)
    await after.verify()
    assert (await after.item("seat")).held == 2
    assert (await after.get(held.reservation_id)).reservation_id == held.reservation_id
    assert (await after.reserve({"seat": 2}, request_id="one")).reservation_id == held.reservation_id
    await after.reserve({"seat": 8})
    await after.verify()
