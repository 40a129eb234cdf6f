"""What is rewritten for a CPU, in order, and what there is to say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.backends.lowering.flash_attention import flash_attention
from internvl_edge.runtime.backends.lowering.integer_linears import fuse_linears, shift_activations
from internvl_edge.runtime.backends.lowering.memory import available_bytes
from internvl_edge.runtime.backends.lowering.onnx_model import BFLOAT16, OnnxModel
from internvl_edge.runtime.backends.lowering.prepacking import choose_prepacking
from internvl_edge.runtime.backends.lowering.processor import sums_of_bytes_saturate
from internvl_edge.runtime.backends.lowering.widen import NARROW, widen

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_NO_OTHER_FUSIONS = {"session.disable_quant_qdq": "1"}
"""ONNX Runtime's own rewriting of Q/DQ takes scales of input channels for those of output channels, and quantizes
activations that the graph does not: what is left to it here stays in floats."""
_WIDE_SUMS = {"session.x64quantprecision": "1"}
"""Unsigned by unsigned bytes, which every processor sums in 32 bits. ONNX Runtime converts packed weights alone, and
on a processor with VNNI the sums are as wide anyway, and faster."""
_BF16_PRODUCTS = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
"""An Arm processor that has bf16 units multiplies with them; any other multiplies in fp32."""


@dataclass(frozen=True, slots=True)
class LoweredGraph:
    """A model in memory that refers to the same files of weights as the one it was made of."""

    model: bytes
    config: Mapping[str, str]
    """ONNX Runtime's session options that belong to it."""
    settings: Mapping[str, str]
    """What was done, in words."""
    weights: int
    """How many values its constants have."""
    arena: bool = True
    """Whether ONNX Runtime may keep the memory of one run for the next."""


def lower(graph_file: Path, bf16: bool = False) -> LoweredGraph:
    """Return the graph of a file, rewritten for a CPU; with `bf16` products may be in it whatever the graph has.

    Raises:
        ValueError: the file holds no model.
    """
    model = OnnxModel(graph_file.read_bytes(), graph_file.parent)
    config = {_WEIGHTS_FOLDER: str(graph_file.parent), **_NO_OTHER_FUSIONS}
    settings: dict[str, str] = {}
    if any(node.has_graphs for node in model.nodes):  # bodies of loops and branches are not looked into
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
    wide = products > 0 and sums_of_bytes_saturate()
    packing = choose_prepacking(model, None if wide else available_bytes())
    settings["weights"] = packing.reason
    config |= {**packing.config, **(_WIDE_SUMS if wide else {})}
    return LoweredGraph(model.encode(), config, settings, _weights(model), packing.arena)


def _weights(model: OnnxModel) -> int:
    return sum(tensor.size for tensor in model.initializers.values())
