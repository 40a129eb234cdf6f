"""The sites of an InternVL model: every linear of the blocks and the head, in the order of the forward."""

from collections.abc import Iterator

from internvl_edge.calib.sites import NormFold, RowFold, Site
from internvl_edge.export.config import ModelConfig, QllamaConfig, VisionConfig

VISION_BLOCK = "vision_model.encoder.layers.{}"
QLLAMA_BLOCK = "qllama.model.layers.{}"
HEAD = "qllama.lm_head"
_HEAD_ROWS = 16
"""What 8-bit GEMM kernels want; the vocabulary is 49,954, which is 2 mod 16."""


def qllama_blocks(config: ModelConfig) -> tuple[str, ...]:
    """Return the paths of the blocks of QLLaMA in order."""
    assert config.qllama is not None
    return tuple(QLLAMA_BLOCK.format(index) for index in range(config.qllama.num_layers))


def model_sites(config: ModelConfig) -> list[Site]:
    """Return the sites of every part that the model has."""
    found = [site for index in range(config.vision.num_layers) for site in _vision_block(config.vision, index)]
    if config.qllama is not None and config.qllama_graphs:
        text = config.qllama
        found += [site for index in range(text.num_layers) for site in _qllama_block(config, text, index)]
        if "decoder" in config.qllama_graphs:
            found.append(_head(text))
    return found


def block_of(site: Site) -> str:
    """Return the path of the block that holds `site`; the head is its own."""
    if site.name == HEAD:
        return HEAD
    return (VISION_BLOCK if site.tower == "vision" else QLLAMA_BLOCK).format(site.block)


def _vision_block(config: VisionConfig, index: int) -> Iterator[Site]:
    path, width = VISION_BLOCK.format(index), config.hidden_size
    qkv, proj, fc1, fc2 = f"{path}.attn.qkv", f"{path}.attn.proj", f"{path}.mlp.fc1", f"{path}.mlp.fc2"
    values = RowFold(weight=f"{qkv}.weight", start=2 * width, bias=f"{qkv}.bias" if config.qkv_bias else None)

    def site(kind: str, linear: str, fold: NormFold | RowFold | None, channels: int, scale: str | None = None) -> Site:
        return Site(
            name=linear,
            linears=(linear,),
            tower="vision",
            block=index,
            kind=kind,
            channels=channels,
            fold=fold,
            layer_scale=scale,
        )

    def norm(name: str) -> NormFold:
        parts = ("weight",) if config.norm_type == "rms_norm" else ("weight", "bias")
        return NormFold(parameters=tuple(f"{path}.{name}.{part}" for part in parts))

    yield site("qkv", qkv, norm("norm1"), width)
    yield site("proj", proj, values, width, f"{path}.ls1")
    yield site("fc1", fc1, norm("norm2"), width)
    yield site("fc2", fc2, None, config.intermediate_size, f"{path}.ls2")


def _qllama_block(config: ModelConfig, text: QllamaConfig, index: int) -> Iterator[Site]:
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
    if index in text.cross_attention_layers and {"query", "itm"} & set(config.qllama_graphs):
        yield site("cross_attn.q_proj", ("cross_attn.q_proj",), norm("cross_attn.norm1"), width)
        keys = ("cross_attn.k_proj", "cross_attn.v_proj")
        yield site("cross_attn.kv", keys, norm("cross_attn.norm2"), text.vision_hidden_size)
        yield site("cross_attn.o_proj", ("cross_attn.o_proj",), rows("cross_attn.v_proj"), width)
    gates = ("mlp.gate_proj", "mlp.up_proj")
    yield site("mlp.gate_up", gates, norm("post_attention_layernorm"), width)
    yield site("mlp.down_proj", ("mlp.down_proj",), rows("mlp.up_proj"), text.intermediate_size)


def _head(text: QllamaConfig) -> Site:
    """Return the site of lm_head. Its norm also feeds the pools and the projection, so nothing folds into it."""
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
