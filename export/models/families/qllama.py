"""QLLaMA with its queries, heads and second pool: its fields in `config.json`, its tensors and its sites."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from internvl_edge.calib.sites import NormFold, RowFold, Site
from internvl_edge.export.models.config import (
    ModelConfig,
    PartConfig,
    PoolConfig,
    QllamaConfig,
    positive_int,
)
from internvl_edge.export.models.families.common_fields import (
    CONFIG_FILE,
    LIBRARY,
    QUANTIZED_STORAGE,
    SCORES,
    SEARCH,
    TIES,
    TRAINING,
    token_ids,
)
from internvl_edge.export.models.families.family import (
    BlockStack,
    ConfigSource,
    Family,
    Head,
    Module,
    Shapes,
    StoredShapes,
    StoredTensor,
    check_heads,
    layer_count,
    tower_of,
)
from internvl_edge.export.models.families.fields import FieldReader, FieldTable, Honoured, Limited, harmless, only
from internvl_edge.export.models.families.rope import rope_fields
from internvl_edge.export.models.pool import AttentionPool
from internvl_edge.export.models.qllama import Qllama, rotary_table
from internvl_edge.runtime.errors import CheckpointError

QLLAMA_BLOCK = "qllama.model.layers.{}"
HEAD = "qllama.lm_head"
_EMBEDDING, _QUERIES = "qllama.model.embed_tokens.weight", "query_tokens"
_CROSS_LAYER = re.compile(r"^qllama\.model\.layers\.(\d+)\.cross_attn\.")
_FREQUENCIES = re.compile(r"^qllama\..*rotary_emb\.inv_freq$")
_HEADS = {(4096, 11008, 49954): 32}
"""(width, width of the MLP, size of the vocabulary) -> number of heads of the released QLLaMA."""
_HEAD_ROWS = 16
"""Multiple to which the head's rows are padded, as 8-bit GEMM kernels need; the vocabulary has 49,954 rows."""
_NO_TOKEN = -1
"""Id in older files for a token that does not exist."""

_NO_BIAS = only(False, finding="adds biases that the graphs have not")

QLLAMA = FieldTable(
    CONFIG_FILE,
    {
        **LIBRARY,
        **TRAINING,
        **TIES,
        **QUANTIZED_STORAGE,
        **SEARCH,
        **SCORES,
        "hidden_size": Honoured("hidden_size"),
        "num_attention_heads": Honoured("num_heads"),
        "num_hidden_layers": Honoured("num_layers"),
        "intermediate_size": Honoured("intermediate_size"),
        "vocab_size": Honoured("vocab_size"),
        "rms_norm_eps": Honoured("eps"),
        "layer_norm_eps": Honoured("eps"),
        "norm_eps": Honoured("eps"),
        "max_position_embeddings": Honoured("max_positions"),
        "num_query_token": Honoured("num_queries"),
        "rope_theta": Honoured("theta"),
        "rotary_emb_base": Honoured("theta"),
        "rope_scaling": Honoured("rope_scaling"),
        "rope_parameters": Honoured("rope_parameters"),
        "num_key_value_heads": Honoured("key_value_heads"),
        "head_dim": Honoured("head_dim"),
        "sliding_window": Honoured("sliding_window"),
        "use_sliding_window": Honoured("use_sliding_window"),
        "bos_token_id": Honoured("bos", token_ids),
        "eos_token_id": Honoured("eos", token_ids),
        "pad_token_id": Honoured("pad", token_ids),
        "hidden_act": only("silu", "swish", finding="is not silu"),
        "attention_bias": _NO_BIAS,
        "mlp_bias": _NO_BIAS,
        "bias": _NO_BIAS,
        "qkv_bias": _NO_BIAS,
        "use_bias": _NO_BIAS,
        "use_qk_norm": only(False, finding="normalizes queries and keys, which the graphs do not"),
        "partial_rotary_factor": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
        "rotary_pct": only(1, finding="rotates a part of each head, the graphs rotate all of it"),
        "layer_types": Limited(
            lambda value: isinstance(value, list) and set(value) <= {"full_attention"},
            "are attentions of other kinds than full_attention",
        ),
        "pruned_heads": only({}, finding="are heads that the graphs have"),
        "rope_interleaved": only(False, finding="pairs neighbouring channels, the graphs pair the two halves"),
        **harmless("cross_attention_frequency", "vision_hidden_size", "max_window_layers", "max_sequence_length"),
    },
)
"""``cross_attention_frequency`` is harmless here: loading replaces it by the top level's value (MODEL.md T2)."""


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> QllamaConfig:
    content, top, reader = source.part("qllama_config"), source.top, source.reader
    if not content:
        raise CheckpointError("qllama_config is missing")
    fields = reader.read(QLLAMA, content, "qllama_config")
    _check_window(fields, reader)
    heads = {name: fields.pop(name, None) for name in ("key_value_heads", "head_dim")}
    fields |= rope_fields(fields, reader)
    for name in ("bos", "eos", "pad"):
        ids = [value for value in fields.pop(name, None) or () if value != _NO_TOKEN]
        if ids and (known := _one_id(f"qllama_config.{name}_token_id", ids, source)) is not None:
            fields[f"{name}_token_id"] = known
    if "num_queries" in top:
        fields["num_queries"] = top["num_queries"]
    if (tower := tower_of(parts)) is not None:
        fields["vision_hidden_size"] = tower.hidden_size
    frequency = top.get("frequency", 2)
    if not positive_int(frequency):
        raise CheckpointError(f"cross_attention_frequency is {frequency!r}")
    config = QllamaConfig(**fields)
    check_heads("qllama", config.num_heads, config.head_dim, heads, reader)
    return replace(config, cross_attention_layers=tuple(range(0, config.num_layers, frequency)))


def _check_window(fields: dict[str, Any], reader: FieldReader) -> None:
    """Report a sliding window that is shorter than the longest text of the model."""
    window, used = fields.pop("sliding_window", None), fields.pop("use_sliding_window", None)
    if window is None or used is False:
        return
    if not positive_int(window) or window < fields.get("max_positions", QllamaConfig().max_positions):
        reader.find(CONFIG_FILE, f"qllama sliding_window is {window!r}, but the graphs attend to the whole text")


def _one_id(name: str, ids: list[int | str], source: ConfigSource) -> int | None:
    """Return the id that all `ids` stand for; report several different ids, and texts that are no token."""
    found = {source.token_id(value) if isinstance(value, str) else value for value in ids}
    if None in found:
        texts = ", ".join(repr(value) for value in ids if isinstance(value, str))
        source.reader.find(CONFIG_FILE, f"{name} is {texts}, which is no token of the tokenizer.model")
        return None
    if len(found) > 1:
        source.reader.find(CONFIG_FILE, f"{name} is {ids}, but captions know one id")
    return found.pop()


def _from_shapes(stored: StoredShapes, parts: Sequence[PartConfig]) -> QllamaConfig | None:
    shapes = stored.needed
    if _EMBEDDING not in shapes:
        return None
    vocab, width = shapes[_EMBEDDING]
    hidden = shapes["qllama.model.layers.0.mlp.gate_proj.weight"][0]
    heads = _heads_of_frequencies(stored.unused, width) or _HEADS.get((width, hidden, vocab))
    if heads is None:
        stored.unclear.append(f"a QLLaMA of width {width}")
    config = QllamaConfig(
        hidden_size=width,
        num_heads=heads or 1,
        num_layers=layer_count(shapes, QLLAMA_BLOCK.format("")),
        intermediate_size=hidden,
        vocab_size=vocab,
        text_alone=_QUERIES not in shapes,
    )
    if (tower := tower_of(parts)) is not None:
        config = replace(config, vision_hidden_size=tower.hidden_size)
    return replace(config, num_queries=shapes[_QUERIES][1]) if _QUERIES in shapes else config


def _heads_of_frequencies(unused: Shapes, width: int) -> int | None:
    """Return the number of heads by the number of rotary frequencies, one for two channels; None without any."""
    for name, shape in unused.items():
        if _FREQUENCIES.match(name) and len(shape) == 1 and shape[0] and not width % shape[0]:
            return width // (2 * shape[0]) or None
    return None


def _in_plain_file(model: ModelConfig, shapes: Shapes) -> QllamaConfig | None:
    qllama = model.find(QllamaConfig)
    return replace(qllama, text_alone=True) if qllama is not None and _EMBEDDING in shapes else None


def _as_stored(model: ModelConfig, shapes: Shapes) -> QllamaConfig:
    """Return QLLaMA with cross-attention in every f-th layer, where f is the smallest step between stored layers.

    A layer that is lost is then reported as missing. The config's value of f is used only if no layer is stored,
    because it is unreliable (MODEL.md T2).
    """
    qllama = model.need(QllamaConfig)
    found = {int(match[1]) for name in shapes if (match := _CROSS_LAYER.match(name))}
    stored = sorted(layer for layer in found if layer < qllama.num_layers)
    if not stored:
        said = () if qllama.text_alone else qllama.cross_attention_layers
        return replace(qllama, cross_attention_layers=said)
    step = min((after - before for before, after in pairwise(stored)), default=qllama.num_layers)
    layers = {*range(stored[0] % step, qllama.num_layers, step), *stored}
    return replace(qllama, cross_attention_layers=tuple(sorted(layers)))


def _tied(model: ModelConfig) -> tuple[str, str] | None:
    """Return the names of the head and of the table that is the head if the file was saved tied (MODEL.md T1)."""
    return (f"{HEAD}.weight", _EMBEDDING) if not model.need(QllamaConfig).text_alone else None


def _modules(model: ModelConfig) -> Mapping[str, Module]:
    """Return QLLaMA and the other modules of its graphs; with `text_alone`, only those of the text encoder."""
    text, pool = model.need(QllamaConfig), model.need(PoolConfig)
    modules: dict[str, Module] = {
        "qllama": Qllama(text, with_head=not text.text_alone),
        "text_projection": nn.Parameter(torch.empty(text.hidden_size, pool.embed_dim)),
        "logit_scale": nn.Parameter(torch.empty(())),
    }
    if not text.text_alone:
        modules["query_tokens"] = nn.Parameter(torch.empty(1, text.num_queries, text.hidden_size))
        modules["clip_projector2"] = AttentionPool(text.hidden_size, pool.embed_dim, pool.pool_heads)
        modules["itm_head"] = nn.Linear(text.hidden_size, 2)
    return modules


def _computed(model: ModelConfig, stored: Mapping[str, StoredTensor]) -> Mapping[str, Tensor]:
    return {f"qllama.model.rotary.{part}": rotary_table(model.need(QllamaConfig), part) for part in ("cos", "sin")}


def _sites(model: ModelConfig) -> Iterator[Site]:
    text = model.need(QllamaConfig)
    for index in range(text.num_layers):
        yield from _block_sites(text, index)
    if not text.text_alone:
        yield _head(text)


def _block_sites(text: QllamaConfig, index: int) -> Iterator[Site]:
    path = QLLAMA_BLOCK.format(index)

    def site(kind: str, linears: tuple[str, ...], fold: NormFold | RowFold, channels: int) -> Site:
        paths = tuple(f"{path}.{linear}" for linear in linears)
        return Site(name=paths[0], linears=paths, tower="qllama", block=index, kind=kind, channels=channels, fold=fold)

    def norm(name: str) -> NormFold:
        return NormFold(parameters=(f"{path}.{name}.weight",))

    def rows(name: str) -> RowFold:
        return RowFold(weight=f"{path}.{name}.weight")

    width = text.hidden_size
    selves = tuple(f"self_attn.{part}_proj" for part in "qkv")
    yield site("self_attn.qkv", selves, norm("input_layernorm"), width)
    yield site("self_attn.o_proj", ("self_attn.o_proj",), rows("self_attn.v_proj"), width)
    if index in text.cross_attention_layers and not text.text_alone:
        yield site("cross_attn.q_proj", ("cross_attn.q_proj",), norm("cross_attn.norm1"), width)
        keys = ("cross_attn.k_proj", "cross_attn.v_proj")
        yield site("cross_attn.kv", keys, norm("cross_attn.norm2"), text.vision_hidden_size)
        yield site("cross_attn.o_proj", ("cross_attn.o_proj",), rows("cross_attn.v_proj"), width)
    gates = ("mlp.gate_proj", "mlp.up_proj")
    yield site("mlp.gate_up", gates, norm("post_attention_layernorm"), width)
    yield site("mlp.down_proj", ("mlp.down_proj",), rows("mlp.up_proj"), text.intermediate_size)


def _head(text: QllamaConfig) -> Site:
    """Return the site of lm_head; nothing folds into its norm, which also feeds the pools and the projection."""
    return Site(
        name=HEAD,
        linears=(HEAD,),
        tower="qllama",
        block=text.num_layers,
        kind="lm_head",
        channels=text.hidden_size,
        fold=None,
        row_multiple=_HEAD_ROWS,
    )


QLLAMA_STACK = BlockStack(
    path=QLLAMA_BLOCK,
    count=lambda model: model.need(QllamaConfig).num_layers,
    width=lambda model: model.need(QllamaConfig).intermediate_size,
    embeddings="qllama.model.embed_tokens",
    run=lambda model, block, rows, context, past: block(rows, context, model.qllama.model.rotary, past),
    kept=("qllama.model.rotary", _QUERIES),
    head=Head(path=HEAD, norm="qllama.model.norm"),
)

QLLAMA_FAMILY = Family(
    name="qllama",
    kind=QllamaConfig,
    tensors=("qllama", "text_projection", "logit_scale", "query_tokens", "clip_projector2", "itm_head"),
    read=_read,
    from_shapes=_from_shapes,
    as_stored=_as_stored,
    in_plain_file=_in_plain_file,
    modules=_modules,
    computed=_computed,
    tied=_tied,
    sites=_sites,
    stack=QLLAMA_STACK,
    plain_root=("transformer.", "qllama.model."),
    unused=(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$",),
)
