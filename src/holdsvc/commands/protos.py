"""`holdsvc protos`: the contract for callers of every language, as files."""

import importlib
import pkgutil
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import inventoryhold.v1
from holdsvc.commands import CommandError

IMAGE = "inventoryhold.binpb"

FOLDERS = ("inventoryhold", "buf", "google")
FILES = ("buf.yaml", "README.md")


def protos(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is missing.")],
) -> None:
    """Write the protos, what they import, the retry policy and a self-contained image of them.

    Files of an earlier version are replaced; other files in DIR stay.
    """
    with as_file(_source()) as source:
        try:
            for name in FOLDERS:
                shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
            for name in FILES:
                shutil.copy(source / name, folder / name)
            (folder / IMAGE).write_bytes(image().SerializeToString(deterministic=True))
        except OSError as error:
            raise CommandError(f"{error.filename or folder}: {error.strerror}") from error
    typer.echo(f"{folder}: protos, and {IMAGE} for tools that take an image")


def image() -> FileDescriptorSet:
    """Every file of the contract with all that it imports, each after its imports."""
    found: dict[str, FileDescriptor] = {}
    for module in pkgutil.iter_modules(inventoryhold.v1.__path__, "inventoryhold.v1."):
        if module.name.endswith("_pb2"):
            _add(importlib.import_module(module.name).DESCRIPTOR, found)
    made = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(made.file.add())
    return made


def _add(file: FileDescriptor, found: dict[str, FileDescriptor]) -> None:
    if file.name not in found:
        for needed in file.dependencies:
            _add(needed, found)
        found[file.name] = file


def _source() -> Path:
    """In the wheel beside the package; where that is installed from the repository, in the repository."""
    installed = Path(str(files("holdsvc") / "protos"))
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "protos"
