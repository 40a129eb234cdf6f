"""Choose the form of a graph for a target by building a few of its blocks in every form."""

from pathlib import Path

import onnx_ir as ir

from internvl_edge.export.canonical.tensor_specs import tensor_spec
from internvl_edge.export.dialects import Dialect
from internvl_edge.export.dialects.cut_blocks import BLOCKS, blocks_of, cut_blocks
from internvl_edge.export.engine.profiles import AxisRanges, profiles_for
from internvl_edge.export.numerics.values import is_narrow
from internvl_edge.export.plans.forms import FORMS, Form, cheapest_form, search_forms
from internvl_edge.export.plans.lower_graph import place_weights
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.targets.data_sheet import Target

_ALLOWED_LAUNCHES = 1
"""Launches above the fewest that are allowed for fewer bytes: a launch takes as long as moving a few megabytes."""


def best_form(bundle: Bundle, name: str, target: Target, ranges: AxisRanges, work: Path) -> Form | None:
    """Return the form of graph `name` with the fewest bytes among those with at most one launch above the fewest.

    Return None if the graph has fewer than `BLOCKS` blocks. Links to the weights stay in `work`.

    Raises:
        EngineError: TensorRT refuses every form, or plans cannot be read.
    """
    model = ir.load(bundle.graph_file(name))
    if len(blocks_of(model.graph)) < BLOCKS:
        return None
    work.mkdir(parents=True, exist_ok=True)
    place_weights(bundle, bundle.graph_file(name).parent, work)
    blocks, block = cut_blocks(model)
    inputs = [tensor_spec(value) for value in blocks.graph.inputs]
    profiles = profiles_for(name, inputs, bundle.manifest, ranges)
    forms = search_forms(blocks, block, work, target=target, profiles=profiles, forms=verified_forms(model.graph))
    return cheapest_form(forms, forms[0].launches + _ALLOWED_LAUNCHES)


def verified_forms(graph: ir.Graph) -> tuple[Dialect, ...]:
    """Return the forms whose values verification has measured.

    For 16-bit graphs, forms that scale the scores after their product are left out: unscaled scores are sqrt(D) times
    as large as those measured.
    """
    narrow = any(is_narrow(value) for node in graph for value in node.outputs)
    return tuple(form for form in FORMS if not (narrow and form.scale == "scores"))
