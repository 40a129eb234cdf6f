"""The X-ray of one plan: all that its bytes show and all that is predicted from them, as a value and as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.flops import CODES, MatrixWork, matrix_work
from internvl_edge.runtime.inspect.plan.launches import (
    Launch,
    MiddleBlock,
    launches_of,
    launches_per_block,
    middle_block,
)
from internvl_edge.runtime.inspect.plan.quantization import QdqRoles, qdq_roles
from internvl_edge.runtime.inspect.plan.roofline import predict
from internvl_edge.runtime.inspect.plan.schedule import PlanText, Schedule, read_plan
from internvl_edge.runtime.inspect.plan.symbols import Sizes, outputs_of, sizes_of
from internvl_edge.runtime.inspect.plan.traffic import activation_bytes, traffic_of, weight_bytes
from internvl_edge.runtime.targets.data_sheet import Target

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel launch; None for values that cannot be read from the plan."""

    index: int
    kind: str
    name: str
    category: str
    operations: tuple[str, ...]
    block: str
    layers: tuple[str, ...]
    modules: tuple[str, ...]
    read_bytes: int | None
    weight_bytes: int | None
    """Bytes of weights, which are part of ``read_bytes``."""
    written_bytes: int | None
    at_most: bool
    """Whether it may read less than ``read_bytes``, since it slices an operand."""
    flops: int | None
    """FLOPs of matrix products; element-wise arithmetic is not counted."""
    dtype: str
    """Type of the operands of its matrix products."""
    quantizes: str
    dequantizes: str
    bound: str
    predicted_ms: float | None

    @property
    def bytes(self) -> int | None:
        """Return the bytes read and written."""
        known = self.read_bytes is not None and self.written_bytes is not None
        return (self.read_bytes or 0) + (self.written_bytes or 0) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over some kernels; unknown values count as 0, and ``unknown`` is the number of kernels with such values."""

    launches: int
    read_bytes: int
    weight_bytes: int
    written_bytes: int
    flops: int
    predicted_ms: float | None
    unknown: int

    @property
    def bytes(self) -> int:
        """Return the bytes read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanXray:
    """The X-ray of a plan: one optimization profile at given sizes."""

    plan: str
    plan_bytes: int
    sm: int | None
    """Compute capability that the plan names, or None."""
    target: str
    source: str | None
    """Source of the data sheet that predictions use; None: there are no predictions."""
    profile: int
    profiles: int
    shapes: Mapping[str, tuple[int, ...]]
    """Input -> its shape."""
    outputs: Mapping[str, tuple[int, ...] | None]
    """Output -> its shape, in the graph's order; TensorRT renames some outputs, for example to ``__mye37985``."""
    assumed: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    total: Sums
    blocks: Mapping[str, Sums]
    middle: MiddleBlock | None
    fused_attention: Mapping[str, int]
    """Attention kernel -> number of its launches."""
    unfused_attention: tuple[str, ...]
    """Blocks without an attention kernel."""
    quantized_share: float | None
    """Part of the FLOPs of matrix products that has 8-bit operands; None without FLOPs."""
    high_precision: Mapping[str, float]
    """Module of matrix products with wider operands -> their part of all FLOPs; empty if none are quantized."""
    activation_bytes: int | None
    """Memory of activations and scratch at the profile's largest sizes."""
    constant_bytes: int
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]
    schema: int = SCHEMA


def xray(
    plan: Path, *, target: Target, sizes: Mapping[str, Sequence[int]] | None = None, profile: int | None = None
) -> PlanXray:
    """Return the X-ray of `plan` on `target`; `sizes` gives the shapes of its inputs by name.

    Axes not given take the smallest size of the profile. Without `profile` it is the first that `sizes` fit.

    Raises:
        EngineError: `plan` is no plan, or `sizes` fit none of its profiles.
    """
    return xray_of_text(read_plan(plan), target=target, sizes=sizes, profile=profile)


def xray_of_text(
    text: PlanText, *, target: Target, sizes: Mapping[str, Sequence[int]] | None = None, profile: int | None = None
) -> PlanXray:
    """Return the X-ray of a plan whose content was read; see `xray`.

    Raises:
        EngineError: `sizes` fit none of its profiles.
    """
    if not text.schedules:
        return blank_xray(str(text.path), text.bytes, target, text.unreadable)
    index, found = _profile(text, sizes or {}, profile)
    schedule = text.schedules[index]
    launches = launches_of(schedule)
    roles = qdq_roles(launches, schedule.program)
    seen = [_kernel(launch, role, schedule, found, target) for launch, role in zip(launches, roles, strict=True)]
    kernels = tuple(kernel for kernel, _ in seen)
    blocks = {block: _sums([k for k in kernels if k.block == block]) for block in launches_per_block(launches)}
    attention = Counter(k.name for k in kernels if k.category == "attention")
    with_attention = {k.block for k in kernels if k.category == "attention"}
    flops = sum(k.flops or 0 for k in kernels)
    narrow = sum(k.flops or 0 for k in kernels if k.dtype in CODES)
    return PlanXray(
        plan=str(text.path),
        plan_bytes=text.bytes,
        sm=schedule.program.sm,
        target=target.name,
        source=target.sheet.source if target.sheet is not None else None,
        profile=index,
        profiles=len(text.schedules),
        shapes=found.shapes,
        outputs=outputs_of(schedule.program, found),
        assumed=found.assumed,
        kernels=kernels,
        total=_sums(kernels),
        blocks=blocks,
        middle=middle_block(launches),
        fused_attention=dict(attention),
        unfused_attention=tuple(block for block in blocks if block and block not in with_attention),
        quantized_share=narrow / flops if flops else None,
        high_precision=_high(kernels, flops) if narrow else {},
        activation_bytes=activation_bytes(schedule.program),
        constant_bytes=weight_bytes(schedule.program),
        notes=_notes(schedule, target, [reason for _, reason in seen]),
        unreadable=(*text.unreadable, *_gaps(kernels)),
    )


def blank_xray(plan: str, plan_bytes: int, target: Target, unreadable: tuple[str, ...]) -> PlanXray:
    """Return the X-ray of a plan without a readable schedule."""
    return PlanXray(
        plan=plan,
        plan_bytes=plan_bytes,
        sm=None,
        target=target.name,
        source=None,
        profile=0,
        profiles=0,
        shapes={},
        outputs={},
        assumed=(),
        kernels=(),
        total=_sums(()),
        blocks={},
        middle=None,
        fused_attention={},
        unfused_attention=(),
        quantized_share=None,
        high_precision={},
        activation_bytes=None,
        constant_bytes=0,
        notes=(),
        unreadable=unreadable,
    )


def xray_json(found: PlanXray) -> dict[str, Any]:
    """Return the X-ray `found` as a JSON object."""
    return asdict(found)


def _profile(text: PlanText, sizes: Mapping[str, Sequence[int]], wanted: int | None) -> tuple[int, Sizes]:
    """Return index and sizes of profile `wanted`; without one, those of the first profile that `sizes` fit."""
    count = len(text.schedules)
    if wanted is not None and not 0 <= wanted < count:
        raise EngineError(f"{text.path}: has no profile {wanted}; it has {count}, counted from 0")
    first: EngineError | None = None
    for index in [wanted] if wanted is not None else range(count):
        try:
            return index, sizes_of(text.schedules[index].program, sizes)
        except EngineError as error:
            first = first or error
    assert first is not None
    raise EngineError(f"{text.path}: {first}") from first


def _kernel(launch: Launch, roles: QdqRoles, schedule: Schedule, sizes: Sizes, target: Target) -> tuple[Kernel, str]:
    """Return the kernel of a launch, and the reason why its time is not predicted, or ""."""
    traffic = traffic_of(launch.step, schedule.program, sizes)
    work = matrix_work(launch, schedule, sizes)
    prediction = predict(traffic, work, target.sheet)
    kernel = Kernel(
        index=launch.index,
        kind=launch.step.kind,
        name=launch.step.name,
        category=launch.category,
        operations=launch.operations,
        block=launch.block,
        layers=launch.step.layers,
        modules=launch.modules,
        read_bytes=traffic.read_bytes if traffic is not None else None,
        weight_bytes=traffic.weight_bytes if traffic is not None else None,
        written_bytes=traffic.written_bytes if traffic is not None else None,
        at_most=traffic is not None and traffic.at_most,
        flops=work.flops if work is not None else None,
        dtype=_dtype(work),
        quantizes=roles.quantizes,
        dequantizes=roles.dequantizes,
        bound=prediction.bound,
        predicted_ms=prediction.predicted_ms,
    )
    return kernel, prediction.reason


def _dtype(work: MatrixWork | None) -> str:
    return work.dtype if work is not None else ""


def _sums(kernels: Sequence[Kernel]) -> Sums:
    predicted = [kernel.predicted_ms for kernel in kernels if kernel.predicted_ms is not None]
    return Sums(
        launches=len(kernels),
        read_bytes=sum(kernel.read_bytes or 0 for kernel in kernels),
        weight_bytes=sum(kernel.weight_bytes or 0 for kernel in kernels),
        written_bytes=sum(kernel.written_bytes or 0 for kernel in kernels),
        flops=sum(kernel.flops or 0 for kernel in kernels),
        predicted_ms=sum(predicted) if predicted else None,
        unknown=sum(kernel.bytes is None or kernel.flops is None for kernel in kernels),
    )


def _high(kernels: Sequence[Kernel], flops: int) -> dict[str, float]:
    shares: Counter[str] = Counter()
    for kernel in kernels:
        if kernel.flops and kernel.dtype not in CODES:
            shares[next(iter(kernel.modules), kernel.name)] += kernel.flops
    return {module: share / flops for module, share in shares.most_common()}


def _notes(schedule: Schedule, target: Target, reasons: Sequence[str]) -> tuple[str, ...]:
    """Return sentences on what limits the meaning of the figures."""
    sm = schedule.program.sm
    notes = [f"the plan is for sm_{sm}, {target.name} is sm_{target.sm}"] if sm not in (None, target.sm) else []
    if target.sheet is None:
        return (*notes, f"{target.name} has no data sheet: nothing is predicted; name a device instead")
    counted = Counter(reason for reason in reasons if reason)
    return (*notes, *(f"{_kernels(number)} without a prediction: {reason}" for reason, number in counted.items()))


def _gaps(kernels: Sequence[Kernel]) -> list[str]:
    """Return sentences on how many kernels lack bytes or FLOPs, with an example."""
    without = {
        "bytes": [kernel.name for kernel in kernels if kernel.bytes is None],
        "FLOPs": [kernel.name for kernel in kernels if kernel.flops is None],
    }
    return [f"{what} of {_kernels(len(names))}, as {names[0]}" for what, names in without.items() if names]


def _kernels(number: int) -> str:
    return f"{number} kernel{'s' if number > 1 else ''}"
