"""Sending to watchers: the newest state to each, at its interval, and nobody is held up by another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from holdsvc.model import ItemKey
from holdsvc.streams.sender import Sender
from holdsvc.streams.topic import Change, Topic, Update, Wanted
from holdsvc.streams.watcher import Watcher

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Stream:
    """A stream that keeps what is written to it; `full` while its reader does not read."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.times: list[float] = []
        self.full = False
        self.broken = False
        self._changed = asyncio.Event()
        self._room: asyncio.Future[None] | None = None

    async def write(self, message: bytes) -> None:
        assert self._room is None, "written to while a message is on its way"
        self._room = asyncio.get_running_loop().create_future()
        if not self.full:
            asyncio.get_running_loop().call_soon(self.read)
        await self._room
        self._room = None
        if self.broken:
            raise ConnectionError
        self.written.append(message)
        self.times.append(asyncio.get_running_loop().time())
        self._changed.set()

    def read(self) -> None:
        assert self._room is not None
        self._room.set_result(None)

    async def until(self, message: bytes) -> None:
        async with asyncio.timeout(5):
            while message not in self.written:
                self._changed.clear()
                await self._changed.wait()

    @property
    def writing(self) -> bool:
        return self._room is not None


class House:
    """A topic with a sender."""

    def __init__(self) -> None:
        self.sender = Sender()
        self.topic = Topic(Wanted("t", frozenset([ItemKey("a", "")]), None, frozenset()), self.encode)
        self.number = 0

    @staticmethod
    def encode(update: Update) -> bytes:
        return b"+".join(update.payloads)

    def watch(self, interval_s: float = 0.0) -> tuple[Stream, Watcher]:
        stream = Stream()
        watcher = Watcher(self.topic, interval_s, stream.write)
        watcher.cursor = self.number
        watcher.begin({}, self.sender.cycle)
        self.sender.go_on(watcher)
        return stream, watcher

    def change(self, payload: bytes, sku: str = "a", revision: int | None = None) -> None:
        self.number += 1
        self.topic.put(ItemKey(sku, ""), Change(self.number, revision or self.number, payload), NOW)
        self.sender.wake(self.topic)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with running(house.sender):
        yield house


@asynccontextmanager
async def running(sender: Sender) -> AsyncIterator[None]:
    task = asyncio.create_task(sender.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_stream_that_is_full_gets_the_newest_state_when_it_has_room(house: House) -> None:
    slow, _ = house.watch()
    quick, _ = house.watch()
    slow.full = True
    for number in range(5):
        house.change(b"%d" % number)
        await quick.until(b"%d" % number)
    assert slow.written == []
    assert slow.writing
    slow.full = False
    slow.read()
    await slow.until(b"4")
    assert slow.written == [b"0", b"4"]


async def test_messages_to_one_watcher_keep_its_interval(house: House) -> None:
    stream, _ = house.watch(interval_s=0.05)
    for number in range(40):
        house.change(b"%d" % number)
        await asyncio.sleep(0.005)
    await stream.until(b"39")
    gaps = [after - before for before, after in zip(stream.times, stream.times[1:], strict=False)]
    assert len(gaps) >= 2
    # The loop's clock counts milliseconds.
    assert min(gaps) > 0.045


async def test_all_watchers_are_told_about_as_often(house: House) -> None:
    streams = [house.watch(interval_s=0.001)[0] for _ in range(100)]
    for number in range(100):
        house.change(b"%d" % number)
        await asyncio.sleep(0.002)
    for stream in streams:
        await stream.until(b"99")
    counts = [len(stream.written) for stream in streams]
    assert max(counts) - min(counts) <= 2 + max(counts) // 5


async def test_a_stream_that_breaks_ends_alone(house: House) -> None:
    stream, watcher = house.watch()
    other, _ = house.watch()
    stream.broken = True
    house.change(b"1")
    await other.until(b"1")
    house.change(b"2")
    await other.until(b"2")
    assert not watcher.following
    assert watcher.ended is not None
    assert watcher.ended.cancelled()
    assert not watcher.writing


async def test_a_message_that_cannot_be_made_ends_its_watchers_and_not_the_sending(house: House) -> None:
    class Broken(Topic):
        def message(self, cursor: int) -> tuple[bytes, int]:
            raise ArithmeticError(cursor)

    other, _ = house.watch()
    stream = Stream()
    watcher = Watcher(Broken(house.topic.wanted, house.encode), 0.0, stream.write)
    ended = watcher.begin({}, -1)
    watcher.topic.last = 1
    watcher._told = None
    house.sender.ask(watcher)
    with pytest.raises(ArithmeticError):
        await ended
    house.change(b"1")
    await other.until(b"1")


async def test_what_was_told_before_the_changes_began_is_not_told_again(house: House) -> None:
    stream, watcher = house.watch()
    watcher.begin({ItemKey("a", ""): 7, ItemKey("b", ""): 1}, cycle=0)
    house.change(b"a6", revision=6)
    house.change(b"b2", sku="b", revision=2)
    await stream.until(b"b2")
    # Once a round has begun since, all that it brings is new.
    house.sender.cycle = 1
    house.change(b"a8", revision=8)
    await stream.until(b"a8")
    house.change(b"a9", revision=9)
    await stream.until(b"a9")
    assert stream.written == [b"b2", b"a8", b"a9"]


async def test_a_heartbeat_goes_to_who_is_idle_and_a_change_in_its_place(house: House) -> None:
    stream, watcher = house.watch()
    house.sender.beat([watcher], b"beat")
    await stream.until(b"beat")
    house.change(b"1")
    house.sender.beat([watcher], b"beat again")
    await stream.until(b"1")
    house.change(b"2")
    await stream.until(b"2")
    assert stream.written == [b"beat", b"1", b"2"]


async def test_a_watcher_behind_what_is_remembered_stops_and_is_sent_nothing_old(house: House) -> None:
    stream, watcher = house.watch()
    house.number += 1
    house.topic.resync(house.number)
    house.sender.wake(house.topic)
    assert watcher.ended is not None
    async with asyncio.timeout(5):
        await watcher.ended
    assert stream.written == []


async def test_a_reader_waits_for_one_slice_where_somebody_is_due_and_else_not_at_all() -> None:
    house = House()
    await house.sender.caught_up()
    stream, _ = house.watch(interval_s=60)
    house.change(b"first")
    catching_up = asyncio.ensure_future(house.sender.caught_up())
    await asyncio.sleep(0)
    assert not catching_up.done()
    async with running(house.sender):
        await catching_up
        await stream.until(b"first")
        house.change(b"second")
        await house.sender.caught_up()  # the only watcher is due in a minute
