"""Every family of language models: recorded checkpoints open with every key accounted for (CHAT.md 1 to 3)."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.export.blockwise.sources import stored_shapes
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.checkpoint.names import naming_of, official_names
from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig, RopeConfig
from internvl_edge.export.models.families.language import LANGUAGE_FAMILIES
from internvl_edge.export.models.families.language.family import biases_of_attention
from internvl_edge.export.models.families.language.internlm2 import INTERNLM2
from internvl_edge.export.models.families.language.internlm3 import INTERNLM3
from internvl_edge.export.models.families.language.llama import LLAMA
from internvl_edge.export.models.families.language.phi3 import PHI3
from internvl_edge.export.models.families.language.qwen2 import QWEN2
from internvl_edge.export.models.families.language.qwen3 import QWEN3
from internvl_edge.runtime.errors import CheckpointError
from tests.golden_chat import GOLDEN_CHAT
from tests.unit.export.checkpoint.checkpoint_folders import opened

SIZES = {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3}
MORE = {"intermediate_size": 104, "vocab_size": 531, "rms_norm_eps": 1e-5, "max_position_embeddings": 512}

C2 = LanguageConfig(
    family="internlm2",
    hidden_size=64,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    num_layers=3,
    intermediate_size=120,
    vocab_size=641,
    eps=1e-5,
    max_positions=160,
    rope=RopeConfig(kind="dynamic", theta=1e6, factor=2.0, limit=160),
    qkv_rows="grouped",
)
C5 = LanguageConfig(
    family="qwen3",
    hidden_size=60,
    num_heads=6,
    num_kv_heads=3,
    head_dim=16,
    num_layers=3,
    intermediate_size=112,
    vocab_size=553,
    eps=1e-6,
    max_positions=32768,
    rope=RopeConfig(theta=1e6),
    qk_norm=True,
    tied_head=True,
)
RECORDED = {
    "c1/checkpoint": LanguageConfig(
        family="qwen2",
        hidden_size=72,
        num_heads=6,
        num_kv_heads=2,
        head_dim=12,
        num_layers=3,
        intermediate_size=104,
        vocab_size=531,
        eps=1e-6,
        max_positions=32768,
        rope=RopeConfig(theta=1e6),
        qkv_bias=True,
    ),
    "c2/checkpoint": C2,
    "c2/checkpoint_hf": replace(C2, family="llama", qkv_rows="separate"),
    "c3/checkpoint": LanguageConfig(
        family="llama",
        hidden_size=72,
        num_heads=6,
        num_kv_heads=3,
        head_dim=12,
        num_layers=3,
        intermediate_size=112,
        vocab_size=603,
        eps=1e-5,
        max_positions=4096,
        rope=RopeConfig(theta=1e4),
    ),
    "c4/checkpoint": LanguageConfig(
        family="qwen2",
        hidden_size=84,
        num_heads=6,
        num_kv_heads=2,
        head_dim=14,
        num_layers=3,
        intermediate_size=100,
        vocab_size=549,
        eps=1e-6,
        max_positions=128,
        rope=RopeConfig(kind="dynamic", theta=1e6, factor=2.0, limit=128),
        qkv_bias=True,
    ),
    "c5/checkpoint": C5,
    "c5/checkpoint_official": C5,
    "c6/checkpoint": LanguageConfig(
        family="phi3",
        hidden_size=64,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        num_layers=3,
        intermediate_size=104,
        vocab_size=607,
        eps=1e-5,
        max_positions=768,
        rope=RopeConfig(
            kind="su",
            limit=192,
            short_factors=(1.0, 1.05, 1.1, 1.3),
            long_factors=(1.0, 1.4, 3.5, 9.0),
            magnitude=math.sqrt(1 + math.log(4) / math.log(192)),
        ),
        qkv_rows="stacked",
        stacked_mlp=True,
    ),
}


@pytest.mark.parametrize("folder", RECORDED)
def test_a_recorded_checkpoint_opens_with_all_of_its_keys(folder: str) -> None:
    checkpoint = opened(GOLDEN_CHAT / folder)
    assert checkpoint.ignored == ()
    assert checkpoint.config.without_llm is None
    assert checkpoint.config.need(LanguageConfig) == RECORDED[folder]


def language_config(architecture: str, **fields: Any) -> LanguageConfig:
    llm = {"architectures": [architecture], **fields}
    content = {"model_type": "internvl_chat", "vision_config": {"image_size": 448}, "llm_config": llm}
    model = config_from_json(content)
    assert model.need(ConnectorConfig).llm_hidden_size == model.need(LanguageConfig).hidden_size
    return model.need(LanguageConfig)


def test_the_width_may_stand_at_the_top() -> None:
    """The official class writes it there too; a file without it anywhere has the family's default."""
    llm = {"architectures": ["Qwen2ForCausalLM"], **SIZES, "hidden_size": None}
    model = config_from_json({"model_type": "internvl_chat", "vision_config": {}, "hidden_size": 96, "llm_config": llm})
    assert model.need(ConnectorConfig).llm_hidden_size == model.need(LanguageConfig).hidden_size == 96


@pytest.mark.parametrize("family", [QWEN2, QWEN3, LLAMA, PHI3], ids=lambda family: family.name)
def test_what_a_file_leaves_out_has_the_classes_defaults(family: Any) -> None:
    """Files of the official layout leave out what their class has by default."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    library = getattr(transformers, family.architecture.replace("ForCausalLM", "Config"))()
    config = language_config(family.architecture)
    expected = {
        "hidden_size": library.hidden_size,
        "num_heads": library.num_attention_heads,
        "num_kv_heads": library.num_key_value_heads,
        "head_dim": getattr(library, "head_dim", library.hidden_size // library.num_attention_heads),
        "num_layers": library.num_hidden_layers,
        "intermediate_size": library.intermediate_size,
        "vocab_size": library.vocab_size,
        "eps": library.rms_norm_eps,
        "max_positions": library.max_position_embeddings,
        "out_bias": getattr(library, "attention_bias", False),
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.rope == RopeConfig(theta=library.rope_parameters["rope_theta"])


def test_internlm2s_class_has_biases_that_its_files_turn_off() -> None:
    config = language_config(INTERNLM2.architecture)
    assert (config.qkv_bias, config.out_bias, config.num_kv_heads, config.eps) == (True, True, 32, 1e-6)
    assert not language_config(INTERNLM2.architecture, bias=False).qkv_bias


def test_internlm3s_sizes_have_to_be_stated() -> None:
    fields = {**SIZES, **MORE, "head_dim": 16, "bias": False, "qkv_bias": True, "rope_theta": 5e7}
    scaling = {"rope_type": "dynamic", "factor": 6.0}
    config = language_config(INTERNLM3.architecture, **fields, rope_scaling=scaling)
    assert (config.head_dim, config.qkv_bias, config.out_bias) == (16, True, False)
    assert config.rope == RopeConfig(kind="dynamic", theta=5e7, factor=6.0, limit=512)
    with pytest.raises(CheckpointError, match="llm_config lacks num_layers, eps, for which internlm3 has no known"):
        language_config(INTERNLM3.architecture, **(fields | {"num_hidden_layers": None, "rms_norm_eps": None}))


@pytest.mark.parametrize(
    ("architecture", "fields", "finding"),
    [
        ("Qwen2ForCausalLM", {"mlp_scale": 3}, r"llm_config\.mlp_scale = 3"),
        ("Qwen2ForCausalLM", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not silu"),
        ("Qwen2ForCausalLM", {"num_key_value_heads": 4}, "4 key/value heads do not divide 6 heads"),
        ("Qwen2ForCausalLM", {"num_attention_heads": 5, "num_key_value_heads": 5}, "5 heads do not divide 72"),
        ("Qwen2ForCausalLM", {"num_hidden_layers": "3"}, "num_layers is '3'"),
        ("Qwen2ForCausalLM", {"rms_norm_eps": 0}, "eps is 0"),
        ("Qwen3ForCausalLM", {"head_dim": 15}, "head_dim 15 is odd"),
        ("Qwen2ForCausalLM", {"layer_types": ["sliding_attention"]}, "other kinds than full_attention"),
        ("LlamaForCausalLM", {"mlp_bias": True}, "mlp_bias True adds biases that the graphs have not"),
        ("InternLM3ForCausalLM", {"bias": True}, "bias True adds biases that the graphs have not"),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 0.75}, "rotates a part of each head"),
        ("Phi3ForCausalLM", {"sliding_window": 511}, "sliding_window is 511, but the graphs attend to the whole text"),
        ("Phi3ForCausalLM", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "is of type 'dynamic'"),
        ("Qwen2ForCausalLM", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "is of type 'yarn'"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "is of type 'llama3'"),
        ("Qwen2ForCausalLM", {"hidden_size": 144}, None),
    ],
)
def test_what_the_graphs_have_not_is_refused_by_name(
    architecture: str, fields: dict[str, Any], finding: str | None
) -> None:
    if finding is None:
        assert language_config(architecture, **(SIZES | MORE | fields)).head_dim == 24
        return
    with pytest.raises(CheckpointError, match=finding):
        language_config(architecture, **(SIZES | MORE | fields))


class TestWindows:
    """Files of Qwen2 carry a window that is turned off, those of Phi-3 one beyond the longest text (CHAT.md 4.9)."""

    FIELDS = SIZES | MORE | {"sliding_window": 256}

    @pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
    def test_one_that_is_turned_off_is_none(self, architecture: str) -> None:
        assert language_config(architecture, **self.FIELDS).hidden_size == 72
        assert language_config(architecture, **self.FIELDS, use_sliding_window=False).hidden_size == 72

    def test_one_of_layers_that_are_not_there_is_none(self) -> None:
        fields = self.FIELDS | {"use_sliding_window": True}
        assert language_config("Qwen2ForCausalLM", **fields, max_window_layers=3).num_layers == 3
        with pytest.raises(CheckpointError, match=r"llm_config\.sliding_window is 256, but the graphs attend"):
            language_config("Qwen2ForCausalLM", **fields, max_window_layers=2)

    def test_the_layers_before_the_classes_default_have_none(self) -> None:
        on = {"use_sliding_window": True}
        assert language_config("Qwen2ForCausalLM", **(self.FIELDS | on | {"num_hidden_layers": 28})).num_layers == 28
        with pytest.raises(CheckpointError, match="sliding_window is 256"):
            language_config("Qwen2ForCausalLM", **(self.FIELDS | on | {"num_hidden_layers": 29}))

    @pytest.mark.parametrize("value", [0, -5, 2.5, "256"])
    def test_one_that_is_no_number_is_refused(self, value: Any) -> None:
        with pytest.raises(CheckpointError, match=f"sliding_window is {value!r}"):
            language_config("Phi3ForCausalLM", **(self.FIELDS | {"sliding_window": value}))

    def test_phi3s_is_on_wherever_it_is_stated(self) -> None:
        for window in (256, 511):
            with pytest.raises(CheckpointError, match=rf"llm_config\.sliding_window is {window}"):
                language_config("Phi3ForCausalLM", **(self.FIELDS | {"sliding_window": window}))
        for window in (512, 262144):
            assert language_config("Phi3ForCausalLM", **(self.FIELDS | {"sliding_window": window})).hidden_size == 72


def test_biases_of_queries_keys_and_values_are_not_those_of_the_output() -> None:
    """Trap 17: Qwen2 has them on three projections, LLaMA and Qwen3 on four or none."""
    qwen2 = language_config("Qwen2ForCausalLM", **SIZES, **MORE)
    assert (qwen2.qkv_bias, qwen2.out_bias) == (True, False)
    for architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        config = language_config(architecture, **SIZES, **MORE, attention_bias=True)
        assert (config.qkv_bias, config.out_bias) == (True, True)
    assert biases_of_attention({"attention_bias": False}) == {"qkv_bias": False, "out_bias": False}


@pytest.mark.parametrize(
    ("hidden", "heads", "stated", "head_dim"),
    [(1024, 16, 128, 128), (2560, 32, 128, 128), (5120, 64, 128, 128), (1024, 16, None, 128)],
)
def test_the_head_size_of_qwen3_is_its_own(hidden: int, heads: int, stated: int | None, head_dim: int) -> None:
    """Trap 2: it is not the width divided by the heads, also where a file leaves the default of its class out."""
    fields = {**MORE, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": 8}
    config = language_config("Qwen3ForCausalLM", **fields, head_dim=stated)
    assert config.head_dim == head_dim
    shapes = stored_shapes(model_of(config))
    assert shapes["language_model.model.layers.0.self_attn.o_proj.weight"] == (hidden, heads * head_dim)


def model_of(config: LanguageConfig) -> Any:
    """Return a model with the language model `config` around a small tower."""
    vision = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 28}
    content = {"model_type": "internvl_chat", "vision_config": vision, "llm_config": {"hidden_size": 1}}
    model = config_from_json(content)
    connector = replace(model.parts[1], llm_hidden_size=config.hidden_size)
    return replace(model, parts=(model.parts[0], connector, config), without_llm=None)


OLD_NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "self_attn.qkv_proj": "attention.wqkv",
    "self_attn.o_proj": "attention.wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
"""Official name -> name in files of InternLM2 (CHAT.md 3)."""


@given(
    family=st.sampled_from(LANGUAGE_FAMILIES),
    layers=st.integers(1, 12),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    native=st.sampled_from((None, "language_model.model.", "model.language_model.")),
)
def test_keys_of_any_size_are_those_of_the_graphs(
    family: Any, layers: int, kv_heads: int, group: int, native: str | None
) -> None:
    """Whatever the sizes, the names in files of each family and spelling become the official ones, one to one."""
    fields = {
        "hidden_size": 24 * group,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "head_dim": 8,
        "intermediate_size": 16,
        "vocab_size": 11,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
    }
    wanted = [
        name
        for name in stored_shapes(model_of(language_config(family.architecture, **fields)))
        if name.startswith("language_model.")
    ]
    stored = {written(name, family.name, native): name for name in wanted}
    assert len(stored) == len(wanted)
    naming = naming_of(["vision_model.embeddings.class_embedding", *stored], "w", language=True)
    assert official_names(stored, naming, "w") == stored
    assert not any(naming.is_unused(name) for name in wanted)


def written(name: str, family: str, native: str | None) -> str:
    """Return the name under which files of a family, or of transformers' own port, hold an official tensor."""
    if native is not None:
        head = "lm_head." if native == "model.language_model." else "language_model.lm_head."
        return name.replace("language_model.lm_head.", head).replace("language_model.model.", native)
    for official, old in OLD_NAMES.items() if family == "internlm2" else ():
        name = name.replace(f".{official}.", f".{old}.")
    return name
