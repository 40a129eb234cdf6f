"""Rewrite the canonical graph for a TensorRT version: decompose newer operators, lower the opset, choose a form."""

import onnx_ir as ir
import onnx_ir.passes.common as common

from internvl_edge.export.dialects.decompose_attention import DecomposeAttentionPass
from internvl_edge.export.dialects.decompose_gelu import DecomposeGeluPass
from internvl_edge.export.dialects.decompose_norms import DecomposeNormsPass
from internvl_edge.export.dialects.decompose_rotary import DecomposeRotaryPass
from internvl_edge.export.dialects.dialect import (
    FEWEST_LAUNCHES,
    FEWEST_LAUNCHES_8_BITS,
    PORTABLE,
    Dialect,
    dialect_for,
)
from internvl_edge.export.dialects.join_heads import JoinHeadsPass
from internvl_edge.export.dialects.lower_opset import LowerOpsetPass
from internvl_edge.export.dialects.plugin_attention import PluginAttentionPass
from internvl_edge.export.dialects.slice_packed import SlicePackedPass

__all__ = ["FEWEST_LAUNCHES", "FEWEST_LAUNCHES_8_BITS", "PORTABLE", "Dialect", "dialect_for", "lower", "passes_of"]


def lower(model: ir.Model, dialect: Dialect) -> ir.Model:
    """Rewrite the canonical graph `model` to `dialect`, in place, without reading weights.

    Raises:
        EngineError: with all operators that the dialect's opset does not have.
    """
    for graph_pass in passes_of(dialect):
        model = graph_pass(model).model
    return model


def passes_of(dialect: Dialect) -> tuple[ir.passes.InPlacePass, ...]:
    """Return the passes for `dialect` in order: attention before norms and rotaries, which its passes match."""
    chosen: list[ir.passes.InPlacePass] = []
    if dialect.attention in ("plugin", "best"):
        weighed = dialect.batch if dialect.attention == "best" else None
        chosen.append(PluginAttentionPass(dialect.sm, weighed, dialect.plugin_version))
    if dialect.heads == "joined":
        chosen.append(JoinHeadsPass())
    if dialect.attention != "op":
        chosen.append(
            DecomposeAttentionPass(scale=dialect.scale, heads=dialect.heads, keys=dialect.keys, values=dialect.values)
        )
    if dialect.qkv == "slices":
        chosen.append(SlicePackedPass())
    if dialect.norms == "decomposed":
        chosen.append(DecomposeNormsPass())
    if dialect.rotary == "decomposed":
        chosen.append(DecomposeRotaryPass())
    if dialect.gelu == "decomposed":
        chosen.append(DecomposeGeluPass())
    return (*chosen, common.RemoveUnusedNodesPass(), LowerOpsetPass(dialect.opset))
