"""What NVIDIA's Engine Explorer (TREx) reads of a file of layers, by the rules of its reader, in words of our own.

It takes precision and element size from the format's text, which has to be one that it knows; joins layers by the names
of tensors; leaves out layers of other profiles; and asks a convolution for its geometry.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

ELEMENT_BYTES = {
    "Row major linear FP32": 4,
    "Row major linear FP16 format": 2,
    "Row major linear BFloat16 format": 2,
    "Row major linear FP8 format": 1,
    "Row major Int8 format": 1,
    "Row major linear UInt8 format": 1,
    "Row major linear Int32": 4,
    "Row major linear Int64 format": 8,
    "Row major linear BOOL": 0,
    "Double": 8,
    "Half": 2,
    "Float": 4,
    "Int8": 1,
    "Int32": 4,
    "Int64": 8,
    "FP8": 1,
    "BFloat16": 2,
    "Bool": 0,
}
"""Formats of dense tensors that the reader knows -> the bytes it counts for an element."""
_VECTORIZED = re.compile(r"(wide channel vectorized row major|Channel major|Row major) \w+ format", re.IGNORECASE)
_WEIGHT_TYPES = ("Int8", "Half", "Float", "Int32")
_OTHER_PROFILE = re.compile(r"\[profile +\d+\]")


@dataclass(slots=True)
class Read:
    """What was understood."""

    tensors: int = 0
    unknown: list[str] = field(default_factory=list)
    """Formats that it does not know."""
    edges: list[tuple[str, str]] = field(default_factory=list)
    """Writer and reader of a tensor, by name."""
    unwritten: list[str] = field(default_factory=list)
    """Tensors that no layer writes and that are no bindings."""
    unread: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What makes the reader fail."""
    weight_bytes: int = 0


def read_layers(info: Mapping[str, Any]) -> Read:
    """Read the content of a file of layers."""
    found = Read()
    layers = [layer for layer in info["Layers"] if isinstance(layer, dict)]
    if len(layers) != len(info["Layers"]):
        found.problems.append("layers without details")
    layers = [layer for layer in layers if not _OTHER_PROFILE.search(layer["Name"])]
    bindings = [name for name in info["Bindings"] if not _OTHER_PROFILE.search(name)]
    if not layers or not bindings:
        found.problems.append("no layer or no binding of the first profile")
    writers: dict[str, str] = {}
    for layer in layers:
        _read_layer(layer, found)
        writers |= {tensor["Name"]: layer["Name"] for tensor in layer["Outputs"]}
    taken = [(tensor["Name"], layer["Name"]) for layer in layers for tensor in layer["Inputs"]]
    found.edges = [(writers[name], reader) for name, reader in taken if name in writers]
    found.unwritten = sorted({name for name, _ in taken if name not in writers and name not in bindings})
    found.unread = sorted(writers.keys() - {name for name, _ in taken} - set(bindings))
    return found


def _read_layer(layer: Mapping[str, Any], found: Read) -> None:
    tensors: Sequence[Mapping[str, Any]] = [*layer["Inputs"], *layer["Outputs"]]
    for tensor in tensors:
        found.tensors += 1
        told = tensor["Format/Datatype"].replace(".", "")
        if told not in ELEMENT_BYTES and not _VECTORIZED.search(told):
            found.unknown.append(told)
        if not tensor["Name"] or prod(tensor["Dimensions"]) < 0:
            found.problems.append(f"{layer['Name']}: a tensor without a name or with sizes that are not known")
    kind = layer.get("ParameterType", layer["LayerType"])
    if "Weights" in layer:
        if layer["Weights"]["Type"] not in _WEIGHT_TYPES:
            found.problems.append(f"{layer['Name']}: weights of type {layer['Weights']['Type']}")
        found.weight_bytes += layer["Weights"]["Count"] * {"Int8": 1, "Half": 2}.get(layer["Weights"]["Type"], 4)
    if kind == "Convolution":
        lacking = [name for name in ("Kernel", "Groups", "OutMaps") if name not in layer]
        ranks = {len(layer[side][0]["Dimensions"]) for side in ("Inputs", "Outputs")}
        if lacking or ranks != {4} or len(layer["Kernel"]) != 2:
            found.problems.append(f"{layer['Name']}: a convolution without {lacking or 'four axes'}")
