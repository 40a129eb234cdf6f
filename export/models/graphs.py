"""One torch module per graph of a bundle. Its forward is the graph: casts, masks and layout included.

Submodules are shared with `InternVLModel` under the same attribute names, so that the parameters of every graph carry
the official checkpoint keys. Float inputs and outputs that a user sees are fp32; those that only feed another graph
(`vision_states`, key/value caches) have the model's own type T.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from internvl_edge.export.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel, patch_grid, pixel_shuffle
from internvl_edge.export.models.layers import DEEPLY_MASKED, MASKED, select_rows
from internvl_edge.export.models.qllama import Cache, Context

UNQUANTIZED_GRAPHS = frozenset({"connector"})
"""Graphs without any site: nothing of them is measured."""
GRAPH_NAMES = ("vision", "query", "text", "decoder", "itm", "connector")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """One input of a graph: dimensions are sizes, or names of dynamic axes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """A graph to trace: the module, its inputs in order, the names of its outputs in order."""

    name: str
    module: nn.Module
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]


class AttentionBias(nn.Module):
    """Turn "may row i see key j" into what is added to the scores: 0, or what no score outweighs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.masked = MASKED if dtype == torch.float16 else DEEPLY_MASKED

    def forward(self, allowed: Tensor) -> Tensor:
        """Return ``[B, 1, n, m]`` in the model's type of the boolean ``[B, n, m]`` (or broadcastable)."""
        return torch.where(allowed, 0.0, self.masked).to(self.dtype).unsqueeze(1)


class VisionGraph(nn.Module):
    """Picture to vision states, pooled feature and the patch maps asked for."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype, last: int, feature_layers: Sequence[int]) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.clip_projector = getattr(model, "clip_projector", None)
        self.dtype = dtype
        self.last = last % (len(model.vision_model.encoder.layers) + 1)
        self.features = tuple(layer + 1 for layer in feature_layers)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return vision_states ``[B, N, Hv]``, image_embeds ``[B, D]`` if pooled, maps ``[B, Hv, g, g]``."""
        states = self.vision_model(pixel_values.to(self.dtype), (self.last, *self.features))
        outputs = [states[self.last]]
        if self.clip_projector is not None:
            outputs.append(self.clip_projector(states[self.last]).float())
        outputs += [patch_grid(states[index]).permute(0, 3, 1, 2) for index in self.features]
        return tuple(outputs)


class QueryGraph(nn.Module):
    """Vision states to the query transformer's outputs and the cache that captions start from."""

    def __init__(self, model: InternVLModel) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.query_tokens = model.query_tokens
        self.clip_projector2 = model.clip_projector2

    def forward(self, vision_states: Tensor) -> tuple[Tensor, ...]:
        """Return query_embeds ``[B, D]``, query_states ``[B, Q, Ht]``, then key and value of every layer."""
        rows = self.query_tokens.expand(vision_states.shape[0], -1, -1)
        last, caches = self.qllama.model(rows, self.context(vision_states))
        normed = self.qllama.model.norm(last)
        return self.clip_projector2(normed).float(), normed, *_flat(caches)

    def context(self, vision_states: Tensor) -> Context:
        """Return what the layers see: every query, and the vision states."""
        batch, queries = vision_states.shape[0], self.query_tokens.shape[1]
        positions = torch.arange(queries).unsqueeze(0).expand(batch, -1)
        return Context(positions=positions, vision_states=vision_states)


class TextGraph(nn.Module):
    """Token ids to the text feature: causal, padding (id 0) masked, last kept row projected."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.text_projection = model.text_projection
        self.attention_bias = AttentionBias(dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return text_embeds ``[T, D]`` of ids ``[T, L]``."""
        normed = self.hidden_states(input_ids)
        last = (input_ids > 0).sum(dim=1) - 1
        embeds: Tensor = select_rows(normed, last) @ self.text_projection
        return embeds.float()

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Return the normed states ``[T, L, Ht]``."""
        last, _ = self.qllama.model(self.qllama.model.embed_tokens(input_ids), self.context(input_ids))
        normed: Tensor = self.qllama.model.norm(last)
        return normed

    def context(self, input_ids: Tensor) -> Context:
        """Return what the layers see: earlier rows that are no padding."""
        steps = torch.arange(input_ids.shape[1])
        causal = steps.unsqueeze(0) <= steps.unsqueeze(1)
        allowed = causal.unsqueeze(0) & (input_ids > 0).unsqueeze(1)
        positions = steps.unsqueeze(0).expand(input_ids.shape[0], -1)
        return Context(positions=positions, bias=self.attention_bias(allowed))


class DecoderGraph(nn.Module):
    """A causal chunk of tokens on a cache: the prompt first, then one token per step."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.attention_bias = AttentionBias(dtype)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits of the last row ``[B, V]``, then key and value of every layer ``[B, H, P + n, D]``.

        `attention_mask` ``[B, P + n]`` is 1 for rows that count: queries, kept prompt ids and new tokens.
        """
        context = self.context(attention_mask, position_ids, past[0].shape[2])
        caches = list(zip(past[::2], past[1::2], strict=True))
        last, caches = self.qllama.model(self.qllama.model.embed_tokens(input_ids), context, caches)
        normed = self.qllama.model.norm(last[:, -1:])
        return self.qllama.lm_head(normed).squeeze(1).float(), *_flat(caches)

    def context(self, attention_mask: Tensor, position_ids: Tensor, held: int) -> Context:
        """Return what the layers see of `held` cached rows and the new ones: earlier rows that count."""
        total = held + position_ids.shape[1]
        causal = torch.arange(total).unsqueeze(0) <= torch.arange(held, total).unsqueeze(1)
        allowed = causal.unsqueeze(0) & (attention_mask > 0).unsqueeze(1)
        return Context(positions=position_ids, bias=self.attention_bias(allowed))


class ItmGraph(nn.Module):
    """Image-text matching: queries and text see each other fully, only padding is masked (MODEL.md 3.8)."""

    def __init__(self, model: InternVLModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.query_tokens = model.query_tokens
        self.itm_head = model.itm_head
        self.attention_bias = AttentionBias(dtype)

    def forward(self, vision_states: Tensor, input_ids: Tensor) -> Tensor:
        """Return itm_logits ``[B, 2]``: column 1 says match."""
        return self.per_query(vision_states, input_ids).mean(dim=1).float()

    def per_query(self, vision_states: Tensor, input_ids: Tensor) -> Tensor:
        """Return the head's logits of every query row, ``[B, Q, 2]``."""
        last, _ = self.qllama.model(self.rows(input_ids), self.context(vision_states, input_ids))
        logits: Tensor = self.itm_head(self.qllama.model.norm(last[:, : self.query_tokens.shape[1]]))
        return logits

    def rows(self, input_ids: Tensor) -> Tensor:
        """Return queries and embedded text, ``[B, Q + L, Ht]``."""
        text = self.qllama.model.embed_tokens(input_ids)
        return torch.cat([self.query_tokens.expand(input_ids.shape[0], -1, -1), text], dim=1)

    def context(self, vision_states: Tensor, input_ids: Tensor) -> Context:
        """Return what the layers see: every row that is no padding."""
        queries = self.query_tokens.shape[1]
        kept = torch.nn.functional.pad(input_ids, (queries, 0), value=1) > 0
        length = queries + input_ids.shape[1]
        positions = torch.arange(length).unsqueeze(0).expand(input_ids.shape[0], -1)
        bias = self.attention_bias(kept.unsqueeze(1).expand(-1, length, -1))
        return Context(positions=positions, bias=bias, vision_states=vision_states, num_queries=queries)


class ConnectorGraph(nn.Module):
    """Vision states to LLM tokens of a chat checkpoint: pixel shuffle and mlp1 (MODEL.md 6)."""

    def __init__(self, model: InternVLModel, downsample: float, version: str) -> None:
        super().__init__()
        self.mlp1 = model.mlp1
        self.factor = round(1 / downsample)
        self.version = version

    def forward(self, vision_states: Tensor) -> Tensor:
        """Return vit_embeds ``[B, T, H_llm]``."""
        cells = pixel_shuffle(patch_grid(vision_states), self.factor, self.version)
        embeds: Tensor = self.mlp1(cells.flatten(1, 2))
        return embeds


def _flat(caches: Sequence[Cache]) -> list[Tensor]:
    return [tensor for cache in caches for tensor in cache]


def available_graphs(config: ModelConfig) -> tuple[str, ...]:
    """Return the graphs that this model has weights for, in `GRAPH_NAMES` order."""
    have = {"vision"}
    if config.qllama is not None:
        have |= set(config.qllama_graphs)
    if config.connector is not None:
        have.add("connector")
    return tuple(name for name in GRAPH_NAMES if name in have)


def graph_spec(
    name: str, config: ModelConfig, model: InternVLModel, dtype: torch.dtype, feature_layers: Sequence[int] = ()
) -> GraphSpec:
    """Return graph `name` of `model` with compute type `dtype`."""
    return GraphSpec(
        name=name,
        module=_module(name, config, model, dtype, feature_layers),
        inputs=graph_inputs(name, config, dtype),
        outputs=graph_outputs(name, config, feature_layers),
    )


def graph_inputs(name: str, config: ModelConfig, dtype: torch.dtype = torch.float32) -> tuple[GraphInput, ...]:
    """Return the inputs of graph `name` in order; `dtype` is the model's own type T."""
    size = config.vision.image_size
    pixels = GraphInput(name="pixel_values", dtype=torch.float32, shape=("batch", 3, size, size))
    states = ("batch", config.vision.tokens, config.vision.hidden_size)
    vision = GraphInput(name="vision_states", dtype=dtype, shape=states)
    ids = GraphInput(name="input_ids", dtype=torch.int64, shape=("batch", "length"))
    texts = GraphInput(name="input_ids", dtype=torch.int64, shape=("texts", "length"))
    if name == "decoder":
        return (ids, *_decoder_state(config, dtype))
    return {
        "vision": (pixels,),
        "query": (vision,),
        "text": (texts,),
        "itm": (vision, ids),
        "connector": (vision,),
    }[name]


def graph_outputs(name: str, config: ModelConfig, feature_layers: Sequence[int] = ()) -> tuple[str, ...]:
    """Return the names of the outputs of graph `name` in order."""
    match name:
        case "vision":
            pooled = ("image_embeds",) if config.embed_dim is not None else ()
            return ("vision_states", *pooled, *(f"feature_{layer}" for layer in feature_layers))
        case "query":
            return ("query_embeds", "query_states", *_cache_names(config, "present"))
        case "decoder":
            return ("logits", *_cache_names(config, "present"))
        case _:
            return ({"text": "text_embeds", "itm": "itm_logits", "connector": "vit_embeds"}[name],)


def _decoder_state(config: ModelConfig, dtype: torch.dtype) -> tuple[GraphInput, ...]:
    assert config.qllama is not None
    shape = ("batch", config.qllama.num_heads, "past", config.qllama.head_dim)
    mask = GraphInput(name="attention_mask", dtype=torch.int64, shape=("batch", "total"))
    positions = GraphInput(name="position_ids", dtype=torch.int64, shape=("batch", "length"))
    past = (GraphInput(name=n, dtype=dtype, shape=shape) for n in _cache_names(config, "past_key_values"))
    return (mask, positions, *past)


def _cache_names(config: ModelConfig, prefix: str) -> list[str]:
    assert config.qllama is not None
    return [f"{prefix}.{layer}.{part}" for layer in range(config.qllama.num_layers) for part in ("key", "value")]


def _module(
    name: str, config: ModelConfig, model: InternVLModel, dtype: torch.dtype, feature_layers: Sequence[int]
) -> nn.Module:
    match name:
        case "vision":
            last = config.connector.select_layer if config.connector is not None else -1
            return VisionGraph(model, dtype, last, feature_layers)
        case "query":
            return QueryGraph(model)
        case "text":
            return TextGraph(model, dtype)
        case "decoder":
            return DecoderGraph(model, dtype)
        case "itm":
            return ItmGraph(model, dtype)
        case "connector" if config.connector is not None:
            return ConnectorGraph(model, config.connector.downsample, config.connector.ps_version)
        case _:
            raise ValueError(f"{name}: no such graph for {config.family}")
