"""The difference of two plans: launches, bytes, memory, predictions, and kernels that only one of them has."""

import re
from collections import Counter
from collections.abc import Callable

from internvl_edge.runtime.inspect.xray.text import (
    attention_answer,
    duration,
    quantization_answer,
    size,
    work,
    works_for,
)
from internvl_edge.runtime.inspect.xray.xray_report import Kernel, PlanXray, Sums

_SHOWN = 24
"""Largest number of differing kernels that are listed; the JSON has all."""


def diff_text(a: PlanXray, b: PlanXray) -> str:
    """Return the comparison of `a` and `b` as lines of text."""
    lines = [f"A: {a.plan}", f"B: {b.plan}", *_conditions(a, b), "", _row("", "A", "B", "B - A")]
    if a.middle is not None and b.middle is not None:
        lines.append(_counts("launches, middle block", a.middle.launches, b.middle.launches))
    lines += [*_sums("whole graph", a.total, b.total), *_blocks(a, b)]
    lines += [
        _compared("activations", a.activation_bytes, b.activation_bytes, size),
        _compared("weights in the plan", a.constant_bytes, b.constant_bytes, size),
        _compared("plan file", a.plan_bytes, b.plan_bytes, size),
        "",
        *_words("attention", attention_answer(a), attention_answer(b)),
        *_words("quantization", quantization_answer(a), quantization_answer(b)),
        *_moved(a, b),
    ]
    lines += [f"not readable in {side}: {finding}" for side, x in (("A", a), ("B", b)) for finding in x.unreadable]
    return "\n".join(lines) + "\n"


def _conditions(a: PlanXray, b: PlanXray) -> list[str]:
    """Return the conditions in which the two plans differ, such as target or sizes."""
    findings = []
    if dict(a.shapes) != dict(b.shapes):
        findings.append(f"compared at different shapes: A {dict(a.shapes)}, B {dict(b.shapes)}")
    if (a.target, a.sm) != (b.target, b.sm):
        findings.append(f"for different devices: A {a.target} (sm_{a.sm}), B {b.target} (sm_{b.sm})")
    return findings


def _blocks(a: PlanXray, b: PlanXray) -> list[str]:
    """Return lines for the blocks whose launches or bytes differ; neighbours with equal figures share one line."""
    runs: list[tuple[Sums | None, Sums | None, list[str]]] = []
    for block in dict.fromkeys((*a.blocks, *b.blocks)):
        left, right = a.blocks.get(block), b.blocks.get(block)
        if runs and runs[-1][:2] == (left, right):
            runs[-1][2].append(block)
        elif left is None or right is None or (left.launches, left.bytes) != (right.launches, right.bytes):
            runs.append((left, right, [block]))
    return [line for left, right, names in runs for line in _sums(_span(names), left, right)]


def _span(names: list[str]) -> str:
    """Return a text such as ``layers.0`` or ``layers.0 to 4, each``, without the path before it."""
    first = re.sub(r".*(?=(?:layers|blocks)[./])", "", names[0]) or "outside of blocks"
    return first if len(names) == 1 else f"{first} to {names[-1].rpartition('.')[2]}, each"


def _sums(name: str, a: Sums | None, b: Sums | None) -> list[str]:
    lines = [
        _counts(f"{name}: launches", a.launches if a else None, b.launches if b else None),
        _compared("  bytes", a.bytes if a else None, b.bytes if b else None, size),
        _compared("  of these, weights", a.weight_bytes if a else None, b.weight_bytes if b else None, size),
    ]
    if a is None or b is None or a.flops != b.flops:
        lines.append(_compared("  matrix products", a.flops if a else None, b.flops if b else None, work))
    return [*lines, _compared("  predicted", a.predicted_ms if a else None, b.predicted_ms if b else None, duration)]


def _counts(name: str, a: int | None, b: int | None) -> str:
    return _compared(name, a, b, lambda count: "–" if count is None else str(int(count)))


def _compared(name: str, a: float | None, b: float | None, shown: Callable[[float | None], str]) -> str:
    if a is None or b is None:
        return _row(name, shown(a), shown(b), "–")
    sign = "" if a == b else "+" if b > a else "-"
    change = f" ({(b - a) / a:+.1%})" if a and a != b else ""
    return _row(name, shown(a), shown(b), "same" if a == b else f"{sign}{shown(abs(b - a))}{change}")


def _row(name: str, a: str, b: str, change: str) -> str:
    return f"{name:<50}{a:>14}{b:>14}  {change}"


def _words(name: str, a: str, b: str) -> list[str]:
    return [f"{name}: {a} in both"] if a == b else [f"{name}: {a} in A, {b} in B"]


def _moved(a: PlanXray, b: PlanXray) -> list[str]:
    """Return the kernels whose numbers differ between the plans, largest difference first."""
    left, right = (Counter(_label(kernel) for kernel in x.kernels) for x in (a, b))
    changes = {name: right[name] - left[name] for name in left | right if right[name] != left[name]}
    ordered = sorted(changes, key=lambda name: (-abs(changes[name]), name))
    lines = [f"  {changes[name]:+d} {name} ({left[name]} in A, {right[name]} in B)" for name in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"  and {len(ordered) - _SHOWN} more")
    return ["", "kernels that appear (+) or disappear (-) from A to B:", *lines] if lines else ["the same kernels"]


def _label(kernel: Kernel) -> str:
    """Return a name of a kernel that is the same in all blocks and plans: for library kernels, kind and module."""
    if kernel.operations or kernel.category == "attention":
        return kernel.name
    return f"{kernel.kind} of {works_for(kernel, kernel.block)}"
