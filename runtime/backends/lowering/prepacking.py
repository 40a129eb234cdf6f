"""Decide whether ONNX Runtime prepacks weights, which is faster but takes memory that processes cannot share."""

from collections.abc import Mapping
from dataclasses import dataclass

from internvl_edge.runtime.backends.lowering.onnx_model import INT8, UINT8, OnnxModel

_KEPT_FREE = 0.25
"""Share of the available memory that is kept for activations and for graphs that are opened later."""
_GIB = 1 << 30
_FLOAT_BYTES = 4
_MAPPED = {"session.disable_prepacking": "1", "optimization.disable_specified_optimizers": "ConstantFolding"}
"""Options without prepacking and constant folding, which copy weights. Each run reads the mapped file then, and
transposes weights where needed."""


@dataclass(frozen=True, slots=True)
class Prepacking:
    """The decision, and the options that carry it out."""

    config: Mapping[str, str]
    """Session options of ONNX Runtime."""
    reason: str
    arena: bool = True
    """Whether ONNX Runtime may keep the memory of one run for the next, which with mapped weights includes copies of
    them."""


def choose_prepacking(model: OnnxModel, available: int | None) -> Prepacking:
    """Return prepacking if the available bytes suffice or are unknown (None), else mapped weights."""
    needed = packed_bytes(model)
    if available is None or needed <= available * (1 - _KEPT_FREE):
        return Prepacking({}, "packed")
    return Prepacking(
        _MAPPED,
        f"mapped, which is slower: packed they take {needed / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are available",
        arena=False,
    )


def packed_bytes(model: OnnxModel) -> int:
    """Return the bytes of prepacked weights, which have 8 or 32 bits in the kernels."""
    return sum(
        tensor.size * (1 if tensor.dtype in (INT8, UINT8) else _FLOAT_BYTES)
        for tensor in model.initializers.values()
        if tensor.is_external
    )
