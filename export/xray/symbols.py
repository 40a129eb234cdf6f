"""The symbolic sizes of a schedule, from the shapes of its inputs: the plan's own host arithmetic, done over again."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.export.xray.schedule import Program, Step
from internvl_edge.runtime.errors import EngineError

_CONSTANT = re.compile(r"__s\^(M?)(\d{1,18})i64")
"""A host constant carries its value in its name; M stands for minus."""
_SUFFIX = re.compile(r"(?: \[profile \d+\])?\.\d+$")
"""What a plan adds to the names of inputs and outputs; the second profile's say so."""
_INTERNAL = re.compile(r"_shapeInput|^ONNXTRT_")
"""Inputs that TensorRT made itself: shapes, and results of its parser's helpers."""
_OPERATIONS: Mapping[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
    "eq": lambda a, b: int(a == b),
    "lt": lambda a, b: int(a < b),
    "gt": lambda a, b: int(a > b),
    "leq": lambda a, b: int(a <= b),
    "geq": lambda a, b: int(a >= b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
    "not": lambda a: int(not a),
    "select": lambda c, a, b: a if c else b,
}
_SAME = ("copy", "cast", "reshape")
"""Steps on one number that do not change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What every symbol stands for."""

    values: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    """Of the graph's inputs, by name."""
    assumed: tuple[str, ...]
    """Axes, as ``pixel_values[0] = 1``, for which no size was given: the smallest that the plan takes."""

    def shape(self, dims: Sequence[int | str]) -> tuple[int, ...] | None:
        """Return `dims` in numbers, or None where a symbol could not be worked out."""
        found = [self.values.get(dim) if isinstance(dim, str) else dim for dim in dims]
        return tuple(dim for dim in found if dim is not None) if None not in found else None


def sizes_of(program: Program, shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Return the sizes of `program` when its inputs have `shapes`, by input name; axes not given are the smallest.

    Raises:
        EngineError: an unknown input, a wrong rank or fixed axis, a size beyond the profile; all of them at once.
    """
    inputs = {plain_name(name): name for name in program.inputs if not _INTERNAL.search(name)}
    steps = (*program.shape_steps, *(step for step in program.steps if step.kind in _SAME or step.kind in _OPERATIONS))
    findings = [f"{name}: no input of it; it has {', '.join(inputs)}" for name in shapes if name not in inputs]
    known = _constants(steps)
    bounds = _bounds(steps, known)
    known, wrong = _given(program, {inputs[n]: tuple(s) for n, s in shapes.items() if n in inputs}, known, steps)
    assumed: list[str] = []
    for name, full in inputs.items():
        for axis, dim in enumerate(program.tensors[full].dims if full in program.tensors else ()):
            if isinstance(dim, str) and _source(dim, steps) not in known:
                known[_source(dim, steps)] = bounds.get(_source(dim, steps), (1, None))[0]
                assumed.append(f"{name}[{axis}] = {known[_source(dim, steps)]}")
    wrong += [
        f"{symbol} is {known[symbol]}, the plan takes {low} to {high}"
        for symbol, (low, high) in bounds.items()
        if symbol in known and not low <= known[symbol] <= (high if high is not None else known[symbol])
    ]
    if findings or wrong:
        labels = {
            _source(d, steps): f"{n}[{i}]"
            for n, full in reversed(inputs.items())
            if full in program.tensors
            for i, d in enumerate(program.tensors[full].dims)
            if isinstance(d, str)
        }
        said = "; ".join(_labelled(finding, labels) for finding in (*findings, *wrong))
        raise EngineError(f"sizes: {said}; give shapes that the plan was built for")
    values = _forward(steps, known)
    resolved = Sizes(values=values, shapes={}, assumed=tuple(assumed))
    found = {n: resolved.shape(program.tensors[f].dims) for n, f in inputs.items() if f in program.tensors}
    return Sizes(values=values, shapes={n: s for n, s in found.items() if s is not None}, assumed=tuple(assumed))


def plain_name(name: str) -> str:
    """Return the name that an input or output has in the ONNX graph."""
    return _SUFFIX.sub("", name)


def _constants(steps: Sequence[Step]) -> dict[str, int]:
    names = {name for step in steps for name in (*step.inputs, *step.outputs)}
    matches = {name: _CONSTANT.fullmatch(name) for name in names}
    return {name: -int(m[2]) if m[1] else int(m[2]) for name, m in matches.items() if m is not None}


def _source(symbol: str, steps: Sequence[Step]) -> str:
    """Return the first of the names that `symbol` is a mere copy of."""
    copies = {step.outputs[0]: step.inputs[0] for step in steps if _is_copy(step)}
    seen = {symbol}
    while symbol in copies and copies[symbol] not in seen:
        symbol = copies[symbol]
        seen.add(symbol)
    return symbol


def _is_copy(step: Step) -> bool:
    return step.kind in _SAME and len(step.inputs) == len(step.outputs) == 1


def _bounds(steps: Sequence[Step], constants: Mapping[str, int]) -> dict[str, tuple[int, int | None]]:
    """Return least and largest value of each source, from the comparisons that the plan asserts."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    asserted = _asserted(steps)
    for step in steps:
        if step.kind in ("geq", "leq") and len(step.inputs) == 2 and step.outputs and step.outputs[0] in asserted:
            symbol, limit = step.inputs
            if limit in constants and symbol not in constants:
                (low if step.kind == "geq" else high)[_source(symbol, steps)] = constants[limit]
    return {symbol: (low.get(symbol, 1), high.get(symbol)) for symbol in low.keys() | high.keys()}


def _asserted(steps: Sequence[Step]) -> set[str]:
    """Return the conditions that must hold: those asserted, and what these are conjunctions of."""
    held = {step.inputs[0] for step in steps if step.kind == "assert" and step.inputs}
    for step in reversed(steps):
        if step.kind == "and" and step.outputs and step.outputs[0] in held:
            held.update(step.inputs)
    return held


def _given(
    program: Program, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, int], steps: Sequence[Step]
) -> tuple[dict[str, int], list[str]]:
    """Return `known` with the sizes that `shapes` fix, and what does not fit the declarations."""
    found, wrong = dict(known), []
    for name, shape in shapes.items():
        dims = program.tensors[name].dims if name in program.tensors else ()
        if len(dims) != len(shape):
            wrong.append(f"{plain_name(name)}: has {len(dims)} axes, {len(shape)} were given")
            continue
        for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
            expected = found.setdefault(_source(dim, steps), size) if isinstance(dim, str) else dim
            if expected != size:
                wrong.append(f"{plain_name(name)}[{axis}] is {size}, must be {expected}")
    return found, wrong


def _forward(steps: Sequence[Step], known: Mapping[str, int]) -> dict[str, int]:
    """Return `known` and all that `steps` compute from it, in order; what lacks an operand stays unknown."""
    values = dict(known)
    for step in steps:
        operands = [values[name] for name in step.inputs if name in values]
        if len(step.outputs) != 1 or step.outputs[0] in values or len(operands) != len(step.inputs) or not operands:
            continue
        if _is_copy(step):
            values[step.outputs[0]] = operands[0]
        elif step.kind in _OPERATIONS and (step.kind not in ("div", "mod") or operands[-1] != 0):
            value = _apply(step.kind, operands)
            if value is not None:
                values[step.outputs[0]] = value
    return values


def _apply(kind: str, operands: Sequence[int]) -> int | None:
    wanted = {"not": 1, "select": 3}.get(kind, 2)
    return _OPERATIONS[kind](*operands) if len(operands) == wanted else None


def _labelled(finding: str, labels: Mapping[str, str]) -> str:
    for symbol, label in labels.items():
        finding = finding.replace(symbol, label)
    return finding
