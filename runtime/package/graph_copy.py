"""A copy of one graph: its ONNX file, and of the shared weight store only the tensors that it uses."""

import mmap
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.backends.lowering.protobuf import Message
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.file_copy import append_range
from internvl_edge.runtime.package.folders import FileCopies

OWN_WEIGHTS = "weights.bin"
"""File with a graph's tensors of those stores whose copy would need disk space."""
_MODEL_GRAPH, _GRAPH_INITIALIZERS, _TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 7, 5, 13, 1, 2
"""Field numbers of onnx.proto; protobuf never changes them."""
_ALIGNMENT = mmap.ALLOCATIONGRANULARITY
"""Alignment of tensors that ONNX Runtime maps into memory instead of copying."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The bytes of one tensor in a file beside the graph."""

    location: str
    offset: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCopy:
    """The files of a copied graph."""

    same: tuple[Path, ...]
    """Files that are byte for byte equal to the bundle's file of that name."""
    new: tuple[Path, ...]
    """Files that the bundle does not have."""


def copy_graph(source: Path, target: Path, copies: FileCopies) -> GraphCopy:
    """Copy the ONNX file `source`, whose weights are initializers, to `target`, with its weights beside it.

    Weight files are copied as a whole if that needs no disk space; of all others only the graph's own tensors are
    copied.

    Raises:
        BundleError: `source` is no ONNX model.
        OSError: `target` cannot be written.
    """
    try:
        model = Message.parse(source.read_bytes())
        graph = model.message(_MODEL_GRAPH)
        tensors = graph.messages(_GRAPH_INITIALIZERS)
        places = {index: place for index, tensor in enumerate(tensors) if (place := _place(tensor)) is not None}
    except ValueError as error:
        raise BundleError(f"{source}: is no ONNX model ({error}); export the bundle again") from error
    locations = sorted({place.location for place in places.values()})
    free = {name for name in locations if copies.place_free(source.parent / name, target.parent / name)}
    shared = tuple(target.parent / name for name in sorted(free))
    moved = {index: place for index, place in places.items() if place.location not in free}
    if not moved:
        copies.place(source, target)
        return GraphCopy(same=(target, *shared), new=())
    offsets = _write_own(sorted(set(moved.values()), key=_order), source.parent, target.parent / OWN_WEIGHTS)
    for index, place in moved.items():
        _point(tensors[index], offsets[place], place.count)
    graph.put(_GRAPH_INITIALIZERS, *tensors)
    model.put(_MODEL_GRAPH, graph)
    target.write_bytes(model.encode())
    return GraphCopy(same=shared, new=(target, target.parent / OWN_WEIGHTS))


def _place(tensor: Message) -> _Place | None:
    """Return the location of a tensor's values; None if they are in the model itself."""
    entries = tensor.messages(_TENSOR_EXTERNAL)
    if not entries:
        return None
    external = {entry.text(_ENTRY_KEY): entry.text(_ENTRY_VALUE) for entry in entries}
    return _Place(external["location"], int(external.get("offset", 0)), int(external["length"]))


def _order(place: _Place) -> tuple[str, int]:
    return place.location, place.offset


def _write_own(places: list[_Place], folder: Path, target: Path) -> dict[_Place, int]:
    """Write the bytes at `places` one after the other, and return the offset of each."""
    target.parent.mkdir(parents=True, exist_ok=True)
    offsets: dict[_Place, int] = {}
    with target.open("xb", buffering=0) as write:
        for place in places:
            write.truncate(-(-write.tell() // _ALIGNMENT) * _ALIGNMENT)
            offsets[place] = write.seek(0, 2)
            with (folder / place.location).open("rb", buffering=0) as read:
                append_range(read, write, place.offset, place.count)
    return offsets


def _point(tensor: Message, offset: int, count: int) -> None:
    """Make `tensor` refer to its values in `OWN_WEIGHTS`."""
    external = {"location": OWN_WEIGHTS, "offset": str(offset), "length": str(count)}
    entries = []
    for key, value in external.items():
        entry = Message()
        entry.put(_ENTRY_KEY, key)
        entry.put(_ENTRY_VALUE, value)
        entries.append(entry)
    tensor.put(_TENSOR_EXTERNAL, *entries)
