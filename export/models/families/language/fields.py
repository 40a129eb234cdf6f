"""The fields that configs of all families of language models share, and what contradicts the graphs in them."""

from collections.abc import Mapping
from typing import Any

from internvl_edge.export.models.config import positive_int
from internvl_edge.export.models.families.common_fields import (
    CONFIG_FILE,
    LIBRARY,
    MIXTURE,
    OF_NO_TEXT,
    QUANTIZED_STORAGE,
    TIES,
    TRAINING,
)
from internvl_edge.export.models.families.fields import Field, FieldReader, Honoured, Limited, flag, harmless, only

SHARED: Mapping[str, Field] = {
    **LIBRARY,
    **TRAINING,
    **TIES,
    **QUANTIZED_STORAGE,
    **OF_NO_TEXT,
    **MIXTURE,
    "hidden_size": Honoured("hidden_size"),
    "num_attention_heads": Honoured("num_heads"),
    "num_key_value_heads": Honoured("num_kv_heads"),
    "num_hidden_layers": Honoured("num_layers"),
    "intermediate_size": Honoured("intermediate_size"),
    "head_dim": Honoured("head_dim"),
    "vocab_size": Honoured("vocab_size"),
    "rms_norm_eps": Honoured("eps"),
    "max_position_embeddings": Honoured("max_positions"),
    "rope_theta": Honoured("theta"),
    "rope_scaling": Honoured("rope_scaling"),
    "rope_parameters": Honoured("rope_parameters"),
    "sliding_window": Honoured("window"),
    "use_sliding_window": Honoured("window_used", flag),
    "hidden_act": only("silu", "swish", finding="is not silu"),
    "use_moe": only(False, finding="is a mixture of experts, which the graphs have not"),
    "partial_rotary_factor": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
    "layer_types": Limited(
        lambda value: isinstance(value, list) and set(value) <= {"full_attention"},
        "are attentions of other kinds than full_attention",
    ),
    "pruned_heads": only({}, finding="are heads that the graphs have"),
    **harmless("cache_implementation", "is_composition", "ignore_index", "keys_to_ignore_at_inference"),
    **harmless("debug", "micro_forward", "skip_checkpoint", "use_deepep", "fuse_cross_entropy"),
}
"""Settings of training and of the search are harmless, and ids of tokens, for which the conversation has rules."""


def check_window(fields: dict[str, Any], part: str, reader: FieldReader) -> None:
    """Report a sliding window that some layer would have, and remove the fields about it from `fields`."""
    window, used = fields.pop("window", None), fields.pop("window_used", True)
    first = fields.pop("window_from", 0)
    if window is None or not used:
        return
    counts = (window, first + 1 if isinstance(first, int) else first, fields["num_layers"], fields["max_positions"])
    if not all(map(positive_int, counts)) or (first < fields["num_layers"] and window < fields["max_positions"]):
        reader.find(CONFIG_FILE, f"{part}.sliding_window is {window!r}, but the graphs attend to the whole text")
