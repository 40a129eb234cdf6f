"""FLOPs of matrix products, from the plan's declarations; a multiplication and an addition count as two FLOPs."""

import math
from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.launches import Launch, fusion_of
from internvl_edge.runtime.inspect.plan.schedule import Program, Schedule, Step
from internvl_edge.runtime.inspect.plan.symbols import Sizes
from internvl_edge.runtime.inspect.plan.traffic import is_constant
from internvl_edge.runtime.numbers import tensor_types as types
from internvl_edge.runtime.numbers.formats import CODE_TYPES

TYPES = {row.plan: row.short for row in (types.FLOAT32, types.FLOAT16, types.BFLOAT16, types.INT8, types.FLOAT8E4M3FN)}
"""The plan's name of a type -> its name in data sheets."""
CODES = frozenset(row.short for row in CODE_TYPES)
"""Names of quantized types in data sheets."""

_PRODUCTS = ("fully_connected", "corrltn")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixWork:
    """The matrix products of one step."""

    flops: int
    dtype: str
    """Type of the operands by its name in data sheets, or by the plan's name if data sheets have none."""

    @property
    def quantized(self) -> bool:
        """Return whether its operands have 8 bits."""
        return self.dtype in CODES


def matrix_work(launch: Launch, schedule: Schedule, sizes: Sizes) -> MatrixWork | None:
    """Return the matrix products of `launch`, or None if they cannot be read from the plan.

    Attention is counted for every pair of query and key; whether masked pairs are computed is not known here.
    """
    step, program = launch.step, schedule.program
    if launch.category == "attention":
        return _attention(step, program, sizes)
    if launch.category not in ("matmul", "convolution"):
        return MatrixWork(flops=0, dtype="")
    described = fusion_of(step, schedule)
    if described is None:  # without a description, the operands of a fusion cannot be told apart
        if step.kind == "function":
            return _vector_product(step, program, sizes)
        return _product(step, program, sizes) if step.kind in _PRODUCTS else None
    inner = [found for found in described.steps if found.kind in _PRODUCTS]
    bound = _bound(described, step, sizes)
    works = [_product(found, described, bound) for found in inner]
    known = [work for work in works if work is not None]
    if not known or len(known) < len(works):
        return None
    return MatrixWork(flops=sum(work.flops for work in known), dtype=known[0].dtype)


def _bound(described: Program, step: Step, sizes: Sizes) -> Sizes:
    """Return the sizes inside a fusion, whose inputs are those of the step, in order."""
    pairs = zip(described.inputs, step.inputs, strict=True)
    values = {inner: sizes.values[outer] for inner, outer in pairs if outer in sizes.values}
    return Sizes(values=values, shapes={}, assumed=())


def _product(step: Step, program: Program, sizes: Sizes) -> MatrixWork | None:
    """Return 2 x outputs x summands of each: K of ``[..., K]``, or C x kernel size of a convolution's weight."""
    shapes = _shapes(step, program, sizes)
    if len(shapes) < 3:
        return None
    a, weight, out = shapes[0], shapes[1], shapes[-1]
    if step.kind == "corrltn":
        summed = math.prod(weight[1:])
    elif a and a[-1] in weight[-2:]:
        summed = a[-1]
    else:
        return None
    return MatrixWork(flops=2 * math.prod(out) * summed, dtype=_dtype(step, program))


def _attention(step: Step, program: Program, sizes: Sizes) -> MatrixWork | None:
    """Return the products of q ``[..., N, D]`` with M keys ``[..., M, D]`` or ``[..., D, M]``, and with the values.

    The result, which is the last output, has the shape of q. M is the largest among operands and results with as many
    heads, since a kernel that appends new keys to a cache writes all of them.
    """
    names = [name for name in (*step.inputs, *step.outputs) if len(_dims(name, program)) > 2]
    shapes = [sizes.shape(program.tensors[name].dims) for name in names]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len(known) < 3 or not step.outputs or names[-1] != step.outputs[-1]:
        return None
    out = known.pop()
    if out not in known:
        return None
    known.remove(out)
    heads, depth = math.prod(out[:-2]), out[-1]
    keys = [s[-2] if s[-1] == depth else s[-1] for s in known if math.prod(s[:-2]) == heads and depth in s[-2:]]
    if not keys:
        return None
    dtype = program.tensors[step.outputs[-1]].dtype
    return MatrixWork(flops=4 * math.prod(out) * max(keys), dtype=TYPES.get(dtype, dtype))


def _vector_product(step: Step, program: Program, sizes: Sizes) -> MatrixWork | None:
    """Return the product of a generated kernel that is named ``Mul Sum``; its largest constant is the weight."""
    weights = [
        program.tensors[name] for name in step.inputs if program.tensors.get(name) and len(_dims(name, program)) > 1
    ]
    weights = [tensor for tensor in weights if is_constant(tensor)]
    out = sizes.shape(_dims(step.outputs[0], program)) if step.outputs else None
    if not weights or not out:
        return None
    weight = max(weights, key=lambda tensor: tensor.constant_bytes or 0)
    shape = sizes.shape(weight.dims)
    summed = math.prod(shape) // out[-1] if shape and out[-1] else 0
    if shape is None or summed not in shape or summed * out[-1] != math.prod(shape):
        return None
    return MatrixWork(flops=2 * math.prod(out) * summed, dtype=TYPES.get(weight.dtype, weight.dtype))


def _dims(name: str, program: Program) -> tuple[int | str, ...]:
    tensor = program.tensors.get(name)
    return tensor.dims if tensor is not None else ()


def _shapes(step: Step, program: Program, sizes: Sizes) -> list[tuple[int, ...]]:
    """Return the shapes of operands with more than one axis and of the first output; [] if one is unknown."""
    names = [name for name in step.inputs if name in program.tensors and len(program.tensors[name].dims) > 1]
    found = [sizes.shape(program.tensors[name].dims) for name in (*names, *step.outputs[:1]) if name in program.tensors]
    known = [shape for shape in found if shape is not None]
    return known if len(known) == len(found) and step.outputs and step.outputs[0] in program.tensors else []


def _dtype(step: Step, program: Program) -> str:
    first = next(name for name in step.inputs if name in program.tensors and len(program.tensors[name].dims) > 1)
    dtype = program.tensors[first].dtype
    return TYPES.get(dtype, dtype)
