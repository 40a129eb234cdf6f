"""LoRA fine-tunes: adapters in PEFT's layout become weights that are merged when read (MODEL.md 2.3)."""

import re
from collections.abc import Mapping

from internvl_edge.export.tensor_files import LazyTensor, MergedTensor
from internvl_edge.runtime.errors import CheckpointError

_ADAPTER = re.compile(r"^(?P<path>.*)\.lora_(?P<side>[AB])(\.default)?\.weight$")
_SCALE = 2.0
"""alpha / rank: the reference trains with alpha = 2 * rank."""


def merge_lora(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor | MergedTensor]:
    """Return `tensors` without PEFT's wrappers: adapters folded into their base weights, wrapper names dropped.

    Raises:
        CheckpointError: an adapter without its other half or its base weight, all of them named.
    """
    adapters: dict[str, dict[str, LazyTensor]] = {}
    plain: dict[str, LazyTensor | MergedTensor] = {}
    for name, tensor in tensors.items():
        if match := _ADAPTER.match(name):
            adapters.setdefault(_unwrapped(match["path"]), {})[match["side"]] = tensor
        else:
            plain[_unwrapped(name)] = tensor
    alone = [path for path, sides in adapters.items() if set(sides) != {"A", "B"} or f"{path}.weight" not in plain]
    if alone:
        raise CheckpointError(
            f"LoRA adapters: incomplete at {', '.join(alone)}; merge them with PEFT or give all shards"
        )
    for path, sides in adapters.items():
        base = plain[f"{path}.weight"]
        assert isinstance(base, LazyTensor)
        name = f"{path}.weight"
        plain[name] = MergedTensor(name=name, base=base, down=sides["A"], up=sides["B"], scale=_SCALE)
    return plain


def _unwrapped(name: str) -> str:
    return name.replace(".base_model.model.", ".").replace(".base_layer.", ".")
