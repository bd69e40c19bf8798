"""Writes src/holdsvc/http/openapi.json: the rpcs as OpenAPI 3.1, from the protos, their comments and their rules.

`make generate` runs it after scripts/generate.py, whose image holds the comments.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from holdsvc.api.bounds import rules_of
from holdsvc.api.rpcs import RPCS, Effect
from holdsvc.api.services import SERVICES
from holdsvc.http.connect import HTTP_STATUS
from holdsvc.http.files import DESCRIPTION, FOLDER

ROOT = Path(__file__).resolve().parent.parent
TARGET = FOLDER / DESCRIPTION

Json = dict[str, Any]

ABOUT = """\
Inventory holds: reserve, confirm, cancel, refund, without overselling. Each rpc is a POST of its request as JSON and is
answered with its response as JSON: the Connect protocol. Rpcs that only read are answered by GET too. Field names are
in lowerCamelCase, 64-bit numbers are strings in answers, fields with their default are left out. Unknown fields are
refused.
"""

GOOGLES: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["600s"]},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names of fields, separated by commas."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}

SCALARS: Mapping[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.TYPE_INT64: {"type": ["string", "integer"], "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": ["string", "integer"], "format": "uint64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}

ERROR: Json = {
    "type": "object",
    "description": "How a call ends that is refused or fails.",
    "required": ["code"],
    "properties": {
        "code": {
            "type": "string",
            "description": "gRPC's code.",
            "enum": sorted(name.lower().replace("cancelled", "canceled") for name in HTTP_STATUS),
        },
        "message": {"type": "string", "description": "For people; may change."},
        "details": {
            "type": "array",
            "description": "A google.rpc.ErrorInfo with the reason first, for errors that the service itself answers.",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "description": "The message's full name."},
                    "value": {"type": "string", "description": "The message in binary form, base64 without padding."},
                    "debug": {"type": "object", "description": "The message as JSON.", "additionalProperties": True},
                },
            },
        },
    },
}

NUMBERS = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}

CONTROLS = r"\u0000-\u001f\u007f-\u009f"
"""What the category Cc of Unicode holds: not every reader of a pattern knows its name."""

QUERY = {
    "connect": ("The protocol's version: v1.", {"type": "string", "enum": ["v1"]}, False),
    "encoding": (
        "How the message is written.",
        {"type": "string", "enum": ["json", "proto"], "default": "json"},
        False,
    ),
    "message": ("The request.", {"type": "string"}, False),
    "base64": ("1: the message is in base64, of URLs, without padding.", {"type": "string", "enum": ["1"]}, False),
}

STREAMS: Mapping[str, tuple[str, str, Json]] = {
    "/watch": (
        "WatchInventory",
        "Items as server-sent events: all that match first, then changes; `data` is a WatchInventoryResponse.",
        {
            "sku": ("An item; several times for several.", {"type": "array", "items": {"type": "string"}}, True),
            "pool": ("The pool of the skus named.", {"type": "string"}, False),
            "sku_prefix": ("All items whose sku begins so.", {"type": "string"}, False),
            "min_interval": ("The shortest time between two messages.", GOOGLES["google.protobuf.Duration"], False),
        },
    ),
    "/events": (
        "StreamEvents",
        "Committed changes as server-sent events; `id` is the resume token, `data` a StreamEventsResponse.",
        {
            "types": ("Types of events; unset: all.", {"type": "array", "items": {"type": "string"}}, True),
            "from_oldest": ("true: from the oldest event kept.", {"type": "string", "enum": ["true"]}, False),
            "resume_token": ("Where to go on; the header Last-Event-ID comes first.", {"type": "string"}, False),
        },
    ),
}


def comments(image: Path) -> dict[str, str]:
    """What the protos say of each service, rpc, message, field and value, by full name."""
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file:
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                found[name] = "\n".join(line.removeprefix(" ") for line in location.leading_comments.splitlines())
    return found


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for at, service in enumerate(file.service):
        yield (6, at), f"{file.package}.{service.name}"
        for number, method in enumerate(service.method):
            yield (6, at, 2, number), f"{file.package}.{service.name}.{method.name}"
    for at, message in enumerate(file.message_type):
        yield from _names_within((4, at), f"{file.package}.{message.name}", message)
    for at, enum in enumerate(file.enum_type):
        yield from _names_of_values((5, at), f"{file.package}.{enum.name}", enum)


def _names_within(
    path: tuple[int, ...], name: str, message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for at, field in enumerate(message.field):
        yield (*path, 2, at), f"{name}.{field.name}"
    for at, inner in enumerate(message.nested_type):
        yield from _names_within((*path, 3, at), f"{name}.{inner.name}", inner)
    for at, enum in enumerate(message.enum_type):
        yield from _names_of_values((*path, 4, at), f"{name}.{enum.name}", enum)


def _names_of_values(
    path: tuple[int, ...], name: str, enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for at, value in enumerate(enum.value):
        yield (*path, 2, at), f"{name}.{value.name}"


class Writer:
    """Writes the description; collects the schemas that it names."""

    def __init__(self, said: Mapping[str, str]) -> None:
        self._said = said
        self._schemas: Json = {"Error": ERROR}

    def document(self) -> Json:
        """The whole of it."""
        paths: Json = {}
        for service in SERVICES:
            for method in service.methods:
                paths[f"/{service.full_name}/{method.name}"] = self._operations(service, method)
        for path, (rpc, summary, parameters) in STREAMS.items():
            paths[path] = {"get": self._sse(path, rpc, summary, parameters)}
        for path, summary in (("/livez", "Whether the process works."), ("/readyz", "Whether calls can be answered.")):
            paths[path] = {"get": _probe(path, summary)}
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "holdsvc",
                "version": SERVICES[0].file.package,
                "description": ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"bearer": []}, {"apiKey": []}],
            "tags": [{"name": each.name, "description": self._said.get(each.full_name, "")} for each in SERVICES],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
                "responses": {
                    "Error": {
                        "description": "The call was refused or failed.",
                        "content": {"application/json": {"schema": _reference("Error")}},
                    }
                },
                "schemas": dict(sorted(self._schemas.items())),
            },
        }

    def _operations(self, service: ServiceDescriptor, method: MethodDescriptor) -> Json:
        said = self._said.get(f"{service.full_name}.{method.name}", "")
        rpc = RPCS[f"/{service.full_name}/{method.name}"]
        kind = "application/connect+json" if method.server_streaming else "application/json"
        note = "\n\nMessages are enveloped: a byte of flags, four of length." if method.server_streaming else ""
        about: Json = {
            "tags": [service.name],
            "summary": said.split(". ")[0].split("\n\n")[0].replace("\n", " ").removesuffix(".") + ".",
            "description": said + note,
            "x-scopes": list(rpc.scopes),
        }
        answers = {
            "200": {
                "description": "The response.",
                "content": {kind: {"schema": self._message(method.output_type)}},
            },
            "default": {"$ref": "#/components/responses/Error"},
        }
        request = {"required": True, "content": {kind: {"schema": self._message(method.input_type)}}}
        found = {"post": {"operationId": method.name, **about, "requestBody": request, "responses": answers}}
        if rpc.effect is Effect.READ:
            found["get"] = {
                "operationId": f"{method.name}ByGet",
                **about,
                "parameters": _parameters(QUERY),
                "responses": answers,
            }
        return found

    def _sse(self, path: str, rpc: str, summary: str, parameters: Json) -> Json:
        scopes = next(row.scopes for row in RPCS.values() if row.name == rpc)
        return {
            "operationId": path.removeprefix("/"),
            "tags": [next(row.service for row in RPCS.values() if row.name == rpc)],
            "summary": summary,
            "x-scopes": list(scopes),
            "parameters": _parameters(parameters),
            "responses": {
                "200": {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
                "default": {"$ref": "#/components/responses/Error"},
            },
        }

    def _message(self, descriptor: Descriptor) -> Json:
        google = GOOGLES.get(descriptor.full_name)
        if google is not None:
            return dict(google)
        name = _short(descriptor.full_name)
        if name not in self._schemas:
            schema: Json
            self._schemas[name] = schema = {"type": "object", "description": self._said.get(descriptor.full_name, "")}
            schema["properties"] = {field.json_name: self._field(field) for field in descriptor.fields}
            needed = [field.json_name for field in descriptor.fields if _is_needed(field)]
            if needed:
                schema["required"] = needed
            if name.endswith("Request"):
                schema["additionalProperties"] = False
        return _reference(name)

    def _field(self, field: FieldDescriptor) -> Json:
        said = self._said.get(field.full_name, "")
        rules = rules_of(field)
        of = field.message_type
        if of is not None and of.GetOptions().map_entry:
            values = self._value(of.fields_by_name["value"], rules.map.values)
            found: Json = {"type": "object", "additionalProperties": values}
            _put(found, rules.map, {"max_pairs": "maxProperties"})
        elif field.is_repeated:
            found = {"type": "array", "items": self._value(field, rules.repeated.items)}
            _put(found, rules.repeated, {"min_items": "minItems", "max_items": "maxItems"})
        else:
            found = self._value(field, rules)
        if said:
            # Beside a $ref, OpenAPI 3.1 allows a description.
            found["description"] = said
        return found

    def _value(self, field: FieldDescriptor, rules: Any) -> Json:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        found = dict(SCALARS[field.type])
        if field.type == FieldDescriptor.TYPE_STRING:
            _put(found, rules.string, {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"})
            if "pattern" in found:
                found["pattern"] = found["pattern"].replace(r"\p{Cc}", CONTROLS)
            allowed = list(getattr(rules.string, "in"))
            if allowed:
                found["enum"] = allowed
            if rules.string.uuid:
                found["format"] = "uuid"
        numbers = {FieldDescriptor.TYPE_INT32: rules.int32, FieldDescriptor.TYPE_INT64: rules.int64}.get(field.type)
        if numbers is not None:
            _put(
                found, numbers, {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}
            )
        return found

    def _enum(self, descriptor: EnumDescriptor) -> Json:
        name = _short(descriptor.full_name)
        if name not in self._schemas:
            lines = [self._said.get(descriptor.full_name, "")]
            for value in descriptor.values:
                # Values stand in the scope of the enum; comments are found by its name.
                said = self._said.get(f"{descriptor.full_name}.{value.name}", "").replace("\n", " ")
                lines.append(f"- `{value.name}`: {said}")
            values = [value.name for value in descriptor.values]
            self._schemas[name] = {"type": "string", "description": "\n".join(lines).strip(), "enum": values}
        return _reference(name)


def _put(found: Json, rules: Any, names: Mapping[str, str]) -> None:
    for rule, keyword in names.items():
        if rules.HasField(rule):
            found[keyword] = getattr(rules, rule)


def _is_needed(field: FieldDescriptor) -> bool:
    rules = rules_of(field)
    return bool(rules.required or rules.string.min_len or rules.repeated.min_items)


def _parameters(known: Mapping[str, Any]) -> list[Json]:
    found: list[Json] = []
    for name, (said, schema, several) in known.items():
        parameter = {"name": name, "in": "query", "description": said, "schema": dict(schema)}
        found.append(parameter | ({"explode": True, "style": "form"} if several else {}))
    return found


def _probe(path: str, summary: str) -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    found: Json = {
        "operationId": path.removeprefix("/"),
        "summary": summary,
        "security": [],
        "responses": {"200": {"description": "Yes.", "content": text}},
    }
    if path == "/readyz":
        found["responses"]["503"] = {"description": "No.", "content": text}
    return found


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _short(full_name: str) -> str:
    return full_name.removeprefix("inventoryhold.v1.")


def main() -> None:
    """Writes the file; with --check it only says whether it is fresh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=ROOT / "build" / "protos.binpb", help="with comments")
    parser.add_argument("--check", action="store_true", help="fail when the file is not what would be written")
    options = parser.parse_args()
    text = json.dumps(Writer(comments(options.image)).document(), indent=1, ensure_ascii=False) + "\n"
    if not options.check:
        TARGET.write_text(text)
    elif TARGET.read_text() != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is stale: run 'make generate' and commit it.")


if __name__ == "__main__":
    main()
