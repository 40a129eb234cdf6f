"""Costs of attention as MatMul, Softmax, MatMul, which `python benchmarks/attention_pattern.py` reads from plans.

They count the kernels between the linears before and after, in plans of TensorRT-RTX for sm_89 with the dialect's form.
Plans of the standard TensorRT do not show kernels; it is assumed to need the same.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternCost:
    """Launches and bytes of one attention as the pattern."""

    launches: int
    passes: float
    """Bytes moved, as a multiple of each input and output read or written once in 16 bits, a plugin's minimum."""
    scaling: int
    """Launches among these that scale products of 8-bit codes; a plugin does not replace them."""


WIDE = {
    "vit_attention": PatternCost(launches=3, passes=3.00, scaling=0),
    "vit_attention_plain": PatternCost(launches=2, passes=2.50, scaling=0),
    "qllama_queries": PatternCost(launches=2, passes=3.01, scaling=0),
    "query_cross_attention": PatternCost(launches=1, passes=1.00, scaling=0),
    "qllama_text": PatternCost(launches=2, passes=2.51, scaling=0),
    "qllama_matching": PatternCost(launches=2, passes=2.51, scaling=0),
    "qllama_prompt": PatternCost(launches=2, passes=2.01, scaling=0),
    "attention_pool": PatternCost(launches=2, passes=2.00, scaling=0),
}
"""Plugin -> cost between 16-bit linears; matching has the cost of text, which differs in the mask only."""

CODED = {
    "vit_attention": PatternCost(launches=4, passes=3.13, scaling=1),
    "vit_attention_plain": PatternCost(launches=3, passes=2.63, scaling=1),
    "qllama_queries": PatternCost(launches=3, passes=3.14, scaling=1),
    "query_cross_attention": PatternCost(launches=4, passes=2.80, scaling=2),
    "qllama_text": PatternCost(launches=3, passes=2.68, scaling=1),
    "qllama_matching": PatternCost(launches=3, passes=2.68, scaling=1),
    "qllama_prompt": PatternCost(launches=2, passes=2.01, scaling=1),
    "attention_pool": PatternCost(launches=2, passes=2.00, scaling=0),
}
"""Plugin -> cost between 8-bit linears."""
