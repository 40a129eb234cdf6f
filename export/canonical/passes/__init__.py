"""Passes from the exporter's graph to the canonical one: standard operators of opset 23, readable names."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer

from internvl_edge.export.canonical.passes.absorb_head_layout import AbsorbHeadLayoutPass
from internvl_edge.export.canonical.passes.constant_reshape import ConstantReshapePass
from internvl_edge.export.canonical.passes.drop_default_attributes import DropDefaultAttributesPass
from internvl_edge.export.canonical.passes.name_nodes import NameNodesPass

PASSES: tuple[ir.passes.InPlacePass, ...] = (
    ConstantReshapePass(),
    AbsorbHeadLayoutPass(),
    DropDefaultAttributesPass(),
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass(),
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateInitializersPass(),
    common.RemoveUnusedNodesPass(),
    common.OutputFixPass(),
    NameNodesPass(),
    common.NameFixPass(),
    common.ClearMetadataAndDocStringPass(),
    common.TopologicalSortPass(),
)
"""Passes in their order, after onnxscript's inlining and folding.

They fix layouts, remove unused nodes, name nodes, and delete the exporter's metadata.
"""


def canonicalize(model: ir.Model) -> ir.Model:
    """Bring a traced graph into canonical form, in place; its weights need no values."""
    with _quiet_about_absent_weights():
        model = onnxscript.optimizer.optimize(model)
        for graph_pass in PASSES:
            model = graph_pass(model).model
    return model


@contextmanager
def _quiet_about_absent_weights() -> Iterator[None]:
    """Silence deduplication, which warns for each initializer without a value: here, for every weight."""
    deduplication = logging.getLogger("onnx_ir.passes.common.initializer_deduplication")
    level = deduplication.level
    deduplication.setLevel(logging.ERROR)
    try:
        yield
    finally:
        deduplication.setLevel(level)
