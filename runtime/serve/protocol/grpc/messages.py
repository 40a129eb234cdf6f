"""The protocol's messages, in a pool of their own: a client of the same protocol may live in the process."""

from functools import cache
from importlib.resources import files
from typing import Any

_DESCRIPTORS = "open_inference.binpb"
SERVICE = "inference.GRPCInferenceService"


@cache
def message(name: str) -> Any:
    """Return the class of the message `name`."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(files(__package__).joinpath(_DESCRIPTORS).read_bytes()).file:
        pool.Add(file)
    return pool
