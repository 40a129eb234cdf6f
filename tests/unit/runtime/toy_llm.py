"""A small language model in NumPy: attention with grouped heads, rotary positions, and a cache, as the graph `llm`."""

from collections.abc import Mapping, Sequence

import numpy as np

from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.bundle.manifest import EmbeddingInfo, LanguageInfo
from internvl_edge.runtime.stages import UNMEASURED, Stages

VOCABULARY = 24
HIDDEN = 8
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 4
CONTEXT_ID = 20
"""Id of context tokens, whose embeddings are those of tiles."""
TILE_TOKENS = 3


def language_info(**changes: object) -> LanguageInfo:
    """Return the record of the model."""
    values: dict[str, object] = {
        "layers": LAYERS,
        "kv_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_size": HIDDEN,
        "vocab_size": VOCABULARY,
        "max_context": 200,
        "max_positions": 100,
        "tokens_per_tile": TILE_TOKENS,
        "embedding": EmbeddingInfo(file="weights", offset=0, dtype="float32", rows=VOCABULARY),
    }
    return LanguageInfo(**{**values, **changes})  # type: ignore[arg-type]


class ToyLlm:
    """The graph as a session, and its table of embeddings.

    Args:
        seed: of the weights.
        rope_limit: length beyond which angles depend on the length of the request; None: they never do.
        dtype: type of embeddings and cache.
    """

    backend = "toy"
    settings: Mapping[str, str] = {}

    def __init__(self, seed: int = 0, rope_limit: int | None = None, dtype: type = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.normal(size=(VOCABULARY, HIDDEN)).astype(dtype)
        widths = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM)
        self._layers = [
            ([rng.normal(size=(HIDDEN, width)) for width in widths], rng.normal(size=(HEADS * HEAD_DIM, HIDDEN)))
            for _ in range(LAYERS)
        ]
        self._head = rng.normal(size=(HIDDEN, VOCABULARY))
        self._limit = rope_limit
        self.columns: list[int] = []
        """Number of new columns of every call."""
        self.lengths: list[int] = []
        """The input `rope_length` of every call."""
        self.failing = False
        cache = (None, KV_HEADS, None, HEAD_DIM)
        names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
        integers = {"attention_mask": (None, None), "position_ids": (None, None)}
        if rope_limit is not None:
            integers["rope_length"] = (1,)  # type: ignore[assignment]
        floats = {"inputs_embeds": (None, None, HIDDEN)} | {f"past_key_values.{name}": cache for name in names}
        self.inputs = {name: TensorInfo(name, np.dtype(dtype), shape) for name, shape in floats.items()}
        self.inputs |= {name: TensorInfo(name, np.dtype(np.int64), shape) for name, shape in integers.items()}
        self.outputs = {"logits": TensorInfo("logits", np.dtype(np.float32), (None, VOCABULARY))}

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the embeddings of tokens."""
        return self.table[ids]

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        """Return logits and the longer cache."""
        if self.failing:
            raise ValueError("the graph fails")
        assert set(inputs) == set(self.inputs)
        assert all(inputs[name].dtype == info.dtype for name, info in self.inputs.items())
        x, positions, mask = (inputs[name] for name in ("inputs_embeds", "position_ids", "attention_mask"))
        self.columns.append(x.shape[1])
        past = inputs["past_key_values.0.key"].shape[2]
        assert mask.shape == (x.shape[0], past + x.shape[1])
        causal = np.arange(mask.shape[1]) <= np.arange(past, mask.shape[1])[:, None]
        bias = np.where(causal[None, None] & (mask[:, None, None] > 0), 0, -1e9)
        rotation = self._rotation(positions, inputs)
        x = x.astype(np.float64)
        given = {}
        for layer, (projections, out) in enumerate(self._layers):
            q, k, v = (self._heads(np.tanh(x) @ projection) for projection in projections)
            q, k = _rotated(q, rotation), _rotated(k, rotation)
            for part, new in (("key", k), ("value", v)):
                held = inputs[f"past_key_values.{layer}.{part}"]
                given[f"present.{layer}.{part}"] = np.concatenate([held, new.astype(held.dtype)], axis=2)
            keys, values = (
                np.repeat(given[f"present.{layer}.{part}"], HEADS // KV_HEADS, axis=1) for part in ("key", "value")
            )
            scores = q @ keys.transpose(0, 1, 3, 2) / np.sqrt(HEAD_DIM) + bias
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            attended = (weights / weights.sum(axis=-1, keepdims=True)) @ values
            x = x + attended.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) @ out
        return {"logits": (np.tanh(x[:, -1]) @ self._head).astype(np.float32), **given}

    def close(self) -> None:
        """Do nothing."""

    def embeds(self, ids: Sequence[int], tiles: np.ndarray | None) -> np.ndarray:
        """Return the embeddings ``[n, H]`` of one prompt, one position after the other."""
        rows, given = [], [] if tiles is None else list(tiles.reshape(-1, HIDDEN))
        for token in ids:
            rows.append(given.pop(0) if token == CONTEXT_ID and given else self.table[token])
        return np.array(rows)

    def one_pass(self, ids: Sequence[int], tiles: np.ndarray | None = None, length: int | None = None) -> np.ndarray:
        """Return the logits ``[V]`` behind one prompt without padding, in one call without a cache."""
        dtype = self.inputs["inputs_embeds"].dtype
        inputs = {
            "inputs_embeds": self.embeds(ids, tiles)[None].astype(dtype),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids))[None],
        }
        if self._limit is not None:
            inputs["rope_length"] = np.array([length or len(ids)])
        inputs |= {
            name: np.zeros((1, KV_HEADS, 0, HEAD_DIM), dtype) for name in self.inputs if name.startswith("past_")
        }
        return self.run(inputs)["logits"][0]

    def _heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], -1, HEAD_DIM).transpose(0, 2, 1, 3)

    def _rotation(self, positions: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the angles ``[R, 1, n, D / 2]``."""
        theta = 100.0
        if self._limit is not None:
            length = int(inputs["rope_length"][0])
            self.lengths.append(length)
            theta *= max(length / self._limit, 1) ** 2
        return positions[:, None, :, None] * theta ** (-2 * np.arange(HEAD_DIM // 2) / HEAD_DIM)


def _rotated(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
