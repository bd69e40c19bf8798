"""What the commands that call a service share: their options, their arguments, and how an answer is shown."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypedDict
from uuid import UUID

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from holdsvc.client import Client
from holdsvc.commands import CommandError, output
from holdsvc.commands.endpoint import Endpoint
from holdsvc.commands.options import read
from holdsvc.durations import parse_duration

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper as EnumTypeWrapper
    from rich.console import Console, RenderableType

Address = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="The service to call. Default: HOLDSVC_LISTEN, or else 127.0.0.1:50051. The key is HOLDSVC_API_KEY,"
        " HOLDSVC_TLS_CA turns TLS on.",
        show_default=False,
    ),
]
Timeout = Annotated[
    str, typer.Option(metavar="DURATION", help="The longest wait for a connection, and then for the answer.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="A JSON object a line instead of tables; always so where no terminal reads.")
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The reservation: its id, or your reference. Several with one reference are refused.",
        show_default=False,
    ),
]
ByReference = Annotated[
    bool, typer.Option("--by-reference", help="TARGET is a reference although it has the form of an id.")
]
_LINE = "ITEM or ITEM=UNITS, as in tour=2; one of another pool as tour@web=2."
Lines = Annotated[list[str], typer.Argument(metavar="LINE", help=f"{_LINE} Units: 1.", show_default=False)]
Part = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads annotations of this form
    typer.Argument(metavar="LINE", help=f"Only these units: {_LINE} Default: all of them.", show_default=False),
]
Pool = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Pool of every LINE; an @ is then a part of the sku. Default: the pool that the LINE names."),
]
RequestId = Annotated[
    str,
    typer.Option(
        help="A name for this change: sent again with it, it takes effect once. Default: a new one.",
        show_default=False,
    ),
]
Reason = Annotated[str, typer.Option(help="Why, for the reservation's trail. Up to 512 characters.")]


def names_of(values: "EnumTypeWrapper[Any]", prefix: str) -> str:
    """The values of an enum of the contract as people type them, without the unspecified one."""
    return "|".join(name.removeprefix(prefix).lower() for name in values.keys()[1:])


def one_of(values: "EnumTypeWrapper[Any]", prefix: str) -> Callable[[str], str]:
    """Reads such a value as the contract's name; the parser raises typer.BadParameter for another one."""

    def parse(text: str) -> str:
        name = f"{prefix}{text.upper().replace('-', '_')}"
        if name not in values.keys()[1:]:
            raise typer.BadParameter(f"{text!r} is none of {names_of(values, prefix)}")
        return name

    return parse


class TargetFields(TypedDict, total=False):
    """Which reservation a request names."""

    reservation_id: str
    reference: str


def target_fields(target: str, *, by_reference: bool) -> TargetFields:
    """A reservation's id where it is one, else a reference."""
    if not by_reference:
        try:
            return {"reservation_id": str(UUID(target))}
        except ValueError:
            pass
    return {"reference": target}


def duration_of(option: str, value: str) -> Duration | None:
    """A duration as a message; an empty one stays unset."""
    if not value:
        return None
    message = Duration()
    message.FromTimedelta(read(option, parse_duration, value))
    return message


def metadata_of(pairs: Iterable[str] | None) -> Mapping[str, str]:
    """`key=value` pairs. Raises CommandError for one without `=`."""
    metadata = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(f"--metadata: {pair!r} is not KEY=VALUE")
        metadata[key] = value
    return metadata


def timeout_of(value: str) -> float:
    """The option `--timeout` in seconds. Raises CommandError for one that is no duration, or none at all."""
    timeout: timedelta = read("--timeout", parse_duration, value)
    if not timeout:
        raise CommandError("--timeout: must be longer than 0")
    return timeout.total_seconds()


@contextmanager
def called(address: str, timeout: str) -> Iterator[Client]:
    """A client of the service that the options and the environment name."""
    timeout_s = timeout_of(timeout)
    with Endpoint.load(address).called(timeout_s) as client:
        yield client


def as_object(message: Message) -> dict[str, object]:
    """A message in protobuf's JSON form, with the fields that are zero or empty."""
    return MessageToDict(message, always_print_fields_with_no_presence=True)


class Screen:
    """Standard output: tables where it is a terminal, a JSON object a line elsewhere and with `--json`."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json or not sys.stdout.isatty()

    def console(self) -> "Console":
        """A terminal's."""
        from rich.console import Console

        return Console(highlight=False, markup=False)

    def table(self, table: "RenderableType") -> None:
        """Prints to a terminal."""
        self.console().print(table)

    def messages(self, messages: Iterable[Message]) -> None:
        """Prints a line for each."""
        output.write_lines(map(as_object, messages))
        sys.stdout.flush()


def note(text: str) -> None:
    """Says something beside the answer, on standard error."""
    typer.echo(f"holdsvc: {text}", err=True)
