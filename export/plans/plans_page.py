"""Write the HTML page about the plans of one target, with each plan at the shapes that it is optimized for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from internvl_edge.export.run.producer import code_digest
from internvl_edge.export.run.staging import key_of
from internvl_edge.runtime.bundle.engines import EngineRecord, GraphEngines, PlanRecord
from internvl_edge.runtime.errors import EngineError, ExportError
from internvl_edge.runtime.inspect.plan.schedule import PlanText, read_plan
from internvl_edge.runtime.inspect.plan.symbols import inputs_of
from internvl_edge.runtime.inspect.xray.xray_page import Cover, render_page
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray, blank_xray, xray_of_text
from internvl_edge.runtime.replace_file import replace_file
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.targets import find_target

PAGE_FILE = "reports/engine.html"
"""Path of the page in the bundle; it is about the target that was built last."""
Phases = Mapping[str, Sequence[str]]
"""Graph -> names of the phases that its profiles are for; empty for a graph with one profile."""
_HEAD_BYTES = 4096
"""Number of bytes at the start of a page that contain its mark."""


def write_plans_page(bundle: Path, folder: Path, record: EngineRecord, phases: Phases) -> Path:
    """Write the page about the plans in `folder` into `bundle` unless it is current, and return its path.

    `phases` names the profiles.

    Raises:
        ExportError: the page cannot be written.
    """
    page, name = bundle / PAGE_FILE, bundle.resolve().name
    mark = key_of(code_digest(), name, record.target, record.version, [_identity(e) for e in record.graphs.values()])
    if _has_mark(page, mark):
        return page
    cover = Cover(
        title=f"X-ray of {name} for {record.target}",
        lines=(
            f"Bundle {name}, target {record.target} (sm_{record.sm}), plans by {record.flavour} {record.version}, "
            "each at the sizes that it was tuned for.",
            "Read from the plans' bytes, nothing was run: all times are predictions, not measurements.",
        ),
        mark=mark,
    )
    try:
        html = render_page(xrays_of(folder, record, phases), cover)
        replace_file(page, html.encode(errors="backslashreplace"))
    except OSError as error:
        raise ExportError(
            f"{page}: cannot be written ({error.strerror}); the plans are built, run the same build again for the page"
        ) from error
    return page


def xrays_of(folder: Path, record: EngineRecord, phases: Phases) -> dict[str, PlanXray]:
    """Return the analysis of each plan in `folder` and profile, by heading; unreadable plans have the reason."""
    target = find_target(record.target)
    return {
        heading: found
        for name, engines in record.graphs.items()
        for heading, found in _graph_xrays(engines, folder, target, phases.get(name, ()))
    }


def _graph_xrays(
    engines: GraphEngines, folder: Path, target: Target, phases: Sequence[str]
) -> Iterator[tuple[str, PlanXray]]:
    """Yield heading and analysis of the plans of one graph; output shapes of a part are input shapes of the next."""
    known = [{value: shapes[1] for value, shapes in profile.items()} for profile in engines.profiles]
    for plan in engines.plans:
        path = folder / plan.file
        try:
            text = read_plan(path)
        except EngineError as error:
            yield plan.file, blank_xray(plan.file, plan.bytes, target, (_reason(error, path),))
            continue
        if not text.schedules:
            yield plan.file, blank_xray(plan.file, plan.bytes, target, text.unreadable)
            continue
        for index, sizes in enumerate(known):
            found = _seen(text, target, sizes, index)
            sizes |= _outputs(found, plan)
            yield f"{plan.file}{_profile_suffix(phases, index, len(known))}", found


def _seen(text: PlanText, target: Target, known: Mapping[str, Sequence[int]], profile: int) -> PlanXray:
    """Return the analysis of one profile of a plan, at the shapes of its inputs in `known`."""
    inputs = inputs_of(text.schedules[profile].program) if profile < len(text.schedules) else {}
    try:
        sizes = {name: known[name] for name in inputs if name in known}
        return xray_of_text(text, target=target, sizes=sizes, profile=profile)
    except EngineError as error:
        return blank_xray(text.path.name, text.bytes, target, (_reason(error, text.path),))


def _outputs(found: PlanXray, plan: PlanRecord) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a plan's outputs by their names in the graph, which `plan` has in the same order."""
    pairs = list(zip(plan.outputs, found.outputs.items(), strict=False))
    if len(plan.outputs) != len(found.outputs) or any(seen in plan.outputs and seen != n for n, (seen, _) in pairs):
        return {}
    return {name: shape for name, (_, shape) in pairs if shape is not None}


def _profile_suffix(phases: Sequence[str], index: int, count: int) -> str:
    """Return the suffix of the heading for a profile; empty if it is the only one."""
    return "" if count == 1 else f", {phases[index] if len(phases) == count else f'profile {index}'}"


def _reason(error: EngineError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")  # the page has its own heading, and must not show local paths


def _identity(engines: GraphEngines) -> tuple[object, ...]:
    return (engines.profiles, [(plan.file, plan.sha256) for plan in engines.plans])


def _has_mark(page: Path, mark: str) -> bool:
    """Return whether `page` exists and contains `mark`."""
    try:
        with page.open("rb") as file:
            return mark.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False
