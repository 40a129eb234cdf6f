"""Whether the kernels may hold weights in an order of their own: faster, but memory that no other process can share."""

from collections.abc import Mapping
from dataclasses import dataclass

from internvl_edge.runtime.backends.lowering.onnx_model import INT8, UINT8, OnnxModel

_KEPT_FREE = 0.25
"""Of what is available: for activations, and for graphs that are opened later."""
_GIB = 1 << 30
_FLOAT_BYTES = 4
_MAPPED = {"session.disable_prepacking": "1", "optimization.disable_specified_optimizers": "ConstantFolding"}
"""Prepacking and folding copy a weight; without them every run reads the file's pages, and transposes what it needs."""


@dataclass(frozen=True, slots=True)
class Prepacking:
    """A decision, and how to carry it out."""

    config: Mapping[str, str]
    """ONNX Runtime's session options."""
    reason: str
    arena: bool = True
    """Whether ONNX Runtime may keep the memory of one run for the next: with mapped weights that is a copy of them."""


def choose_prepacking(model: OnnxModel, available: int | None) -> Prepacking:
    """Pack where the memory suffices; `available` is None where nobody knows."""
    needed = packed_bytes(model)
    if available is None or needed <= available * (1 - _KEPT_FREE):
        return Prepacking({}, "packed")
    return Prepacking(
        _MAPPED,
        f"mapped, which is slower: packed they take {needed / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are available",
        arena=False,
    )


def packed_bytes(model: OnnxModel) -> int:
    """Return what the weights take as the kernels hold them: bytes, or fp32."""
    return sum(
        tensor.size * (1 if tensor.dtype in (INT8, UINT8) else _FLOAT_BYTES)
        for tensor in model.initializers.values()
        if tensor.is_external
    )
