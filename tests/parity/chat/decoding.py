"""A greedy search on the graph `llm`, in torch or on ONNX Runtime, in as few lines as it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from internvl_edge.export.models.config import LanguageConfig
from internvl_edge.export.models.graph_modules.specs import PAST, PRESENT
from tests.golden_chat import GoldenChat

Arrays = dict[str, np.ndarray]
Graph = Callable[[Mapping[str, np.ndarray]], Arrays]
"""Function from the named inputs of a graph to its named outputs."""
NEW_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a greedy search gave."""

    ids: np.ndarray
    """New ids ``[B, new]``."""
    logits: np.ndarray
    """Logits ``[B, new, V]`` of every step, the first behind the prompt."""
    keys: np.ndarray
    """Keys of the prompt ``[layers, B, kv heads, n, D]``."""
    values: np.ndarray


def prompt_embeds(golden: GoldenChat, run: str, table: np.ndarray) -> np.ndarray:
    """Return the embeddings ``[B, n, H]`` of a recorded prompt, from the table and the recorded embeddings of tiles."""
    ids = golden.tensors[f"{run}.input_ids"]
    embeds = table[ids]
    if f"{run}.vit_embeds" in golden.tensors:
        tiles = golden.tensors[f"{run}.vit_embeds"]
        embeds[ids == golden.about["img_context_token_id"]] = tiles.reshape(-1, tiles.shape[-1])
    return embeds


def decoded(
    graph: Graph, config: LanguageConfig, golden: GoldenChat, run: str, table: np.ndarray, chunk: int | None = None
) -> Decoded:
    """Return the greedy answer to a recorded prompt, which goes in by `chunk` rows or at once."""
    embeds = prompt_embeds(golden, run, table)
    mask, positions = (golden.tensors[f"{run}.{name}"].astype(np.int64) for name in ("attention_mask", "position_ids"))
    request = int(positions.max()) + 1
    batch, length = mask.shape
    empty = np.zeros((batch, config.num_kv_heads, 0, config.head_dim), np.float32)
    past = {f"{PAST}{layer}.{part}": empty for layer in range(config.num_layers) for part in ("key", "value")}
    for start in range(0, length, chunk or length):
        rows = slice(start, start + (chunk or length))
        found = graph(_inputs(config, embeds[:, rows], mask[:, : rows.stop], positions[:, rows], request, past))
        past = _held(found)
    prompt, ids, logits = past, [], []
    for step in range(NEW_TOKENS):
        logits.append(found["logits"])
        ids.append(logits[-1].argmax(-1))
        if step < NEW_TOKENS - 1:
            mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
            positions = positions[:, -1:] + 1
            inputs = _inputs(config, table[ids[-1]][:, None], mask, positions, int(positions.max()) + 1, past)
            found = graph(inputs)
            past = _held(found)
    keys, values = (
        np.stack([value for name, value in prompt.items() if name.endswith(part)]) for part in ("key", "value")
    )
    return Decoded(ids=np.stack(ids, 1), logits=np.stack(logits, 1), keys=keys, values=values)


def _inputs(
    config: LanguageConfig, embeds: np.ndarray, mask: np.ndarray, positions: np.ndarray, request: int, past: Arrays
) -> Arrays:
    length = {"rope_length": np.array([request])} if config.rope.follows_length else {}
    return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, **length, **past}


def _held(found: Arrays) -> Arrays:
    return {name.replace(PRESENT, PAST): value for name, value in found.items() if name.startswith(PRESENT)}
