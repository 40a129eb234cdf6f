"""The protocol's messages against Triton's, and against the text that they are compiled from."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.grpc import messages
from internvl_edge.runtime.serve.protocol.grpc.messages import SERVICE, message
from internvl_edge.runtime.serve.protocol.grpc.servicer import STREAM, UNARY

PROTO = files(messages.__package__)


def test_numbers_and_types_are_tritons() -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    theirs = {
        **triton.service_pb2.DESCRIPTOR.message_types_by_name,
        **triton.model_config_pb2.DESCRIPTOR.message_types_by_name,
    }
    ours = message("ServerLiveRequest").DESCRIPTOR.file.message_types_by_name
    assert len(ours) > 20
    for name, descriptor in ours.items():
        _require_same(descriptor, theirs[name])


def _require_same(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), (
            field.full_name
        )
    for name, nested in ours.nested_types_by_name.items():
        _require_same(nested, theirs.nested_types_by_name[name])


def test_enumerations_are_tritons() -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    ours = message("ServerLiveRequest").DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    theirs = triton.model_config_pb2.DataType.DESCRIPTOR.values_by_name
    assert {name: value.number for name, value in ours.items()}.items() <= {
        name: value.number for name, value in theirs.items()
    }.items()


def test_every_call_is_answered() -> None:
    service = message("ServerLiveRequest").DESCRIPTOR.file.services_by_name[SERVICE.rpartition(".")[2]]
    assert set(service.methods_by_name) == {*UNARY, STREAM}
    assert all(service.methods_by_name[name].input_type.name == request for name, (request, _) in UNARY.items())


@pytest.mark.parametrize("name", ["open_inference", "health"])
def test_the_descriptors_are_compiled_from_the_text(tmp_path: Path, name: str) -> None:
    pytest.importorskip("grpc_tools")
    compiled = tmp_path / "compiled.binpb"
    arguments = ["--include_imports", f"--descriptor_set_out={compiled}", f"-I{PROTO}", f"{name}.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    assert compiled.read_bytes() == PROTO.joinpath(f"{name}.binpb").read_bytes()
