"""Pages of the API for the site: every service, rpc, message, field and value, in the words of the protos' comments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PACKAGE = "inventoryhold.v1"

# Field numbers of descriptor.proto, of which paths to comments are made.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM = 2, 3, 4
_ENUM_VALUE = 2
_SERVICE_METHOD = 2

_SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_UINT32: "uint32",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
}


def pages(image: Path) -> Mapping[str, str]:
    """A page for each proto of the package, by its name; `image` is a descriptor set with comments."""
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    own = [file for file in files if file.package == PACKAGE]
    homes = {name: _page_name(file) for file in own for name in _names(file)}
    return {_page_name(file): _Page(file, homes).text() for file in own}


def _page_name(file: FileDescriptorProto) -> str:
    return Path(file.name).stem + ".md"


def _names(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of a file's messages and enums."""

    def within(prefix: str, message: DescriptorProto) -> Iterator[str]:
        name = f"{prefix}.{message.name}"
        yield name
        for nested in message.nested_type:
            if not nested.options.map_entry:
                yield from within(name, nested)
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)

    for message in file.message_type:
        yield from within(f".{file.package}", message)
    yield from (f".{file.package}.{enum.name}" for enum in file.enum_type)


class _Page:
    """The page of one proto."""

    def __init__(self, file: FileDescriptorProto, homes: Mapping[str, str]) -> None:
        self._file = file
        self._homes = homes
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }

    def text(self) -> str:
        """The page as Markdown."""
        parts = [f"# {Path(self._file.name).name}\n"]
        for index, service in enumerate(self._file.service):
            parts += self._service(service, (_FILE_SERVICE, index))
        for index, message in enumerate(self._file.message_type):
            parts += self._message(message, message.name, (_FILE_MESSAGE, index))
        for index, enum in enumerate(self._file.enum_type):
            parts += self._enum(enum, enum.name, (_FILE_ENUM, index))
        return "\n".join(parts)

    def _comment(self, path: Sequence[int]) -> str:
        """A comment, its lines joined into paragraphs."""
        text = self._comments.get(tuple(path), "")
        paragraphs = re.split(r"\n\s*\n", "\n".join(line.strip() for line in text.splitlines()))
        return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs if paragraph.strip())

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield f"## {service.name}\n\n{self._comment(path)}\n"
        for index, method in enumerate(service.method):
            stream = "stream of " if method.server_streaming else ""
            yield f"### {method.name}\n"
            yield f"{self._link(method.input_type)} → {stream}{self._link(method.output_type)}\n"
            yield f"{self._comment((*path, _SERVICE_METHOD, index))}\n"

    def _message(self, message: DescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[str]:
        yield f"## {name}\n\n{self._comment(path)}\n"
        if message.field:
            yield "| field | type | meaning |\n| --- | --- | --- |"
            for index, field in enumerate(message.field):
                comment = self._comment((*path, _MESSAGE_FIELD, index)).replace("\n\n", "<br>").replace("|", "\\|")
                yield f"| `{field.name}` | {self._type(field, message)} | {comment} |"
            yield ""
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, f"{name}.{nested.name}", (*path, _MESSAGE_NESTED, index))
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.{enum.name}", (*path, _MESSAGE_ENUM, index))

    def _enum(self, enum: EnumDescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[str]:
        yield f"## {name}\n\n{self._comment(path)}\n"
        yield "| value | number | meaning |\n| --- | --- | --- |"
        for index, value in enumerate(enum.value):
            comment = self._comment((*path, _ENUM_VALUE, index)).replace("\n\n", "<br>").replace("|", "\\|")
            yield f"| `{value.name}` | {value.number} | {comment} |"
        yield ""

    def _type(self, field: FieldDescriptorProto, message: DescriptorProto) -> str:
        entry = next((each for each in message.nested_type if field.type_name.endswith(f".{each.name}")), None)
        if entry is not None and entry.options.map_entry:
            key, value = entry.field
            return f"map of {self._type(key, entry)} to {self._type(value, entry)}"
        kind = _SCALARS[field.type] if field.type in _SCALARS else self._link(field.type_name)
        return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind

    def _link(self, type_name: str) -> str:
        """A type's name, with a link to where it is described."""
        shown = type_name.removeprefix(f".{PACKAGE}.").removeprefix(".")
        home = self._homes.get(type_name)
        return f"[{shown}]({home}#{shown.lower().replace('.', '')})" if home else f"`{shown}`"


def _escaped(text: str) -> str:
    """Text in which only `code` is Markdown."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in re.split(r"(`[^`]*`)", text)
    )
