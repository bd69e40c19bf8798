"""The commands that call a service: what they send, what they print, how they end."""

import asyncio
import codecs
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import pytest

from holdsvc.client import errors
from holdsvc.commands import outcome
from holdsvc.commands.cli import main
from holdsvc.commands.outcome import AWAY, FAILED, REFUSED
from holdsvc.commands.outcome import OPEN as LEFT_OPEN
from inventoryhold.v1 import inventory_service_pb2
from tests.support.certificates import Authority
from tests.support.harness import Harness, StartService
from tests.support.partners import new_secret
from tests.support.program import WAIT_S, command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    lines: list[dict[str, Any]]
    errors: str


Holdsvc = Callable[..., Awaitable[Ended]]


@pytest.fixture
def holdsvc(service: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Holdsvc:
    """Runs `holdsvc` against the test's service."""
    monkeypatch.setenv("HOLDSVC_LISTEN", service.address)

    async def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["holdsvc", *arguments])

        def code() -> int:
            try:
                main()
            except SystemExit as ended:
                return int(ended.code or 0)
            return 0

        ended = await asyncio.to_thread(code)
        out, err = capsys.readouterr()
        # The service is in this process, and so is its log.
        return Ended(ended, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err)

    return run


async def test_a_hold_is_made_changed_sold_fulfilled_and_refunded(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 10)
    await service.create_item("tour", 5, pool="web")
    made = await holdsvc(
        *("reserve", "tour=2", "tour@web", "--ttl", "15m", "--reference", "order-1", "--holder", "ann"),
        *("--metadata", "channel=phone"),
    )
    assert (made.code, made.errors) == (0, "")
    [held] = made.lines
    assert [(line["sku"], line["pool"], line["quantity"]) for line in held["lines"]] == [
        ("tour", "", "2"),
        ("tour", "web", "1"),
    ]
    assert (held["state"], held["holder"], held["metadata"]) == ("STATE_HELD", "ann", {"channel": "phone"})

    [changed] = (await holdsvc("modify", "order-1", "tour=4", "tour@web=0", "--new-reference", "order-2")).lines
    assert (changed["reference"], [line["quantity"] for line in changed["lines"]]) == ("order-2", ["4"])
    [longer] = (await holdsvc("extend", held["reservationId"], "--ttl", "1h")).lines
    assert longer["expireTime"] > held["expireTime"]
    [smaller] = (await holdsvc("cancel", "order-2", "tour=1", "--reason", "one is ill")).lines
    assert (smaller["state"], smaller["lines"][0]["quantity"]) == ("STATE_HELD", "3")
    [sold] = (await holdsvc("confirm", "order-2", "--order-id", "sale-1", "--email", "ann@example.org")).lines
    assert (sold["state"], sold["orderId"], sold["customer"]["email"]) == (
        "STATE_CONFIRMED",
        "sale-1",
        "ann@example.org",
    )
    [gone] = (await holdsvc("fulfil", "order-2", "tour=1")).lines
    assert gone["lines"][0]["fulfilledQuantity"] == "1"
    [back] = (await holdsvc("refund", "order-2", "tour=1", "--units", "fulfilled", "--write-off")).lines
    assert (back["lines"][0]["returnedQuantity"], (await service.item("tour")).capacity) == ("1", 9)
    await service.verify()


async def test_a_reservation_is_shown_with_its_trail_and_listed(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 10)
    for number in range(3):
        await service.reserve({"tour": 1}, reference=f"order-{number}")
    [shown, reserved] = (await holdsvc("get", "order-0", "--trail")).lines
    assert (shown["reference"], reserved["type"]) == ("order-0", "EVENT_TYPE_RESERVED")
    await holdsvc("cancel", "order-1")
    listed = await holdsvc("list", "--state", "held", "--state", "confirmed", "--sku", "tour")
    assert [each["reference"] for each in listed.lines] == ["order-2", "order-0"]
    assert listed.errors == ""
    first = await holdsvc("list", "--limit", "2")
    assert [each["reference"] for each in first.lines] == ["order-2", "order-1"]
    assert "there are more than 2: --limit 0 shows all of them" in first.errors


async def test_a_reference_that_has_the_form_of_an_id_is_found_with_the_flag(
    service: Harness, holdsvc: Holdsvc
) -> None:
    await service.create_item("tour", 1)
    reference = "01234567-89ab-4cde-8f01-23456789abcd"
    await service.reserve({"tour": 1}, reference=reference)
    assert (await holdsvc("get", reference)).code == REFUSED
    assert (await holdsvc("get", reference, "--by-reference")).lines[0]["reference"] == reference


async def test_a_sku_with_an_at_sign_is_named_beside_a_pool(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("box=a@b", 3)
    [held] = (await holdsvc("reserve", "box=a@b=2", "--pool", "")).lines
    assert held["lines"][0] == {**held["lines"][0], "sku": "box=a@b", "pool": "", "quantity": "2"}


async def test_the_same_request_id_changes_nothing_twice_and_says_so(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 10)
    first = await holdsvc("reserve", "tour=2", "--request-id", "r-1")
    second = await holdsvc("reserve", "tour=2", "--request-id", "r-1")
    assert second.lines[0]["reservationId"] == first.lines[0]["reservationId"]
    assert "it took effect then, and not again" in second.errors
    assert (await service.item("tour")).held == 2


async def test_availability_tells_by_its_exit_code(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 3)
    there = await holdsvc("availability", "tour=3")
    assert (there.code, there.lines[0]["available"]) == (0, "3")
    short = await holdsvc("availability", "tour=5")
    assert (short.code, short.lines[0]["shortfall"]) == (REFUSED, "2")


async def test_explain_tells_what_is_held_until_when_and_by_the_caller(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 10, pool="web", oversell_limit=1)
    held = await service.reserve([("tour", "web", 4)], reference="order-1")
    [told] = (await holdsvc("explain", "tour@web")).lines
    assert (told["available"], told["remaining"], told["oversell"]) == ("7", "6", "1")
    assert [step["quantity"] for step in told["held"]] == ["4"]
    assert told["ownHolds"][0]["reservationId"] == held.reservation_id
    with Terminal("explain", "tour", "--pool", "web", "--address", service.address) as terminal:
        await terminal.shows(r"available +7")
        await terminal.shows(rf"{held.reservation_id} +order-1 +4 +20\d\d-")
        assert await terminal.end() == 0


async def test_a_refusal_is_told_in_words_with_every_short_line(service: Harness, holdsvc: Holdsvc) -> None:
    await service.create_item("tour", 1)
    await service.create_item("cup", 2, pool="web")
    refused = await holdsvc("reserve", "tour=4", "cup@web=3")
    assert (refused.code, refused.lines) == (REFUSED, [])
    assert "(CAPACITY_EXCEEDED)" in refused.errors
    assert "holdsvc: tour: 4 requested, 1 available\nholdsvc: cup@web: 3 requested, 2 available" in refused.errors
    invalid = await holdsvc("reserve", "tour=0")
    assert invalid.code == REFUSED
    assert invalid.errors.startswith("holdsvc: lines[0].quantity: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reserve", "tour=two"), "LINE: 'tour=two' has no number of units"),
        (("reserve", "=2"), "LINE: '=2' names no item"),
        (("reserve", "tour", "--ttl", "15"), "--ttl: '15' is not a duration"),
        (("reserve", "tour", "--metadata", "color"), "--metadata: 'color' is not KEY=VALUE"),
        (("reserve", "tour", "--timeout", "0"), "--timeout: must be longer than 0"),
        (("watch",), "name items, a --prefix, or --all"),
        (("get", "x", "--address", "nowhere"), "--address: 'nowhere' is not an address"),
    ],
)
async def test_an_argument_that_cannot_be_sent_is_told_with_its_name(
    holdsvc: Holdsvc, arguments: tuple[str, ...], words: str
) -> None:
    ended = await holdsvc(*arguments)
    assert (ended.code, ended.lines) == (FAILED, [])
    assert words in ended.errors


async def test_a_value_that_is_none_is_told_with_those_that_are(holdsvc: Holdsvc) -> None:
    ended = await holdsvc("list", "--state", "sold")
    assert ended.code == 2
    assert "'sold' is none of held|confirmed|cancelled|expired|refunded|fulfilled" in re.sub(
        r"[│\s]+", " ", ended.errors
    )


@pytest.mark.parametrize("arguments", [("get", "order-1"), ("reserve", "tour")])
async def test_a_service_that_does_not_answer_is_told_within_the_timeout(
    holdsvc: Holdsvc, arguments: tuple[str, ...]
) -> None:
    ended = await holdsvc(*arguments, "--address", "127.0.0.1:1", "--timeout", "400ms")
    assert (ended.code, ended.lines) == (AWAY, [])
    assert "holdsvc: 127.0.0.1:1 does not answer: " in ended.errors
    assert "Connection refused" in ended.errors


@pytest.mark.parametrize(
    "error",
    [
        errors.CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        errors.CallError(grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        errors.OutcomeUnknown(grpc.StatusCode.UNKNOWN, "the connection broke", reason="OUTCOME_UNKNOWN"),
        KeyboardInterrupt(),
    ],
)
def test_a_change_without_an_answer_names_the_request_id_to_send_again(error: BaseException) -> None:
    with (
        pytest.raises(outcome.OutcomeOpen, match="with --request-id r-7: it takes effect once") as told,
        outcome.known("r-7"),
    ):
        raise error
    assert outcome.exit_code(told.value) == LEFT_OPEN


def test_a_change_that_surely_was_not_made_is_not_called_open() -> None:
    nothing_ran = errors.Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much to do", reason="OVERLOADED")
    with pytest.raises(errors.Overloaded), outcome.known("r-7"):
        raise nothing_ran
    assert outcome.exit_code(nothing_ran) == AWAY


async def test_a_missing_key_and_a_missing_right_say_where_keys_come_from(
    start_service: StartService, holdsvc: Holdsvc, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = await start_service(auth="api-key")
    bare = await holdsvc("list", "--address", keyed.address)
    assert bare.code == REFUSED
    assert "set HOLDSVC_API_KEY to a key; the operator makes one with `holdsvc keys create`" in bare.errors
    monkeypatch.setenv("HOLDSVC_API_KEY", await new_secret(keyed, "shop", scopes=("inventory.read",)))
    ended = await holdsvc("reserve", "tour", "--address", keyed.address)
    assert ended.code == REFUSED
    assert "holdsvc: the key in HOLDSVC_API_KEY was made without this right" in ended.errors


async def test_calls_go_over_tls_with_the_variables_of_callers(
    service: Harness, start_service: StartService, holdsvc: Holdsvc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await service.create_item("tour", 3)
    authority = Authority("test")
    certificate, key = authority.issue("server").write(tmp_path)
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.certificate)
    secured = await start_service(tls_cert=certificate, tls_key=key)
    monkeypatch.setenv("HOLDSVC_TLS_CA", str(trusted))
    ended = await holdsvc("availability", "tour", "--address", f"localhost:{secured.service.port}")
    assert (ended.code, ended.errors) == (0, "")


class Following:
    """A `holdsvc` that does not end by itself; its lines are awaited."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    async def __aenter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdsvc", *self._arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def next(self) -> dict[str, Any]:
        """The next line of standard output."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_S)
        return dict(json.loads(line))

    async def tells(self, **fields: object) -> dict[str, Any]:
        """The next line with these values: a stream may tell of an item more often than it changes."""
        while True:
            line = await self.next()
            if fields.items() <= line.items():
                return line

    async def says(self, words: str) -> str:
        """The next line of standard error that has these words."""
        assert self._process.stderr is not None
        while line := (await asyncio.wait_for(self._process.stderr.readline(), WAIT_S)).decode():
            if words in line:
                return line
        raise AssertionError(f"ended without saying {words!r}")

    async def interrupt(self) -> tuple[int, str]:
        """Presses Ctrl-C; returns the exit code and the rest of standard error."""
        self._process.send_signal(signal.SIGINT)
        _, rest = await asyncio.wait_for(self._process.communicate(), WAIT_S)
        assert self._process.returncode is not None
        return self._process.returncode, rest.decode()


async def test_a_watch_tells_that_its_stream_broke_and_continues_where_the_service_comes_back(
    service: Harness, start_service: StartService
) -> None:
    await service.create_item("tour", 10)
    await service.create_item("tour", 4, pool="web")
    async with Following("watch", "tour@web", "--prefix", "to", "--address", service.address) as watch:
        assert {(await watch.next())["pool"], (await watch.next())["pool"]} == {"", "web"}
        await service.reserve({"tour": 3})
        await watch.tells(pool="", held="3")
        await service.stop()
        assert "opening it again" in await watch.says("the stream broke: ")
        again = await start_service(listen=service.address)
        await watch.says("the stream is open again")
        await watch.tells(pool="", held="3")
        await again.inventory.DeleteItem(inventory_service_pb2.DeleteItemRequest(sku="tour", pool="web"))
        assert (await watch.tells(deleted=True))["pool"] == "web"
        assert await watch.interrupt() == (130, "")


async def test_events_are_followed_over_a_restart_without_a_gap(service: Harness, start_service: StartService) -> None:
    await service.create_item("tour", 10)
    async with Following("events", "tail", "--from-oldest", "--type", "reserved", "--address", service.address) as tail:
        await service.reserve({"tour": 1}, reference="one")
        assert (await tail.next())["reservation"]["reference"] == "one"
        await service.stop()
        await tail.says("the stream broke: ")
        again = await start_service(listen=service.address)
        await again.reserve({"tour": 1}, reference="two")
        assert (await tail.next())["reservation"]["reference"] == "two"
        assert (await tail.interrupt())[0] == 130


@pytest.mark.parametrize("arguments", [("watch", "--all"), ("events", "tail")])
async def test_following_a_dead_address_says_so_and_ends_by_ctrl_c_without_a_traceback(
    arguments: tuple[str, ...],
) -> None:
    async with Following(*arguments, "--address", "127.0.0.1:1") as following:
        assert "Connection refused; trying again" in await following.says("holdsvc: 127.0.0.1:1 does not answer: ")
        assert await following.interrupt() == (130, "")


class Terminal:
    """A terminal of 100 columns and 20 lines, and what a command shows in it."""

    def __init__(self, *arguments: str) -> None:
        self._screen, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdsvc", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(WAIT_S)
        os.close(self._screen)

    async def shows(self, pattern: str) -> None:
        """Returns when it has shown the pattern, styles taken out."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not re.search(pattern, self.shown):
                    assert await self._read(), f"ended without showing {pattern!r}:\n{self.shown}"
        except TimeoutError:
            raise AssertionError(f"{pattern!r} is not in\n{self.shown}") from None

    async def interrupt(self) -> int:
        """Presses Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return await self.end()

    async def end(self) -> int:
        """Waits for its end; returns the exit code."""
        async with asyncio.timeout(WAIT_S):
            while await self._read():
                pass
        return self._process.wait(WAIT_S)

    async def _read(self) -> bool:
        """Reads what there is, and waits for it; False at the end."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._screen, readable.set)
        try:
            await readable.wait()
            more = os.read(self._screen, 65536)
        except OSError:  # the other end is closed
            return False
        finally:
            loop.remove_reader(self._screen)
        self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._decoder.decode(more))
        return bool(more)


async def test_a_terminal_shows_tables_in_which_no_text_is_a_style_or_a_control_sequence(service: Harness) -> None:
    await service.create_item("[red]tour", 10)
    await service.reserve({"[red]tour": 2}, reference="order-1", metadata={"note": "a\x1b[2Jb"})
    with Terminal("get", "order-1", "--address", service.address) as terminal:
        await terminal.shows(r"HELD")
        await terminal.shows(r"in \d+m\d\ds")
        await terminal.shows(r"\[red\]tour +2")
        await terminal.shows(r"metadata note +a\\x1b\[2Jb")
        assert await terminal.end() == 0


async def test_a_terminal_shows_the_stock_as_it_changes(service: Harness) -> None:
    await service.create_item("tour", 10)
    for number in range(40):
        await service.create_item(f"unit-{number:02}", 1)
    with Terminal("watch", "--all", "--address", service.address) as terminal:
        await terminal.shows(r"tour +10 ")
        await terminal.shows(r"and 25 more")
        await service.reserve({"tour": 5})
        await terminal.shows(r"tour +5 +5 +10 +▒{12}·{12}")
        assert await terminal.interrupt() == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_comes_for_each_shell(shell: str) -> None:
    done = command("--show-completion", shell)
    assert (done.returncode, "_HOLDSVC_COMPLETE" in done.stdout) == (0, True)


def test_every_exit_code_is_in_the_help_and_on_the_page() -> None:
    assert set(outcome.EXIT_CODES) == {0, FAILED, 2, REFUSED, AWAY, LEFT_OPEN, 130}
    for code, meaning in outcome.EXIT_CODES.items():
        assert f"{code}: {meaning}" in outcome.EPILOG
        assert f"| {code} | {meaning} |" in PAGE
