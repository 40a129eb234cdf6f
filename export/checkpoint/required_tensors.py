"""Check that a checkpoint holds exactly the tensors that its model needs, and that their values are finite."""

from collections.abc import Mapping

import torch

from internvl_edge.export.checkpoint.files.tensors import LazyTensor, StoredTensor
from internvl_edge.runtime.errors import CheckpointError

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types that a needed tensor may have."""

_SHOWN = 8
"""Most names that a message lists for each kind of problem."""

_EXPONENTS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
}
"""Type -> integer type of its size, and the mask of the exponent; only NaN and infinity have all these bits set."""


def require_tensors(tensors: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that `tensors` has exactly the `expected` names and shapes, and float types.

    Raises:
        CheckpointError: with the names of missing, unexpected, misshapen and non-float tensors and of LoRA adapters
            that do not fit.
    """
    shared = [name for name in expected if name in tensors]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "misshapen": [
            f"{name} {list(tensors[name].shape)} instead of {list(expected[name])}"
            for name in shared
            if tensors[name].shape != expected[name]
        ],
        "not float": [f"{name} {tensors[name].dtype}" for name in shared if tensors[name].dtype not in FLOATS],
        "with a LoRA adapter of another shape": [
            name for name in shared if not isinstance(tensor := tensors[name], LazyTensor) and not tensor.fits
        ],
    }
    found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if found:
        quantized = any(tensors[name].dtype not in FLOATS for name in shared)
        remedy = "give the checkpoint before quantization" if quantized else "give a complete checkpoint"
        raise CheckpointError(f"checkpoint: {'; '.join(found)}; {remedy} whose config.json belongs to it")


def non_finite(values: torch.Tensor) -> int:
    """Return how many of the flat `values` are NaN or infinite."""
    if values.dtype not in _EXPONENTS:
        return int((~torch.isfinite(values)).sum())
    integer, mask = _EXPONENTS[values.dtype]
    bits = values.view(integer).numpy() & mask  # NumPy uses one thread; tracing needs the others
    if bits.size == 0 or bits.max() != mask:
        return 0
    return int((bits == mask).sum())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
