"""Build every graph of a bundle for the architectures of TensorRT-RTX, in the dialect that it gets."""

from collections.abc import Collection
from pathlib import Path

from internvl_edge.export.dialects import dialect_for
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.engine.profiles import AxisRanges, profiles_for
from internvl_edge.export.plans.lower_graph import lower_graph
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.targets.targets import find_target

GENERATIONS = {75: (), 89: (80, 86), 120: (121,)}
"""One architecture of each generation -> the others, which differ in tactics and in nothing that has a size."""


def build_every_graph(folder: Path, sm: int, work: Path, names: Collection[str] | None = None) -> dict[str, int]:
    """Return the bytes of the plan of every graph of the bundle in `folder`, or of those of `names`, for `sm`."""
    bundle = Bundle.open(folder, verify=False)
    found = {}
    for name in names or bundle.manifest.graphs:
        (part,) = lower_graph(bundle, name, dialect_for(attention=True), None, work).parts
        profiles = profiles_for(name, part.inputs, bundle.manifest, AxisRanges())
        plan = work / f"{name}.plan"
        info = build_plan(work / part.file, plan, target=find_target(f"sm_{sm}"), profiles=profiles)
        found[name] = info.bytes
        plan.unlink()
    return found


def build_generation(folder: Path, sm: int, work: Path) -> dict[str, int]:
    """Return the bytes of every graph's plan for `sm`, once the others of its generation have a plan of the same form.

    Those build the decoder: it has the most kinds of steps, and two profiles.
    """
    sizes = build_every_graph(folder, sm, work)
    for other in GENERATIONS[sm]:
        assert build_every_graph(folder, other, work, ["decoder"]) == {"decoder": sizes["decoder"]}, f"sm_{other}"
    return sizes
