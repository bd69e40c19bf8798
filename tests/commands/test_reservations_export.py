"""`holdsvc reservations export`: what retention would remove, or all, as JSON lines; a stopped one can be resumed."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from holdsvc.commands import CommandError
from holdsvc.commands.reservations import Wanted, export_to
from holdsvc.ledger import removal
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness

ALL = Wanted(None, None)


async def made(service: Harness, count: int) -> list[str]:
    """Holds of one unit, every second of them cancelled."""
    await service.create_item("bed", 1000)
    ids = [(await service.reserve({"bed": 1}, holder="é")).reservation_id for _ in range(count)]
    for reservation_id in ids[::2]:
        await service.reservations.Cancel(pb.CancelRequest(reservation_id=reservation_id))
    return ids


def objects(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


async def test_all_or_what_retention_would_remove_is_written_as_get_reservation_shows_it(
    service: Harness, run: Any, tmp_path: Path
) -> None:
    ids = await made(service, 4)
    file = tmp_path / "all.jsonl"
    result = await asyncio.to_thread(run, "reservations", "export", "--all", "--to", str(file))
    assert (result.exit_code, result.stderr) == (0, "4 reservations exported\n")
    written = objects(file)
    assert [each.pop("tenant") for each in written] == ["default"] * 4
    for each, reservation_id in zip(written, ids, strict=True):
        assert ParseDict(each, reservation_pb2.Reservation()) == await service.get(reservation_id)
    service.clock.advance(timedelta(hours=50))
    for older_than, expected in (("49h", ids[::2]), ("51h", [])):
        result = await asyncio.to_thread(run, "reservations", "export", "--older-than", older_than)
        found = [json.loads(line)["reservation_id"] for line in result.stdout.splitlines()]
        assert (result.exit_code, found) == (0, expected)
    async with service.cell.database.connection() as connection:
        assert (await removal.remove(connection, timedelta(hours=49))).removed_count == 2
    result = await asyncio.to_thread(run, "reservations", "export", "--all", "--tenant", "default")
    assert [json.loads(line)["reservation_id"] for line in result.stdout.splitlines()] == ids[1::2]
    result = await asyncio.to_thread(run, "reservations", "export", "--all", "--tenant", "other")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "0 reservations exported\n")


async def test_a_stopped_export_goes_on_behind_its_last_whole_line(
    service: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await made(service, 9)
    monkeypatch.setattr(removal.pages, "__defaults__", (2,))
    file, part = tmp_path / "all.jsonl", tmp_path / "all.jsonl.part"

    def stop(_what: str, done: int, _total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(export_to, service.owner_dsn, ALL, file, stop)
    assert not file.exists()
    assert [each["reservation_id"] for each in objects(part)] == ids[:4]
    part.write_bytes(part.read_bytes() + b'{"tenant": "default", "reser')
    assert await asyncio.to_thread(lambda: export_to(service.owner_dsn, ALL, file, resume=True)) == 5
    assert [each["reservation_id"] for each in objects(file)] == ids
    assert not part.exists()
    # Without a file to go on with it begins anew.
    assert await asyncio.to_thread(lambda: export_to(service.owner_dsn, ALL, file, resume=True)) == 9


async def test_a_file_that_is_no_export_is_not_gone_on_with(service: Harness, tmp_path: Path) -> None:
    part = tmp_path / "all.jsonl.part"
    part.write_text("something else\n")
    with pytest.raises(CommandError, match="is no export"):
        await asyncio.to_thread(lambda: export_to(service.owner_dsn, ALL, tmp_path / "all.jsonl", resume=True))
    assert part.read_text() == "something else\n"


def test_what_to_export_must_be_said_where_nothing_is_removed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("reservations", "export")
    assert result.exit_code == 1
    assert "RESERVATION_RETENTION is 0" in str(result.exception)
    monkeypatch.setenv("HOLDSVC_RESERVATION_RETENTION", "72h")
    assert run("reservations", "export").exit_code == 0
