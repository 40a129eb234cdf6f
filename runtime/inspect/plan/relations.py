"""The relations between a schedule's symbolic sizes: the plan's host arithmetic, computed forwards and backwards."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.runtime.inspect.plan.schedule import Program, Step

_CONSTANT = re.compile(r"__s\^(M?)(\d{1,18})i64")
"""Name of a host constant, which contains its value; M is a minus sign."""
_UNARY: Mapping[str, Callable[[int], int]] = {"not": lambda a: int(not a)}
_BINARY: Mapping[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "min": min,
    "max": max,
    "eq": lambda a, b: int(a == b),
    "lt": lambda a, b: int(a < b),
    "gt": lambda a, b: int(a > b),
    "leq": lambda a, b: int(a <= b),
    "geq": lambda a, b: int(a >= b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
}
_INVERSE: Mapping[str, Callable[[int, int], int]] = {
    "add": lambda value, b: value - b,
    "sub": lambda value, b: value + b,
    "mul": lambda value, b: value // b if b else 0,
}
"""Kind of a step -> function of the result and the second operand that returns the first operand."""
_SAME = ("copy", "cast", "reshape")
"""Kinds of steps that return their one operand unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """The host steps of a program, in order, with the conditions that they assert."""

    steps: tuple[Step, ...]
    constants: Mapping[str, int]
    producers: Mapping[str, Step]
    asserted: frozenset[str]
    """Conditions that must hold: asserted ones, and the operands of asserted conjunctions."""

    def source(self, name: str) -> str:
        """Return the original name of which `name` is a copy."""
        for _ in self.steps:
            step = self.producers.get(name)
            if step is None or step.kind not in _SAME or len(step.inputs) != 1:
                break
            name = step.inputs[0]
        return name

    def is_free(self, name: str) -> bool:
        """Return whether source `name` is given from outside and not computed."""
        return name not in self.producers and name not in self.constants

    def forward(self, known: Mapping[str, int]) -> dict[str, int]:
        """Return `known` with all values that follow from it; a value without all operands stays unknown."""
        values = {**self.constants, **known}
        for step in self.steps:
            operands = [values[name] for name in step.inputs if name in values]
            if len(step.outputs) == 1 and operands and len(operands) == len(step.inputs):
                value = _computed(step.kind, operands)
                if value is not None:
                    values.setdefault(step.outputs[0], value)
        return values

    def backward(self, name: str, value: int, values: Mapping[str, int]) -> tuple[str, int] | None:
        """Return the free source of `name` and its value at which `name` is `value`; None if it is not determined."""
        for _ in range(len(self.steps) + 1):
            name = self.source(name)
            if self.is_free(name):
                return name, value
            step = self.producers.get(name)
            if step is None or step.kind not in _INVERSE or len(step.inputs) != 2 or step.inputs[1] not in values:
                return None
            name, value = step.inputs[0], _INVERSE[step.kind](value, values[step.inputs[1]])
        return None

    def bounds(self) -> dict[str, tuple[int, int | None]]:
        """Return the smallest and largest value of each free source, from the comparisons that the plan asserts."""
        low: dict[str, int] = {}
        high: dict[str, int] = {}
        for step in self.steps:
            if step.kind in ("geq", "leq") and len(step.inputs) == 2 and self.asserted.intersection(step.outputs):
                symbol, limit = self.source(step.inputs[0]), step.inputs[1]
                if limit in self.constants and self.is_free(symbol):
                    (low if step.kind == "geq" else high)[symbol] = self.constants[limit]
        return {symbol: (low.get(symbol, 1), high.get(symbol)) for symbol in low.keys() | high.keys()}

    def equalities(self) -> list[tuple[str, str]]:
        """Return pairs of sizes that the plan asserts to be equal."""
        return [
            (step.inputs[0], step.inputs[1])
            for step in self.steps
            if step.kind == "eq" and len(step.inputs) == 2 and self.asserted.intersection(step.outputs)
        ]


def relations_of(program: Program) -> Relations:
    """Return the relations of `program`: its shape program, and the arithmetic on single numbers in its schedule."""
    host = tuple(step for step in program.steps if step.kind in _SAME or step.kind in _BINARY or step.kind in _UNARY)
    steps = (*program.shape_steps, *host)
    names = {name for step in steps for name in (*step.inputs, *step.outputs)}
    matches = {name: _CONSTANT.fullmatch(name) for name in names}
    constants = {name: -int(m[2]) if m[1] else int(m[2]) for name, m in matches.items() if m is not None}
    producers: dict[str, Step] = {}
    for step in steps:
        if len(step.outputs) == 1 and step.inputs and step.outputs[0] not in constants:
            producers.setdefault(step.outputs[0], step)
    return Relations(steps=steps, constants=constants, producers=producers, asserted=frozenset(_asserted(steps)))


def _asserted(steps: Sequence[Step]) -> set[str]:
    held = {step.inputs[0] for step in steps if step.kind == "assert" and step.inputs}
    for step in reversed(steps):
        if step.kind == "and" and held.intersection(step.outputs):
            held.update(step.inputs)
    return held


def _computed(kind: str, operands: Sequence[int]) -> int | None:
    """Return the result of a step on numbers, or None for an unknown kind."""
    if len(operands) == 1:
        return operands[0] if kind in _SAME else _UNARY[kind](operands[0]) if kind in _UNARY else None
    if len(operands) == 2 and kind in _BINARY:
        return _BINARY[kind](operands[0], operands[1])
    return (operands[1] if operands[0] else operands[2]) if len(operands) == 3 and kind == "select" else None
