"""What attention costs as MatMul, Softmax, MatMul, read from plans: `python benchmarks/attention_pattern.py` prints it.

Counted is what runs between the products before and after, in plans of TensorRT-RTX for sm_89 with the form that the
dialect takes. Plans of the standard TensorRT do not tell; that both share a code generator is an assumption.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternCost:
    """What one attention launches and moves."""

    launches: int
    passes: float
    """Bytes, as a multiple of what a plugin moves at least: each input and output once, in 16 bits."""
    scaling: int
    """Launches among these that scale products of 8-bit codes: they stay where a plugin takes the attention."""


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
"""By plugin; matching was not counted apart: it differs from a text by its mask alone."""

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
"""Between linears of 8 bits."""
