"""Apply all rewrites for a CPU in order, and report them as settings of the session."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.backends.lowering.cached_attention import cached_attention
from internvl_edge.runtime.backends.lowering.flash_attention import flash_attention
from internvl_edge.runtime.backends.lowering.integer_linears import fuse_linears, shift_activations
from internvl_edge.runtime.backends.lowering.memory import available_bytes
from internvl_edge.runtime.backends.lowering.onnx_model import BFLOAT16, OnnxModel
from internvl_edge.runtime.backends.lowering.prepacking import choose_prepacking
from internvl_edge.runtime.backends.lowering.processor import sums_of_bytes_saturate
from internvl_edge.runtime.backends.lowering.widen import NARROW, widen

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_OTHER_FUSIONS = {"session.disable_quant_qdq": "1"}
"""Switches off ONNX Runtime's own fusions of Q/DQ, which mistake scales of input channels for those of output channels
and quantize activations that the graph does not. Q/DQ that is not fused here is computed in floats."""
_WIDE_SUMS = {"session.x64quantprecision": "1"}
"""Multiplies unsigned by unsigned bytes, which every processor sums in 32 bits. ONNX Runtime converts only packed
weights. Processors with VNNI do not need it: their sums have 32 bits anyway, and are faster."""
_BF16_PRODUCTS = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
"""Lets Arm processors with bf16 units use them; others multiply in fp32."""


@dataclass(frozen=True, slots=True)
class LoweredGraph:
    """A rewritten model in memory, which refers to the same weight files as the original."""

    model: bytes
    config: Mapping[str, str]
    """Session options of ONNX Runtime that the model needs."""
    settings: Mapping[str, str]
    """Descriptions of the rewrites, for the settings of the session."""
    weights: int
    """Number of values of its constants."""
    arena: bool = True
    """Whether ONNX Runtime may keep the memory of one run for the next."""
    appends: bool = False
    """Whether new keys and values are written into the cache where inputs and outputs have the same memory. Several
    rows of several positions each then need an empty cache."""


def lower(graph_file: Path, bf16: bool = False) -> LoweredGraph:
    """Return the graph of a file, rewritten for a CPU; with `bf16` products may be computed in bf16.

    Raises:
        ValueError: the file contains no model.
    """
    model = OnnxModel(graph_file.read_bytes(), graph_file.parent)
    config = {_WEIGHTS_FOLDER: str(graph_file.parent), **_NO_OTHER_FUSIONS}
    settings: dict[str, str] = {}
    if any(node.has_graphs for node in model.nodes):  # the rewrites do not handle bodies of loops and branches
        return LoweredGraph(model.encode(), config, settings, _weights(model))
    if narrow := widen(model):
        settings["floats"] = f"fp32 for {' and '.join(NARROW[dtype] for dtype in sorted(narrow))}"
    if bf16 or BFLOAT16 in narrow:
        config |= _BF16_PRODUCTS
    shift_activations(model)
    if products := fuse_linears(model):
        settings["integer products"] = str(products)
    if attentions := flash_attention(model):
        settings["attentions in blocks"] = str(attentions)
    if caches := cached_attention(model):
        settings["attentions in a cache"] = str(caches)
    wide = products > 0 and sums_of_bytes_saturate()
    packing = choose_prepacking(model, None if wide else available_bytes())
    settings["weights"] = packing.reason
    config |= {**packing.config, **(_WIDE_SUMS if wide else {})}
    return LoweredGraph(model.encode(), config, settings, _weights(model), packing.arena, caches > 0)


def _weights(model: OnnxModel) -> int:
    return sum(tensor.size for tensor in model.initializers.values())
