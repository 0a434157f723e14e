"""`python -m tests.tools.stubs`: checks that the committed stubs are what protoc generates; exits 1 naming what differs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc


def differing() -> list[str]:
    """Names of committed stub files that differ from freshly generated ones."""
    protos = sorted(str(path) for path in Path("proto/leeway/v1").glob("*.proto"))
    includes = [f"-I{root}" for root in ("proto", Path(grpc_tools.__file__).parent / "_proto")]
    with tempfile.TemporaryDirectory() as fresh:
        outputs = [f"--{kind}={fresh}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        if protoc.main(["protoc", *includes, *outputs, *protos]) != 0:
            sys.exit("protoc failed")
        generated = {path.name: path.read_bytes() for path in Path(fresh, "leeway/v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in Path("proto/leeway/v1").glob("*_pb2*") if path.is_file()}
    return sorted(name for name in generated | committed if generated.get(name) != committed.get(name))


if __name__ == "__main__":
    if names := differing():
        sys.exit(f"stubs differ from proto/leeway/v1/*.proto: {', '.join(names)}; run `make protos` and commit")
