"""Generates the committed stubs in generated/ from protos/, and the image that buf lints.

protos/ is complete: beside the service's own files it has those of others that they import, which this script takes
from installed packages. Only `google/protobuf` is left to the tools, which all bring it along.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import cast

import grpc_tools
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, text_format, timestamp_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
VALIDATE = "buf/validate/validate.proto"
STATUS = "google/rpc/status.proto"
RETRY_POLICY = "inventoryhold/v1/retry_policy.json"

_ABOUT_VALIDATE = """\
// Protovalidate's rules, https://protovalidate.com, of the package protovalidate {version}: Copyright Buf Technologies,
// Inc., Apache License 2.0 (see LICENSE). Written by `make generate` from the package's descriptor, without comments.

"""

_LABELS = {
    FieldDescriptorProto.LABEL_OPTIONAL: "optional ",
    FieldDescriptorProto.LABEL_REQUIRED: "required ",
    FieldDescriptorProto.LABEL_REPEATED: "repeated ",
}
_NUMBER_MAX = 536_870_911


def protoc(*arguments: str) -> None:
    """Runs protoc in a process of its own; raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, cwd=ROOT)


def others() -> Mapping[str, str]:
    """The files of others in protos/, with their licences, from the packages that bring them."""
    validate = distribution("protovalidate")
    google = distribution("googleapis-common-protos")
    file = _with_its_options(validate_pb.desc().proto.to_binary())
    return {
        VALIDATE: _ABOUT_VALIDATE.format(version=validate.version) + _proto_text(file),
        "buf/validate/LICENSE": (validate.read_text("licenses/LICENSE") or ""),
        STATUS: (Path(status_pb2.__file__).parent / "status.proto").read_text(),
        "google/rpc/LICENSE": (google.read_text("licenses/LICENSE") or ""),
    }


def _with_its_options(serialized: bytes) -> FileDescriptorProto:
    """A file that extends options and uses its own extensions: read where they are known, else they would be lost."""
    pool = DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(serialized)
    known = GetMessageClass(pool.FindMessageTypeByName(FileDescriptorProto.DESCRIPTOR.full_name))
    return cast("FileDescriptorProto", known.FromString(serialized))


def _proto_text(file: FileDescriptorProto) -> str:
    """The text of a file of the syntax proto2, whose package carries none."""
    lines = ['syntax = "proto2";', "", f"package {file.package};", ""]
    lines += [f'import "{name}";' for name in file.dependency]
    lines += ["", *(f"option {option};" for option in _options(file.options))]
    for field in file.extension:
        lines += ["", f"extend {field.extendee} {{", f"  {_field(field)}", "}"]
    for message in file.message_type:
        lines += ["", *_message(message)]
    for enum in file.enum_type:
        lines += ["", *_enum(enum)]
    return "\n".join(lines) + "\n"


def _message(message: DescriptorProto) -> Iterator[str]:
    yield f"message {message.name} {{"
    yield from (f"  option {option};" for option in _options(message.options))
    for enum in message.enum_type:
        yield from _indented(_enum(enum))
    for inner in message.nested_type:
        yield from _indented(_message(inner))
    for index, field in enumerate(message.field):
        if not field.HasField("oneof_index"):
            yield f"  {_field(field)}"
        elif index == 0 or not _together(message.field[index - 1], field):
            yield from _oneof(message, field.oneof_index)
    for reserved in message.reserved_range:
        yield f"  reserved {_range(reserved.start, reserved.end - 1)};"
    for name in message.reserved_name:
        yield f'  reserved "{name}";'
    for free in message.extension_range:
        yield f"  extensions {_range(free.start, free.end - 1)};"
    yield "}"


def _together(one: FieldDescriptorProto, other: FieldDescriptorProto) -> bool:
    return one.HasField("oneof_index") and one.oneof_index == other.oneof_index


def _oneof(message: DescriptorProto, index: int) -> Iterator[str]:
    yield f"  oneof {message.oneof_decl[index].name} {{"
    yield from (f"    option {option};" for option in _options(message.oneof_decl[index].options))
    for field in message.field:
        if field.HasField("oneof_index") and field.oneof_index == index:
            yield f"    {_field(field, label='')}"
    yield "  }"


def _range(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first} to {'max' if last >= _NUMBER_MAX else last}"


def _enum(enum: EnumDescriptorProto) -> Iterator[str]:
    yield f"enum {enum.name} {{"
    yield from (f"  option {option};" for option in _options(enum.options))
    yield from (f"  {value.name} = {value.number}{_in_brackets(value.options)};" for value in enum.value)
    for reserved in enum.reserved_range:
        yield f"  reserved {_range(reserved.start, reserved.end)};"
    for name in enum.reserved_name:
        yield f'  reserved "{name}";'
    yield "}"


def _field(field: FieldDescriptorProto, label: str | None = None) -> str:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = _LABELS[field.label] if label is None else label
    return f"{label}{kind} {field.name} = {field.number}{_in_brackets(field.options)};"


def _in_brackets(options: Message) -> str:
    found = ", ".join(_options(options))
    return f" [{found}]" if found else ""


def _options(options: Message) -> Iterator[str]:
    for field, value in options.ListFields():
        name = f"({field.full_name})" if field.is_extension else field.name
        for each in value if field.is_repeated else [value]:
            yield f"{name} = {_value(field, each)}"


def _value(field: object, value: object) -> str:
    if isinstance(value, Message):
        return f"{{{text_format.MessageToString(value, as_one_line=True)}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    enum = field.enum_type  # type: ignore[attr-defined]
    return str(enum.values_by_number[value].name if enum else value)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def main() -> None:
    """Writes the files of others, the stubs and the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the stubs; default: generated/, and protos/ is completed")
    parser.add_argument("--image", type=Path, default=ROOT / "build" / "protos.binpb", help="the image for buf")
    options = parser.parse_args()
    options.image.parent.mkdir(parents=True, exist_ok=True)
    out = options.out or ROOT / "generated"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, text in others().items():
        path = PROTOS / name
        if options.out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.relative_to(ROOT)} is stale: run 'make generate' and commit it.")

    own = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    own = [name for name in own if name.startswith("inventoryhold/")]
    includes = [f"-I{PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    protoc(*includes, f"--python_out={out}", f"--pyi_out={out}", VALIDATE, *own)
    services = [name for name in own if name.endswith("_service.proto")]
    protoc(*includes, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}", *services)
    protoc(*includes, "--include_imports", "--include_source_info", f"--descriptor_set_out={options.image}", *own)
    # Clients of every language read it beside the protos; ours reads it beside the stubs.
    shutil.copy(PROTOS / RETRY_POLICY, out / RETRY_POLICY)
    for folder in ("buf", "buf/validate", "inventoryhold", "inventoryhold/v1"):
        (out / folder / "__init__.py").touch()
        (out / folder / "py.typed").touch()


if __name__ == "__main__":
    main()
