"""Decoders that are functions of ids, mask, positions and cache, as generation is tested with them."""

from collections.abc import Callable, Mapping

import numpy as np

from internvl_edge.runtime.backends.array_cache import ArrayCache
from internvl_edge.runtime.stages import Stages

Cache = Mapping[str, np.ndarray]
"""``present.*`` ``[R, heads, past, head]``."""
Step = Callable[[np.ndarray, np.ndarray, np.ndarray, Cache], tuple[np.ndarray, Cache]]
"""Ids ``[R, n]``, mask, positions and cache to logits ``[R, V]`` and the longer cache."""


def cached(step: Step, cache: Cache) -> ArrayCache:
    """Return the cache that generation steps through."""

    def run(inputs: Mapping[str, np.ndarray], stages: Stages) -> Mapping[str, np.ndarray]:
        past = {name.replace("past_key_values", "present"): inputs[name] for name in inputs if name.startswith("past")}
        ids, mask, positions = (inputs[name] for name in ("input_ids", "attention_mask", "position_ids"))
        logits, grown = step(ids, mask, positions, past)
        return {"logits": logits, **grown}

    return ArrayCache(run, cache)
