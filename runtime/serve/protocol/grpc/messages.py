"""The protocol's message classes, in a pool of their own, since a client of the protocol may be in the same process."""

from functools import cache
from importlib.resources import files
from typing import Any

_DESCRIPTORS = ("open_inference.binpb", "health.binpb")
_INFERENCE, _HEALTH = "inference", "grpc.health.v1"
SERVICE = f"{_INFERENCE}.GRPCInferenceService"
HEALTH_SERVICE = f"{_HEALTH}.Health"


@cache
def message(name: str, package: str = _INFERENCE) -> Any:
    """Return the class of the message `name`."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(descriptors().FindMessageTypeByName(f"{package}.{name}"))


def health_message(name: str) -> Any:
    """Return the class of the message `name` of gRPC's health checks."""
    return message(name, _HEALTH)


@cache
def descriptors() -> Any:
    """Return the pool of all messages and services."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    for name in _DESCRIPTORS:
        for file in FileDescriptorSet.FromString(files(__package__).joinpath(name).read_bytes()).file:
            pool.Add(file)
    return pool
