"""Generates the committed stubs in generated/ from protos/, and the image that buf lints.

protoc finds the imports of `google/` in googleapis-common-protos and grpcio-tools, and `buf/validate/validate.proto` in
the descriptor of the protovalidate package, so no third-party source is kept here.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
VALIDATE = "buf/validate/validate.proto"
RETRY_POLICY = "inventoryhold/v1/retry_policy.json"


def protoc(*arguments: str) -> None:
    """Runs protoc in a process of its own; raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, cwd=ROOT)


def write_validate_descriptor(path: Path) -> None:
    """Writes buf/validate/validate.proto and its imports as a descriptor set."""
    descriptors = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        proto: Message = descriptors.file.add()
        module.DESCRIPTOR.CopyToProto(proto)
    descriptors.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    path.write_bytes(descriptors.SerializeToString())


def main() -> None:
    """Writes the stubs and the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "generated", help="folder of the stubs")
    parser.add_argument("--image", type=Path, default=ROOT / "build" / "protos.binpb", help="the image for buf")
    options = parser.parse_args()
    options.image.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)

    validate = options.image.parent / "validate.binpb"
    write_validate_descriptor(validate)
    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    includes = [
        f"--descriptor_set_in={validate}",
        f"-I{PROTOS}",
        f"-I{Path(status_pb2.__file__).parents[2]}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
    ]
    out = options.out
    protoc(*includes, f"--python_out={out}", f"--pyi_out={out}", VALIDATE)
    protoc(*includes, f"--python_out={out}", f"--pyi_out={out}", *names)
    services = [name for name in names if name.endswith("_service.proto")]
    protoc(*includes, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}", *services)
    protoc(*includes, "--include_imports", "--include_source_info", f"--descriptor_set_out={options.image}", *names)
    # Clients of every language read it beside the protos; ours reads it beside the stubs.
    shutil.copy(PROTOS / RETRY_POLICY, out / RETRY_POLICY)
    for folder in ("buf", "buf/validate", "inventoryhold", "inventoryhold/v1"):
        (out / folder / "__init__.py").touch()
        (out / folder / "py.typed").touch()


if __name__ == "__main__":
    main()
