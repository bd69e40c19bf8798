"""protos/ is complete: tools of other languages work on it as it stands, from the repository and from the command."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from protovalidate._gen.buf.validate import validate_pb
from typer.testing import CliRunner

from holdsvc.api.services import SERVICES
from holdsvc.commands.cli import program

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
IMAGE = "inventoryhold.binpb"


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    folder = tmp_path_factory.mktemp("contract") / "protos"
    result = CliRunner().invoke(program(), ["protos", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def run(*command: object, folder: Path) -> None:
    """Runs a tool, which must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_writes_what_the_repository_has_and_an_image(protos: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    written, kept = files(protos), files(ROOT / "protos")
    del kept["released.binpb.gz"], written[IMAGE]
    assert written == kept
    # Again, over what is there.
    assert CliRunner().invoke(program(), ["protos", str(protos)]).exit_code == 0


def test_the_image_has_every_service_and_all_that_it_imports(protos: Path) -> None:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString((protos / IMAGE).read_bytes()).file:
        pool.Add(file)
    for service in SERVICES:
        assert pool.FindServiceByName(service.full_name).methods


@pytest.mark.parametrize("language", ["cpp", "csharp", "java", "kotlin", "objc", "python", "ruby"])
def test_protoc_generates_code_of_many_languages(protos: Path, tmp_path: Path, language: str) -> None:
    protoc = shutil.which("protoc")
    if protoc is None:
        pytest.skip("there is no protoc here (Debian, Ubuntu: apt-get install protobuf-compiler)")
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    assert len(names) > 10
    run(protoc, f"-I{protos}", f"--{language}_out={tmp_path}", *names, folder=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()]


def test_buf_lints_exports_and_generates(protos: Path, tmp_path: Path) -> None:
    buf = BIN / "buf"
    run(buf, "lint", folder=protos)
    run(buf, "export", protos, "-o", tmp_path / "exported", folder=tmp_path)
    assert (tmp_path / "exported" / "buf" / "validate" / "validate.proto").exists()
    template = {"version": "v2", "plugins": [{"local": str(BIN / "protoc-gen-mypy"), "out": "gen"}]}
    (tmp_path / "buf.gen.yaml").write_text(yaml.safe_dump(template))
    run(buf, "generate", protos, folder=tmp_path)
    assert (tmp_path / "gen" / "inventoryhold" / "v1" / "item_pb2.pyi").exists()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "holdsvc", "protos", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_the_rules_of_protovalidate_are_those_of_the_package_that_checks_by_them() -> None:
    kept = FileDescriptorProto.FromString(validate_pb2.DESCRIPTOR.serialized_pb)
    package = FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    for file in (kept, package):
        for message in file.message_type:
            _without_json_names(message)
        for extension in file.extension:
            extension.ClearField("json_name")
    assert kept == package
    for licence in ("buf/validate/LICENSE", "google/rpc/LICENSE"):
        assert "Apache License" in (ROOT / "protos" / licence).read_text()


def _without_json_names(message: DescriptorProto) -> None:
    """Takes out what protoc adds to some fields, which says nothing more than their names."""
    for field in (*message.field, *message.extension):
        field.ClearField("json_name")
    for inner in message.nested_type:
        _without_json_names(inner)
