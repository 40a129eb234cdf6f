"""Tiny random checkpoints whose fp16 graphs overflow in one place once a weight is made large."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import save_file

Weights = dict[str, np.ndarray]
BIG = 1e5
"""Beyond fp16; reached by factors that fp16 weights can hold."""
WIDTH, MLP, HEADS, SIDE = 64, 128, 4, 4
LLM, TEXT, TEXT_MLP, VOCABULARY, QUERIES, EMBED = 48, 80, 96, 320, 8, 32


def vision(prefix: str = "", layers: int = 2, rms: bool = False) -> tuple[Weights, dict[str, Any]]:
    """A tower and its configuration: LayerNorm and biases, or RMSNorm and normed q and k."""
    random = _Random(7)
    found: Weights = {
        "embeddings.class_embedding": random(1, 1, WIDTH, by=1),
        "embeddings.position_embedding": random(1, SIDE * SIDE + 1, WIDTH, by=1),
        "embeddings.patch_embedding.weight": random(WIDTH, 3, 14, 14),
        "embeddings.patch_embedding.bias": random(WIDTH),
    }
    for index in range(layers):
        found |= {f"encoder.layers.{index}.{name}": value for name, value in _vision_block(random, rms).items()}
    config = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "intermediate_size": MLP,
        "image_size": SIDE * 14,
        "patch_size": 14,
        "norm_type": "rms_norm" if rms else "layer_norm",
        "layer_norm_eps": 1e-6,
        "qkv_bias": not rms,
        "qk_normalization": rms,
        "hidden_act": "gelu",
        "torch_dtype": "float32",
    }
    return {prefix + name: value for name, value in found.items()}, config


def chat() -> tuple[Weights, dict[str, Any]]:
    """A chat checkpoint: tower and connector."""
    weights, config = vision("vision_model.")
    random, cell = _Random(8), 4 * WIDTH
    weights |= {
        "mlp1.0.weight": 1 + random(cell),
        "mlp1.0.bias": random(cell),
        "mlp1.1.weight": random(LLM, cell),
        "mlp1.1.bias": random(LLM),
        "mlp1.3.weight": random(LLM, LLM),
        "mlp1.3.bias": random(LLM),
        "language_model.model.embed_tokens.weight": random(64, LLM),
    }
    return weights, {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": config,
        "llm_config": {"architectures": ["LlamaForCausalLM"], "hidden_size": LLM},
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": SIDE * 14,
        "torch_dtype": "float32",
    }


def internvl() -> tuple[Weights, dict[str, Any]]:
    """The whole model: tower, QLLaMA with cross-attention, pools."""
    weights, config = vision("vision_model.", rms=True)
    random, text = _Random(9), _text_config()
    weights |= {
        "query_tokens": random(1, QUERIES, TEXT, by=1),
        "text_projection": random(TEXT, EMBED),
        "logit_scale": np.array(2.9, np.float32),
        "itm_head.weight": random(2, TEXT),
        "itm_head.bias": random(2),
        "qllama.model.embed_tokens.weight": random(VOCABULARY, TEXT, by=1),
        "qllama.model.norm.weight": 1 + random(TEXT),
        "qllama.lm_head.weight": random(VOCABULARY, TEXT),
    }
    for index in range(2):
        block = _text_block(random, crosses=index == 0)
        weights |= {f"qllama.model.layers.{index}.{name}": value for name, value in block.items()}
    for name, width in (("clip_projector", WIDTH), ("clip_projector2", TEXT)):
        weights |= {f"{name}.{part}": value for part, value in _pool(random, width).items()}
    return weights, {
        "architectures": ["InternVLModel"],
        "model_type": "internvl",
        "vision_config": config,
        "qllama_config": text,
        "clip_embed_dim": EMBED,
        "attn_pool_num_heads": 8,
        "num_query_token": QUERIES,
        "cross_attention_frequency": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def write(folder: Path, weights: Weights, config: dict[str, Any]) -> Path:
    """Write a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.array(value, order="C") for name, value in weights.items()}, folder / "model.safetensors")
    return folder


def infinite_values(graph: Path, feeds: Mapping[str, np.ndarray]) -> list[str]:
    """Return the fp16 values of a graph that are not finite when each of them is an output of its own."""
    model = onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False))
    given = {value.name for value in model.graph.output}
    inside = [v for v in model.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]
    model.graph.output.extend(value for value in inside if value.name not in given)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    found = session.run(None, {v.name: feeds[v.name].astype(types[v.type]) for v in session.get_inputs()})
    names = [value.name for value in session.get_outputs()]
    return [name for name, value in zip(names, found, strict=True) if not np.isfinite(value.astype(np.float32)).all()]


class _Random:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, by: float = 0.1) -> np.ndarray:
        return (self._rng.standard_normal(shape) * by).astype(np.float32)


def _vision_block(random: _Random, rms: bool) -> Weights:
    found = {
        "norm1.weight": 1 + random(WIDTH),
        "norm2.weight": 1 + random(WIDTH),
        "attn.qkv.weight": random(3 * WIDTH, WIDTH),
        "attn.proj.weight": random(WIDTH, WIDTH),
        "attn.proj.bias": random(WIDTH),
        "mlp.fc1.weight": random(MLP, WIDTH, by=0.2),
        "mlp.fc1.bias": random(MLP),
        "mlp.fc2.weight": random(WIDTH, MLP, by=0.2),
        "mlp.fc2.bias": random(WIDTH),
        "ls1": 0.5 + random(WIDTH),
        "ls2": 0.5 + random(WIDTH),
    }
    if rms:
        return found | {"attn.q_norm.weight": 1 + random(WIDTH), "attn.k_norm.weight": 1 + random(WIDTH)}
    return found | {"norm1.bias": random(WIDTH), "norm2.bias": random(WIDTH), "attn.qkv.bias": random(3 * WIDTH)}


def _text_block(random: _Random, crosses: bool) -> Weights:
    found = {
        "input_layernorm.weight": 1 + random(TEXT),
        "post_attention_layernorm.weight": 1 + random(TEXT),
        "mlp.gate_proj.weight": random(TEXT_MLP, TEXT, by=0.3),
        "mlp.up_proj.weight": random(TEXT_MLP, TEXT, by=0.3),
        "mlp.down_proj.weight": random(TEXT, TEXT_MLP, by=0.3),
    }
    found |= {f"self_attn.{part}_proj.weight": random(TEXT, TEXT) for part in "qkvo"}
    if crosses:
        found |= {"cross_attn.norm1.weight": 1 + random(TEXT), "cross_attn.norm2.weight": 1 + random(WIDTH)}
        found |= {f"cross_attn.{part}_proj.weight": random(TEXT, WIDTH if part in "kv" else TEXT) for part in "qkvo"}
    return found


def _text_config() -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": TEXT,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "num_hidden_layers": 2,
        "intermediate_size": TEXT_MLP,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 256,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "num_query_token": QUERIES,
        "tie_word_embeddings": False,
    }


def _pool(random: _Random, width: int) -> Weights:
    found: Weights = {"cross_attn.proj.weight": random(EMBED, width), "cross_attn.proj.bias": random(EMBED)}
    for part in "qkv":
        found |= {f"norm1_{part}.weight": 1 + random(width), f"norm1_{part}.bias": random(width)}
        found |= {f"cross_attn.{part}.weight": random(width, width), f"cross_attn.{part}_bias": random(width)}
    return found
