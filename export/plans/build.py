"""Build the plans of a bundle: what `internvl-edge build` does, step by step.

If this machine cannot build for the target, it writes a kit for the device instead.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from internvl_edge.export.engine.blueprint import BLUEPRINT_FILE, Blueprint, GraphParts, Part
from internvl_edge.export.engine.build_process import BuilderMemoryError, Built, Job, build_in_process
from internvl_edge.export.engine.profiles import AxisRanges, parse_range, profiles_for
from internvl_edge.export.engine.retry_ladder import BuildLimits, retry_with_less
from internvl_edge.export.plans.kit import KitReport, make_kit
from internvl_edge.export.plans.plans_page import write_plans_page
from internvl_edge.export.run.producer import code_digest
from internvl_edge.export.run.staging import Staging, key_of, staged
from internvl_edge.runtime.backends.cuda import Device, find_device
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import (
    ENGINE_FILE,
    EngineRecord,
    GraphEngines,
    PlanRecord,
    plan_findings,
    plan_of,
    require_engines,
    scales_digest,
    weight_digests,
)
from internvl_edge.runtime.errors import BundleError, EngineError, ExportError
from internvl_edge.runtime.file_copy import hard_link_or_copy
from internvl_edge.runtime.numbers.formats import PRECISIONS
from internvl_edge.runtime.progress import Progress, Silent
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.estimate import Limits, part_bytes, require_room
from internvl_edge.runtime.targets.flavour import Flavour, flavour_for, launches_plugins
from internvl_edge.runtime.targets.targets import find_target, require_precision

ATTENTIONS = ("auto", "op", "pattern", "plugin")

Builder = Callable[[Job], Built]
"""Function that builds one plan."""
_DETAILED = "layers in detail"
"""Part of every plan's key, so that plans from before detailed layer information are built again."""

_NO_LAUNCHES = "plans of {} do not show their launches"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of one build and their defaults."""

    target: str | None = None
    """Name of the target device; None takes that of a kit."""
    graphs: tuple[str, ...] | None = None
    """Names of the graphs to build; None builds every graph of the bundle."""
    ranges: AxisRanges = field(default_factory=AxisRanges)
    limits: Limits = field(default_factory=Limits)
    attention: str = "auto"
    """Form of attention, one of `ATTENTIONS`; ``auto`` takes the fastest that the library supports."""
    search_forms: bool = False
    """Whether to build a few blocks of each graph in every form and take the one with the fewest launches and bytes.

    Otherwise the default form is used, which an earlier search found.
    """
    output: Path | None = None
    """Folder of a kit; None places it beside the bundle, named after the bundle and the target."""

    def __post_init__(self) -> None:
        """Check the form of attention.

        Raises:
            EngineError: it is not known.
        """
        if self.attention not in ATTENTIONS:
            raise EngineError(f"--attention {self.attention}: unknown; choose from {', '.join(ATTENTIONS)}")


def build_options(
    *,
    batch: str,
    text_length: str,
    max_host_mem: int | None,
    **settings: Any,
) -> BuildOptions:
    """Return the options of a build from texts of the command line.

    Raises:
        EngineError: a text is no range.
    """
    ranges = AxisRanges(batch=parse_range("--batch", batch), text_length=parse_range("--text-length", text_length))
    return BuildOptions(ranges=ranges, limits=Limits(host_bytes=max_host_mem), **settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """Result of a build."""

    target: Target
    folder: Path
    """Folder of the plans."""
    record: EngineRecord
    reused: tuple[str, ...]
    """Names of the graphs whose plans were current and were kept."""
    page: Path | str
    """Path of the HTML page about the plans, or the reason why there is none."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuildContext:
    """Values that all steps of a build share."""

    bundle: Bundle
    target: Target
    flavour: Flavour
    flags: Mapping[str, Any]
    options: BuildOptions


def build(path: Path, options: BuildOptions, progress: Progress | None = None) -> BuildReport | KitReport:
    """Build the plans of the bundle in folder `path`, or write a kit if no library here builds for the target.

    Raises:
        EdgeError: the bundle, an option, a graph or the library is not valid.
    """
    progress = progress or Silent()
    with progress.task("Opening", 1, "bundle") as advance:
        bundle = Bundle.open(path)
        advance(1)
    kit = Blueprint.load(path) if (path / BLUEPRINT_FILE).exists() else None
    target = _target(path, options, kit)
    require_precision(target, bundle.manifest.precision)
    bundle.require(*(options.graphs or ()))
    flavour = flavour_for(target)
    if flavour is not None or kit is None:
        _require_room(bundle, options, kit)
    if flavour is not None:
        return build_plans(bundle, target, flavour, options, kit, progress)
    if kit is not None:
        found = find_device()
        here = f"sm_{found.sm} ({found.name})" if isinstance(found, Device) else found
        raise EngineError(
            f"{path}: a kit for {target.name} (sm_{target.sm}), here is {here}; copy it to the device and run "
            "`internvl-edge build` there, with its TensorRT installed"
        )
    return make_kit(bundle, target, options.ranges, options.limits, options.attention, options.output, options.graphs)


def build_plans(
    bundle: Bundle,
    target: Target,
    flavour: Flavour,
    options: BuildOptions,
    kit: Blueprint | None = None,
    progress: Progress | None = None,
    builder: Builder = build_in_process,
) -> BuildReport:
    """Build the plans of `bundle` into ``engines/<target>``, whole or not at all; current plans are kept.

    Raises:
        EngineError: the library refuses a graph, or memory runs out with the smallest limits too.
    """
    started = time.monotonic()
    if options.search_forms and flavour.name != "tensorrt_rtx":
        raise EngineError(f"--search-forms: {_NO_LAUNCHES.format(flavour.name)}; leave it out")
    folder = bundle.path / "engines" / target.name
    flags = kit.flags if kit is not None else _flags(flavour, target, options, bundle.manifest.precision)
    context = _BuildContext(bundle=bundle, target=target, flavour=flavour, flags=flags, options=options)
    names = options.graphs or tuple(kit.graphs if kit is not None else bundle.manifest.graphs)
    keys = {name: _key(context, name) for name in names}
    with staged(folder, _run_key(keys), "plans", ENGINE_FILE) as staging:
        held = _current(folder, keys)
        engines = _others(context, folder, names)
        for other in engines.values():
            _keep(other, folder, staging.folder)
        with (progress or Silent()).task(f"Building plans for {target.name}", len(names), "graphs") as advance:
            for name in names:
                if name in held:
                    engines[name] = _keep(held[name], folder, staging.folder)
                else:
                    engines[name] = _build_graph(context, name, keys[name], kit, staging, builder)
                advance(1)
        record = _record(context, engines)
        record.save(staging.folder)
    return BuildReport(
        target=target,
        folder=folder,
        record=record,
        reused=tuple(held),
        page=_page(bundle, folder, record),
        seconds=time.monotonic() - started,
    )


def _require_room(bundle: Bundle, options: BuildOptions, kit: Blueprint | None) -> None:
    """Check that the smallest possible parts of the graphs can be built in the memory that the user allows."""
    if options.limits.host_bytes is None:
        return
    names = options.graphs or tuple(kit.graphs if kit is not None else bundle.manifest.graphs)
    if kit is not None:
        smallest = {name: max(part.weight_bytes for part in kit.graphs[name].parts) for name in names}
        require_room(options.limits, smallest, "a part of the kit", "or make the kit with this limit")
    else:
        smallest = {name: _sizes(bundle, name)[1] for name in names}
        require_room(options.limits, smallest, "a block", "or build fewer --graphs")


def _target(path: Path, options: BuildOptions, kit: Blueprint | None) -> Target:
    if kit is None and options.target is None:
        raise EngineError(f"{path}: no target given; add --target (see `internvl-edge targets`)")
    if kit is not None and options.target not in (None, kit.target):
        raise EngineError(
            f"--target {options.target}: {path} is a kit for {kit.target}; make another from the bundle, "
            "or leave the option out"
        )
    return find_target(kit.target if kit is not None else str(options.target))


def _flags(flavour: Flavour, target: Target, options: BuildOptions, precision: str | None) -> dict[str, Any]:
    from internvl_edge.export.dialects import dialect_for

    row = PRECISIONS.get(precision or "")
    dialect = dialect_for(
        attention=flavour.capabilities.attention,
        wanted=options.attention,
        quantized=row is not None and row.activations is not None,  # linears multiply codes
        plugins=flavour.capabilities.plugins_aot,
        plugins_v3=launches_plugins(flavour),
        sm=target.sm,
        batch=options.ranges.batch[1],
    )
    return {**asdict(dialect), "code": code_digest()}


def _run_key(keys: Mapping[str, str]) -> dict[str, object]:
    """Return the key of a build: each graph with its weights and settings, and the program."""
    return {**{f"graph {name}": key for name, key in keys.items()}, "the program's code": code_digest()}


def _key(context: _BuildContext, name: str) -> str:
    """Return the digest of everything that the plans of graph `name` depend on."""
    manifest, options = context.bundle.manifest, context.options
    return key_of(
        manifest.files[manifest.graphs[name].file].sha256,
        sorted(weight_digests(context.bundle).items()),
        scales_digest(context.bundle),
        sorted(context.flags.items()),
        (context.flavour.name, context.flavour.version, context.target.sm),
        _DETAILED,
        (options.ranges, options.limits, options.search_forms),
    )


def _current(folder: Path, keys: Mapping[str, str]) -> dict[str, GraphEngines]:
    """Return the plans in `folder` that are undamaged and have the current key."""
    try:
        record = EngineRecord.load(folder)
    except BundleError:
        return {}  # missing or damaged: all plans are built
    return {
        name: engines
        for name, engines in record.graphs.items()
        if keys.get(name) == engines.key and not any(f for plan in engines.plans for f in plan_findings(plan, folder))
    }


def _others(context: _BuildContext, folder: Path, names: Sequence[str]) -> dict[str, GraphEngines]:
    """Return the plans in `folder` of other graphs than `names`, if they still belong to this bundle."""
    try:
        record = EngineRecord.load(folder)
        require_engines(
            context.bundle, folder, flavour=context.flavour.name, version=context.flavour.version, sm=context.target.sm
        )
    except BundleError:
        return {}
    return {name: engines for name, engines in record.graphs.items() if name not in names}


def _keep(engines: GraphEngines, folder: Path, staging: Path) -> GraphEngines:
    for plan in engines.plans:
        hard_link_or_copy(folder / plan.file, staging / plan.file)
    return engines


def _build_graph(
    context: _BuildContext, name: str, key: str, kit: Blueprint | None, staging: Staging, builder: Builder
) -> GraphEngines:
    """Build all parts of one graph, with smaller limits if memory runs out, and without plugins if they fail."""
    work = staging.folder / "work"
    form = _form(context, name, kit, staging, work)

    def attempt(limits: BuildLimits, context: _BuildContext = context) -> GraphEngines:
        root = context.bundle.path if kit is not None else work
        graph = kit.graphs[name] if kit is not None else _lowered(context, name, form, limits, work)
        ranges = _with_largest_batch(context.options.ranges, limits.largest_batch)
        plans = [_build_part(context, name, part, root, ranges, limits, staging, builder) for part in graph.parts]
        profiles = profiles_for(name, context.bundle.manifest.graphs[name].inputs, context.bundle.manifest, ranges)
        return GraphEngines(
            graph_sha256=graph.graph_sha256, key=key, profiles=tuple(profiles), plans=tuple(plans), form=form
        )

    limits = BuildLimits(largest_batch=context.options.ranges.batch[2], part_bytes=part_bytes(context.options.limits))
    sizes = (0, 0) if kit is not None else _sizes(context.bundle, name)
    fell_back = ""
    try:
        engines, gave_up = retry_with_less(attempt, limits, *sizes)
    except BuilderMemoryError:
        raise
    except EngineError as error:
        if context.flags.get("attention") != "best" or kit is not None:
            raise
        fell_back = str(error)
        plain = replace(context, flags={**context.flags, "attention": "pattern"})
        engines, gave_up = retry_with_less(partial(attempt, context=plain), limits, *sizes)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return replace(engines, gave_up=tuple(gave_up), fell_back=fell_back)


def _form(
    context: _BuildContext, name: str, kit: Blueprint | None, staging: Staging, work: Path
) -> dict[str, Any] | None:
    """Return the record of the form that a search chose for a graph; None without a search or for too few blocks."""
    if not context.options.search_forms or kit is not None:
        return None
    done = staging.finished(f"form {name}")
    if done is None:
        from internvl_edge.export.plans.search import best_form

        found = best_form(context.bundle, name, context.target, context.options.ranges, work)
        done = {"form": found.record() if found is not None else None}
        staging.finish(f"form {name}", done)
    form: dict[str, Any] | None = done["form"]
    return form


def _sizes(bundle: Bundle, name: str) -> tuple[int, int]:
    """Return the bytes of weights of a graph and of its largest block."""
    import onnx_ir as ir

    from internvl_edge.export.plans.lower_graph import block_bytes, weight_bytes

    model = ir.load(bundle.graph_file(name))
    return weight_bytes(model), block_bytes(model)


def _lowered(
    context: _BuildContext, name: str, form: Mapping[str, Any] | None, limits: BuildLimits, work: Path
) -> GraphParts:
    from internvl_edge.export.dialects import Dialect
    from internvl_edge.export.plans.lower_graph import lower_graph

    written = form["dialect"] if form is not None else {k: v for k, v in context.flags.items() if k != "code"}
    return lower_graph(context.bundle, name, Dialect(**written), limits.part_bytes, work)


def _build_part(
    context: _BuildContext,
    name: str,
    part: Part,
    root: Path,
    ranges: AxisRanges,
    limits: BuildLimits,
    staging: Staging,
    builder: Builder,
) -> PlanRecord:
    """Build one plan unless an interrupted run has built it, and return its record."""
    stage = f"plan {part.name} {key_of(part.outputs, ranges, limits)}"
    done = staging.finished(stage)
    file = f"{part.name}.plan"
    if done is None:
        built = builder(
            Job(
                onnx_file=root / part.file,
                plan_file=staging.folder / file,
                flavour=context.flavour.name,
                target=context.target.name,
                profiles=profiles_for(name, part.inputs, context.bundle.manifest, ranges),
                workspace_bytes=limits.workspace_bytes,
            )
        )
        done = {key: value for key, value in asdict(built).items() if key != "version"}
        staging.finish(stage, done)
    return plan_of({"file": file, "inputs": [i.name for i in part.inputs], "outputs": part.outputs, **done})


def _page(bundle: Bundle, folder: Path, record: EngineRecord) -> Path | str:
    """Write the page about the plans and return its path, or return why there is none; plans stay valid without it."""
    if record.flavour != "tensorrt_rtx":
        return _NO_LAUNCHES.format(record.flavour)
    phases = {name: graph.use.phases for name, graph in bundle.manifest.graphs.items()}
    try:
        return write_plans_page(bundle.path, folder, record, phases)
    except ExportError as error:
        return str(error)


def _with_largest_batch(ranges: AxisRanges, batch: int) -> AxisRanges:
    low, usual, high = (min(value, batch) for value in ranges.batch)
    return replace(ranges, batch=(low, usual, high))


def _record(context: _BuildContext, engines: Mapping[str, GraphEngines]) -> EngineRecord:
    device = find_device()
    return EngineRecord(
        target=context.target.name,
        sm=context.target.sm,
        flavour=context.flavour.name,
        version=context.flavour.version,
        driver=device.driver if isinstance(device, Device) else None,
        flags=context.flags,
        weights=weight_digests(context.bundle),
        scales_sha256=scales_digest(context.bundle),
        graphs=engines,
    )
