"""The values of a schedule's symbolic sizes, from the shapes of its inputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.relations import Relations, relations_of
from internvl_edge.runtime.inspect.plan.schedule import Program

_SUFFIX = re.compile(r"(?: \[profile \d+\])?\.\d+$")
"""Suffix that a plan adds to the names of inputs and outputs; from the second profile on it names the profile."""
_INTERNAL = re.compile(r"_shapeInput|^ONNXTRT_")
"""Names of inputs that TensorRT made itself: shapes, and results of its parser's helpers."""

Axes = Mapping[tuple[str, int], str]
"""Input and axis -> its symbol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The value of every symbol."""

    values: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    """Input of the graph -> its shape."""
    assumed: tuple[str, ...]
    """Axes without a given size, such as ``pixel_values[0] = 1``; they get the smallest size that the plan allows."""

    def shape(self, dims: Sequence[int | str]) -> tuple[int, ...] | None:
        """Return `dims` as numbers, or None if the value of a symbol is not known."""
        found = [self.values.get(dim) if isinstance(dim, str) else dim for dim in dims]
        return tuple(dim for dim in found if dim is not None) if None not in found else None


def sizes_of(program: Program, shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Return the sizes of `program` for `shapes` of its inputs; axes without a size get the smallest allowed one.

    Raises:
        EngineError: Inputs are unknown, have a wrong rank or fixed axis, or exceed the profile; the message names all.
    """
    inputs = inputs_of(program)
    relations = relations_of(program)
    axes = {(n, i): d for n, dims in inputs.items() for i, d in enumerate(dims) if isinstance(d, str)}
    findings = _misfits(inputs, shapes)
    fitting = {name: shape for name, shape in shapes.items() if len(inputs.get(name, ())) == len(shape)}
    free = _given(relations, axes, fitting)
    free, assumed = _completed(relations, axes, free)
    values = relations.forward(free)
    findings += _contradictions(relations, axes, fitting, values)
    if findings:
        raise EngineError(f"sizes: {'; '.join(findings)}; give shapes that the plan was built for")
    sizes = Sizes(values=values, shapes={}, assumed=assumed)
    known = {name: sizes.shape(dims) for name, dims in inputs.items()}
    return Sizes(values=values, shapes={n: s for n, s in known.items() if s is not None}, assumed=assumed)


def inputs_of(program: Program) -> dict[str, tuple[int | str, ...]]:
    """Return the declared shapes of the graph's inputs, by name, without those of which only the shape is read."""
    return {
        plain_name(name): program.tensors[name].dims
        for name in program.inputs
        if name in program.tensors and not _INTERNAL.search(name)
    }


def outputs_of(program: Program, sizes: Sizes) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the outputs at `sizes`, in the graph's order; TensorRT may have renamed outputs."""
    declared = program.tensors
    return {
        plain_name(name): sizes.shape(declared[name].dims) if name in declared else None for name in program.outputs
    }


def plain_name(name: str) -> str:
    """Return the name of an input or output in the ONNX graph."""
    return _SUFFIX.sub("", name)


def _misfits(inputs: Mapping[str, Sequence[int | str]], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return descriptions of the `shapes` that do not fit the declarations."""
    findings = [f"{name}: no input of it; it has {', '.join(inputs)}" for name in shapes if name not in inputs]
    for name, shape in shapes.items():
        dims = inputs.get(name, ())
        if name in inputs and len(dims) != len(shape):
            findings.append(f"{name}: has {len(dims)} axes, {len(shape)} were given")
        elif name in inputs:
            pairs = enumerate(zip(dims, shape, strict=True))
            findings += [f"{name}[{i}] is {n}, must be {d}" for i, (d, n) in pairs if isinstance(d, int) and d != n]
    return findings


def _given(relations: Relations, axes: Axes, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the values of free sources that follow from `shapes`, directly or through the plan's arithmetic."""
    free: dict[str, int] = {}
    for (name, axis), symbol in axes.items():
        if name in shapes:
            found = relations.backward(symbol, shapes[name][axis], relations.constants)
            if found is not None:
                free.setdefault(*found)
    return free


def _completed(relations: Relations, axes: Axes, free: Mapping[str, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return `free` with all other sources, at their smallest value or as an asserted equality demands.

    The second result names the axes that got their smallest value.
    """
    found, assumed, bounds = dict(free), [], relations.bounds()
    for (name, axis), symbol in axes.items():
        source = relations.source(symbol)
        if not relations.is_free(source) or source in found:
            continue
        found |= _demanded(relations, found)
        if source not in found:
            found[source] = bounds.get(source, (1, None))[0]
            assumed.append(f"{name}[{axis}] = {found[source]}")
    return found, tuple(assumed)


def _demanded(relations: Relations, free: Mapping[str, int]) -> dict[str, int]:
    """Return the values of free sources that follow from asserted equalities."""
    values = relations.forward(free)
    demanded: dict[str, int] = {}
    for pair in relations.equalities():
        for known, open_ in (pair, pair[::-1]):
            if known in values and open_ not in values:
                found = relations.backward(open_, values[known], values)
                if found is not None and found[0] not in free:
                    demanded.setdefault(*found)
    return demanded


def _contradictions(
    relations: Relations, axes: Axes, shapes: Mapping[str, Sequence[int]], values: Mapping[str, int]
) -> list[str]:
    """Return the sizes outside the profile, and those that others contradict."""
    bounds = relations.bounds()
    labels: dict[str, str] = {}
    for (name, axis), symbol in axes.items():
        labels.setdefault(relations.source(symbol), f"{name}[{axis}]")
    findings = [
        f"{labels.get(symbol, symbol)} is {values[symbol]}, the plan takes {low} to {'any' if high is None else high}"
        for symbol, (low, high) in bounds.items()
        if symbol in values and not low <= values[symbol] <= (values[symbol] if high is None else high)
    ]
    for (name, axis), symbol in axes.items():
        if name in shapes and values.get(symbol, shapes[name][axis]) != shapes[name][axis]:
            findings.append(f"{name}[{axis}] is {shapes[name][axis]}, must be {values[symbol]}")
    unequal = [f"{values[a]} and {values[b]} must be equal" for a, b in relations.equalities() if _differ(values, a, b)]
    return findings or list(dict.fromkeys(unequal))


def _differ(values: Mapping[str, int], a: str, b: str) -> bool:
    return a in values and b in values and values[a] != values[b]
