"""Rewrite attention over many rows to `MultiHeadAttention`, whose kernel computes it block by block.

ONNX Runtime's `Attention` writes all scores of a head to memory and reads them again: at 1,025 tokens 4 MB for each
head, more than the cache of a core. `MultiHeadAttention` keeps one block at a time. It adds in another order, so that
results are equal to about 1e-6. With wide heads or few rows it is the slower of the two (`docs/tables/cpu.md`).
"""

from internvl_edge.runtime.backends.lowering.onnx_model import MICROSOFT, Node, OnnxModel

FEWEST_ROWS = 256
WIDEST_HEAD = 64
_KNOWN = {"q_num_heads", "kv_num_heads", "scale"}
"""Attributes that both kernels support. Others (a causal mask, a cap, another precision) exclude a node."""


def flash_attention(model: OnnxModel) -> int:
    """Rewrite each attention node that becomes faster; return their number."""
    found = [node for node in model.nodes if _gains(node, model)]
    for node in found:
        heads = node.integer("q_num_heads", 0)
        node.op_type, node.domain = "MultiHeadAttention", MICROSOFT
        node.attributes = {name: each for name, each in node.attributes.items() if name == "scale"}
        node.put_integer("num_heads", heads)
    if found:
        model.require_domain(MICROSOFT)
    return len(found)


def _gains(node: Node, model: OnnxModel) -> bool:
    """Return whether `node` is an attention ``[B, T, H * D]`` without mask or cache, long and with narrow heads."""
    if node.op_type != "Attention" or node.domain or len(node.inputs) != 3 or len(node.outputs) != 1:
        return False
    heads = node.integer("q_num_heads", 0)
    if not heads or node.integer("kv_num_heads", 0) != heads or not _KNOWN.issuperset(node.attributes):
        return False
    shapes = [model.shape(name) for name in node.inputs]
    if any(len(shape) != 3 for shape in shapes):
        return False
    rows, widths = [shape[1] or 0 for shape in shapes], {shape[2] for shape in shapes}
    width = widths.pop()
    return min(rows) >= FEWEST_ROWS and not widths and width is not None and width <= heads * WIDEST_HEAD
