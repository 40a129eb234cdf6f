"""Number of matrix products in a Q/DQ graph whose inputs are both in 8 bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRODUCTS = ("MatMul", "Gemm")


def quantized_products(graph: Path) -> tuple[int, int]:
    """Return the number of products, attention's included, with both inputs in 8 bits, and the number of all."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    producers = {output: node for node in nodes for output in node.output}
    products = [node for node in nodes if node.op_type in PRODUCTS]
    quantized = [node for node in products if all(_is_dequantized(value, producers) for value in node.input[:2])]
    return len(quantized), len(products)


def _is_dequantized(value: str, producers: Mapping[str, Any]) -> bool:
    node = producers.get(value)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Cast", "Slice"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
