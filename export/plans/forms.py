"""Search the form of a graph with the fewest launches and bytes: build blocks in each form and read the plans."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from internvl_edge.export.dialects import PORTABLE, Dialect, lower
from internvl_edge.export.dialects.cut_blocks import Shapes
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.launches import Launch, launches_of
from internvl_edge.runtime.inspect.plan.schedule import Schedule, read_plan
from internvl_edge.runtime.inspect.plan.symbols import sizes_of
from internvl_edge.runtime.inspect.plan.traffic import traffic_of
from internvl_edge.runtime.targets.data_sheet import Target

logger = logging.getLogger(__name__)

_PATTERN = Dialect(attention="pattern")

FORMS: tuple[Dialect, ...] = (
    _PATTERN,
    replace(_PATTERN, scale="gain"),
    replace(_PATTERN, scale="scores"),
    replace(_PATTERN, scale="both"),
    replace(_PATTERN, heads="together"),
    replace(_PATTERN, heads="joined"),
    replace(_PATTERN, heads="joined", values="with keys"),
    replace(_PATTERN, scale="keys"),
    replace(_PATTERN, keys="twice"),
    replace(_PATTERN, qkv="slices"),
    replace(_PATTERN, norms="decomposed"),
    replace(_PATTERN, rotary="decomposed"),
    replace(_PATTERN, gelu="decomposed"),
    Dialect(),
    Dialect(heads="joined"),
    Dialect(qkv="slices"),
    PORTABLE,
)
"""Forms that a search tries by default. The first of equal ones is chosen, so simple forms come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """Cost of one block in one optimization profile, at its opt shapes."""

    launches: int
    bytes: int | None
    """Bytes that its kernels read and write, weights included; None if the plan does not state all sizes."""
    kernels: tuple[str, ...]
    """Names of its kernels, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One dialect, and the cost of a block in it."""

    dialect: Dialect
    block: str
    costs: tuple[BlockCost, ...]
    """Cost in each profile; empty if TensorRT refuses the form."""
    refused: str = ""

    @property
    def launches(self) -> int:
        """Return the launches of the block, summed over the profiles."""
        return sum(cost.launches for cost in self.costs)

    @property
    def bytes(self) -> int | None:
        """Return the bytes moved by the block, summed over the profiles."""
        known = [cost.bytes for cost in self.costs if cost.bytes is not None]
        return sum(known) if len(known) == len(self.costs) else None

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON content."""
        return asdict(self)


def search_forms(
    blocks: ir.Model,
    block: str,
    folder: Path,
    *,
    target: Target,
    profiles: Sequence[Mapping[str, Shapes]],
    forms: Sequence[Dialect] = FORMS,
) -> list[Form]:
    """Return every form of the canonical graph `blocks` with the cost of its `block`, the cheapest first.

    Forms are ordered by launches, then by bytes. `folder` holds the weights; graphs and plans are written there and
    deleted. Forms with equal graphs are built once. Forms that TensorRT refuses come last, with the reason.

    Raises:
        EngineError: TensorRT refuses every form, or a plan cannot be read.
    """
    proto = ir.to_proto(blocks)
    built: dict[str, Form] = {}
    found: list[Form] = []
    for dialect in forms:
        model = lower(ir.from_proto(proto), dialect)
        key = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()
        if key not in built:
            built[key] = _tried(model, dialect, block, folder, target, profiles)
        found.append(replace(built[key], dialect=dialect))
    if not any(form.costs for form in found):
        raise EngineError(f"{blocks.graph.name}: no form of it builds for {target.name}: {found[0].refused}")
    return sorted(found, key=_order)


def cheapest_form(forms: Sequence[Form], most_launches: int | None = None) -> Form:
    """Return the form with the fewest bytes among those of at most `most_launches`, or the first of `forms`.

    One launch less may need one more pass over the activations, so bytes decide among forms with few launches.
    """
    few = [form for form in forms if form.costs and most_launches is not None and form.launches <= most_launches]
    return min(few, key=lambda form: (form.bytes is None, form.bytes or 0, form.launches), default=forms[0])


def block_cost(plan: Path, block: str, profiles: Sequence[Mapping[str, Shapes]]) -> tuple[BlockCost, ...]:
    """Return the cost of `block` in each profile of `plan`.

    Raises:
        EngineError: the plan's schedules cannot be read, or do not name the block.
    """
    text = read_plan(plan)
    if len(text.schedules) != max(len(profiles), 1):
        why = "; ".join(text.unreadable) or f"{len(text.schedules)} schedules for {len(profiles)} profiles"
        raise EngineError(f"{plan.name}: forms cannot be counted ({why}); name one by --attention")
    costs = [
        _cost(schedule, block, {name: shapes[1] for name, shapes in profile.items()})
        for schedule, profile in zip(text.schedules, profiles or [{}], strict=True)
    ]
    if not all(cost.launches for cost in costs):
        raise EngineError(f"{plan.name}: no kernel of {block} found; keep module paths in the names of nodes")
    return tuple(costs)


def _tried(
    model: ir.Model,
    dialect: Dialect,
    block: str,
    folder: Path,
    target: Target,
    profiles: Sequence[Mapping[str, Shapes]],
) -> Form:
    graph, plan = folder / "form.onnx", folder / "form.plan"
    try:
        ir.save(model, graph)
        build_plan(graph, plan, target=target, profiles=profiles)
        costs = block_cost(plan, block, profiles)
    except EngineError as error:
        logger.info("%s: %s", dialect, error)
        return Form(dialect=dialect, block=block, costs=(), refused=str(error))
    finally:
        graph.unlink(missing_ok=True)
        plan.unlink(missing_ok=True)
    return Form(dialect=dialect, block=block, costs=costs)


def _cost(schedule: Schedule, block: str, shapes: Mapping[str, Sequence[int]]) -> BlockCost:
    own = [launch for launch in launches_of(schedule) if launch.block == block]
    return BlockCost(
        launches=len(own), bytes=_bytes(own, schedule, shapes), kernels=tuple(launch.step.name for launch in own)
    )


def _bytes(launches: Sequence[Launch], schedule: Schedule, shapes: Mapping[str, Sequence[int]]) -> int | None:
    sizes = sizes_of(schedule.program, shapes)
    moved = [traffic_of(launch.step, schedule.program, sizes) for launch in launches]
    known = [traffic.bytes for traffic in moved if traffic is not None]
    return sum(known) if len(known) == len(moved) else None


def _order(form: Form) -> tuple[bool, int, bool, int]:
    return (not form.costs, form.launches, form.bytes is None, form.bytes or 0)
