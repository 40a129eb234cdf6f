"""Sizes that are known only when a plan runs, in the arithmetic of a grid: `+`, `-`, `*`, `//` and nothing else.

A grid is plain Python over integers. Given `Size` objects instead, the same function yields what TensorRT stores in a
plan, or an error where it asks something that TensorRT cannot answer there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Number: TypeAlias = "int | Size"

_UNDECIDED = "a grid cannot compare sizes or branch on them: a plan holds formulas of + - * // only"


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """A named size, a constant, or an operation on two of them."""

    operation: str
    """``name``, ``constant``, or one of ``+ - * //``."""
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
        """Return -self; ``-(-a // b)`` becomes a division that rounds up."""
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
        """Return the formula as JSON takes it."""
        right = [] if self.right is None else [self.right.to_json()]
        return [self.operation, self.left.to_json() if isinstance(self.left, Size) else self.left, *right]

    def evaluate(self, names: Mapping[str, Any], constant: Callable[[int], Any] = int) -> Any:
        """Return the value for what `names` holds: integers, or objects with the same operators.

        `constant` turns a number that stands left of an operator into such an object.
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
    """Return `value` as JSON takes it."""
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
    """Return a number, or a formula's value for what `names` holds."""
    return value.evaluate(names, constant) if isinstance(value, Size) else constant(value)


def symbol(name: str) -> Size:
    """Return the size called `name`."""
    return Size("name", name)


def _size(value: Number) -> Size:
    return value if isinstance(value, Size) else Size("constant", int(value))


def _is_zero(value: object) -> bool:
    return isinstance(value, Size) and value.operation == "constant" and value.left == 0


def _rounded_up(numerator: Size, denominator: Size) -> Size:
    """Return ``ceil(numerator / denominator)``: TensorRT's division of negative numbers rounds as it likes."""
    return (numerator + denominator - 1) // denominator
