"""Predict whether a plugin or the pattern is faster for one attention, by launches, bytes and arithmetic.

The time of a plugin is predicted from its compiled kernels (`tiles_model`). The time of the pattern is a lower bound:
layout passes at the speed of memory, and the fused kernel at the limit of the busiest unit. So a plugin that is
predicted to be faster should be faster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from internvl_edge.export.plugins.compile_kernel import compile_kernel
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import CODED as CODED_NAME
from internvl_edge.export.plugins.launches import Constant
from internvl_edge.export.plugins.pattern_costs import CODED, WIDE, PatternCost
from internvl_edge.export.plugins.tiling.tiles_model import LAUNCH_US, best_case_us, memory_us, predicted_us

_BY_NAME = {family.name: family for family in FAMILIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Call of one plugin with types, attributes and sizes."""

    plugin: str
    types: Mapping[str, str]
    attributes: Mapping[str, Constant]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one attention; the time is a prediction."""

    launches: int
    bytes: float
    us: float

    def __str__(self) -> str:
        """Return the cost as text."""
        return f"{self.launches} launches, {self.bytes / 1e6:.1f} MB, {self.us:.0f} us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Costs of one attention as plugin and as pattern."""

    plugin: Cost
    pattern: Cost

    @property
    def wins(self) -> bool:
        """Return whether the plugin is predicted to be faster."""
        return self.plugin.us < self.pattern.us

    def __str__(self) -> str:
        """Return the choice and both costs as text."""
        return f"{'plugin' if self.wins else 'pattern'}: plugin {self.plugin}; pattern {self.pattern} (predicted)"


def weigh(calls: Sequence[Call], sm: int) -> Choice:
    """Return the costs on `sm` of the plugins in `calls`, which run in order, and of the pattern that they replace.

    Raises:
        EngineError: Triton is not installed, or refuses a kernel.
    """
    return Choice(plugin=_plugin_cost(calls, sm), pattern=_pattern_cost(calls[-1], sm))


def _plugin_cost(calls: Sequence[Call], sm: int) -> Cost:
    """Return the cost of the calls, and of the passes before them that scale products of 8-bit codes."""
    moved = us = 0.0
    for call in calls:
        family = _BY_NAME[call.plugin]
        launches = family.launches(call.types, call.attributes, sm)
        works = [family.work(launch, call.sizes) for launch in launches]
        moved += works[0].unique_bytes
        us += min(
            predicted_us(compile_kernel(launch, sm), work, launch.stages)
            for launch, work in zip(launches, works, strict=True)
        )
    last = calls[-1]
    scaling = _costs(last).scaling
    scaled = 2.0 * _projection_bytes(last) if scaling else 0.0
    return Cost(
        launches=len(calls) + scaling,
        bytes=moved + scaled,
        us=us + scaling * LAUNCH_US + memory_us(scaled, sm),
    )


def _pattern_cost(call: Call, sm: int) -> Cost:
    """Return the cost of the pattern: its fused kernel moves the bytes of a plugin, the rest are passes over memory."""
    family = _BY_NAME[call.plugin.removesuffix(CODED_NAME)]
    attributes = {name: value for name, value in call.attributes.items() if name != "out"}
    launch = family.launches({name: call.types[name] for name in family.inputs}, attributes, sm)[0]
    costs, work = _costs(call), family.work(launch, call.sizes)
    moved = costs.passes * work.unique_bytes
    return Cost(
        launches=costs.launches,
        bytes=moved,
        us=costs.launches * LAUNCH_US + memory_us(moved - work.unique_bytes, sm) + best_case_us(work, sm),
    )


def _costs(call: Call) -> PatternCost:
    table = CODED if call.plugin.endswith(CODED_NAME) else WIDE
    return table[call.plugin.removesuffix(CODED_NAME)]


def _projection_bytes(call: Call) -> float:
    """Return the bytes of q, k and v in 16 bits, where queries may have other rows than keys and values."""
    rows, queries = call.sizes["N"], call.sizes.get("Q", call.sizes["N"])
    return (
        2.0 * call.sizes["B"] * (queries + 2 * rows) * int(call.attributes["heads"]) * int(call.attributes["head_dim"])
    )
