"""Formulas of sizes that are known only when a plan runs, with the operators `+`, `-`, `*` and `//`.

A grid is a Python function of integers. Called with `Size` objects instead, it returns the formulas that TensorRT
stores in a plan, or raises an error where it uses an operation that TensorRT does not have.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Number: TypeAlias = "int | Size"

_UNDECIDED = "a grid cannot compare sizes or branch on them: a plan holds formulas of + - * // only"


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """A symbol, a constant, or an operation on two sizes."""

    operation: str
    """Kind of the size: ``name``, ``constant``, or one of ``+ - * //``."""
    left: "Size | str | int"
    right: "Size | None" = None

    def __add__(self, other: Number) -> "Size":
        """Return self + other."""
        return Size("+", self, _size(other))

    def __radd__(self, other: int) -> "Size":
        """Return other + self."""
        return Size("+", _size(other), self)

    def __sub__(self, other: Number) -> "Size":
        """Return self - other."""
        return Size("-", self, _size(other))

    def __rsub__(self, other: int) -> "Size":
        """Return other - self."""
        return Size("-", _size(other), self)

    def __mul__(self, other: Number) -> "Size":
        """Return self * other."""
        return Size("*", self, _size(other))

    def __rmul__(self, other: int) -> "Size":
        """Return other * self."""
        return Size("*", self, _size(other))

    def __floordiv__(self, other: Number) -> "Size":
        """Return self // other, rounded down."""
        return Size("//", self, _size(other))

    def __rfloordiv__(self, other: int) -> "Size":
        """Return other // self, rounded down."""
        return Size("//", _size(other), self)

    def __neg__(self) -> "Size":
        """Return -self, in a form by which ``-(-a // b)`` becomes a division that rounds up."""
        if self.operation == "//" and isinstance(self.left, Size) and self.right is not None:
            numerator = self.left
            if numerator.operation == "-" and _is_zero(numerator.left) and numerator.right is not None:
                return _rounded_up(numerator.right, self.right)
        return Size("-", _size(0), self)

    def __bool__(self) -> bool:
        """Refuse: a plan knows no sizes yet."""
        raise TypeError(_UNDECIDED)

    def __eq__(self, other: object) -> bool:
        """Refuse: a plan knows no sizes yet."""
        raise TypeError(_UNDECIDED)

    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = object.__hash__

    def to_json(self) -> list[Any]:
        """Return the formula as nested lists for JSON."""
        right = [] if self.right is None else [self.right.to_json()]
        return [self.operation, self.left.to_json() if isinstance(self.left, Size) else self.left, *right]

    def evaluate(self, names: Mapping[str, Any], constant: Callable[[int], Any] = int) -> Any:
        """Return the value with `names` as values of the symbols: integers, or objects with the same operators.

        `constant` turns a number on the left of an operator into such an object.
        """
        if self.operation == "name":
            return names[str(self.left)]
        if self.operation == "constant":
            return constant(int(self.left))  # type: ignore[arg-type]
        assert isinstance(self.left, Size)
        assert self.right is not None
        left, right = self.left.evaluate(names, constant), self.right.evaluate(names, constant)
        if self.operation == "+":
            return left + right
        if self.operation == "-":
            return left - right
        return left * right if self.operation == "*" else left // right


def formula_json(value: Number) -> Any:
    """Return a number or a formula in the form for JSON."""
    return value.to_json() if isinstance(value, Size) else value


def formula_from_json(value: Any) -> Number:
    """Return the number or formula that `formula_json` was given."""
    if isinstance(value, int):
        return value
    operation, left, *right = value
    plain = operation in ("name", "constant")
    return Size(
        operation,
        left if plain else _size(formula_from_json(left)),
        _size(formula_from_json(right[0])) if right else None,
    )


def evaluate(value: Number, names: Mapping[str, Any], constant: Callable[[int], Any] = int) -> Any:
    """Return a number, or the value of a formula with `names` as values of the symbols."""
    return value.evaluate(names, constant) if isinstance(value, Size) else constant(value)


def symbol(name: str) -> Size:
    """Return the symbol `name`."""
    return Size("name", name)


def _size(value: Number) -> Size:
    return value if isinstance(value, Size) else Size("constant", int(value))


def _is_zero(value: object) -> bool:
    return isinstance(value, Size) and value.operation == "constant" and value.left == 0


def _rounded_up(numerator: Size, denominator: Size) -> Size:
    """Return ``ceil(numerator / denominator)``, since TensorRT's rounding of negative quotients is not specified."""
    return (numerator + denominator - 1) // denominator
