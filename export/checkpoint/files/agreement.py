"""Compare the first values of every tensor of two weight files, where either could be the one to export."""

from collections.abc import Mapping

import torch

from internvl_edge.export.checkpoint.files.tensors import TORCH_DTYPES, LazyTensor
from internvl_edge.export.checkpoint.names import is_unused, unwrapped

_COMPARED_BYTES = 4096
_ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Type -> relative difference that rounding to it may cause; other types get a bound below that of fp32."""
_SMALLEST = 2.0**-24
"""Absolute tolerance: the spacing of fp16's subnormal numbers."""
_MAY_BE_TIED = "lm_head.weight"
"""A head tied to the embedding table: safetensors files leave it out, torch files write it twice."""


def first_difference(a: Mapping[str, LazyTensor], b: Mapping[str, LazyTensor], language: bool = False) -> str | None:
    """Return the first difference of two sets of tensors in words, or None. Types and unused tensors may differ.

    `language` is whether the model has a language model with a graph.
    """
    first, second = ({unwrapped(name): tensor for name, tensor in tensors.items()} for tensors in (a, b))
    names = [{name for name in tensors if not is_unused(name, language)} for tensors in (first, second)]
    if alone := sorted(name for name in names[0] ^ names[1] if not name.endswith(_MAY_BE_TIED)):
        return f"{alone[0]} is in one of them only"
    for name in sorted(names[0] & names[1]):
        if first[name].shape != second[name].shape:
            return f"{name} is {list(first[name].shape)} and {list(second[name].shape)}"
        if not _begin_equal(first[name], second[name]):
            return f"{name} has different values"
    return None


def _begin_equal(a: LazyTensor, b: LazyTensor) -> bool:
    """Return whether the first values of two tensors are equal up to the rounding of the shorter type."""
    if not {a.dtype, b.dtype} <= set(TORCH_DTYPES):
        return a.dtype == b.dtype
    first, second = _beginning(a), _beginning(b)
    count = min(first.numel(), second.numel())
    tolerance = max(_ROUNDING.get(tensor.dtype, 2.0**-22) for tensor in (a, b))
    return torch.allclose(first[:count], second[:count], rtol=tolerance, atol=_SMALLEST, equal_nan=True)


def _beginning(tensor: LazyTensor) -> torch.Tensor:
    values = next(iter(tensor.chunks(_COMPARED_BYTES)), torch.empty(0))
    return values.double()[:_COMPARED_BYTES]
