"""Build every graph of a bundle for one architecture, in the dialect that TensorRT-RTX gets."""

from pathlib import Path

from internvl_edge.export.dialects import dialect_for
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.engine.profiles import AxisRanges, profiles_for
from internvl_edge.export.plans.lower_graph import lower_graph
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.targets.targets import find_target


def build_every_graph(folder: Path, sm: int, work: Path) -> dict[str, int]:
    """Return the bytes of the plan of every graph of the bundle in `folder` for `sm`."""
    bundle = Bundle.open(folder, verify=False)
    found = {}
    for name in bundle.manifest.graphs:
        (part,) = lower_graph(bundle, name, dialect_for(attention=True), None, work).parts
        profiles = profiles_for(name, part.inputs, bundle.manifest, AxisRanges())
        plan = work / f"{name}.plan"
        info = build_plan(work / part.file, plan, target=find_target(f"sm_{sm}"), profiles=profiles)
        found[name] = info.bytes
        plan.unlink()
    return found
