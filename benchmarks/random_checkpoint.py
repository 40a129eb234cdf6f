"""Write a random checkpoint of any size in the official layout, tensor by tensor: `random_checkpoint.py OUT`."""

import json
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.models.internvl import InternVLModel

STAGGER_BYTES = 4096
"""Distance between the starts of two tensors in the block of random numbers."""
BLOCK_VALUES = 4 << 20
SHARD_BYTES = 5 << 30
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENIZERS = {
    "internvl": ("emoji", ("tokenizer.model",)),
    "intern_vit_6b": ("emoji", ("tokenizer.model",)),
    "internvl_chat": (
        "chat",
        ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"),
    ),
}
"""Layout -> example that lends its tokenizer, and the files of it. Ids beyond that tokenizer are never answered."""
_DTYPES = {"float16": ("F16", torch.float16), "bfloat16": ("BF16", torch.bfloat16), "float32": ("F32", torch.float32)}
_VISION_6B: dict[str, Any] = {
    "model_type": "intern_vit_6b",
    "hidden_size": 3200,
    "num_attention_heads": 25,
    "num_hidden_layers": 48,
    "intermediate_size": 12800,
    "image_size": 224,
    "patch_size": 14,
    "qk_normalization": True,
    "qkv_bias": False,
    "layer_norm_eps": 1e-6,
}
_VISION_300M: dict[str, Any] = {
    "model_type": "intern_vit_6b",
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": "layer_norm",
    "qk_normalization": False,
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
}


def _chat(
    vision: dict[str, Any], hidden: int, layers: int, mlp: int, heads: int, kv: int, vocab: int
) -> dict[str, Any]:
    """Return the `config.json` of a chat checkpoint whose language model is a Qwen2.5 of this size."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": vision,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": mlp,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "max_position_embeddings": 32768,
            "use_sliding_window": False,
            "vocab_size": vocab,
            "tie_word_embeddings": False,
        },
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": 448,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "template": "internvl2_5",
    }


PRESETS: dict[str, dict[str, Any]] = {
    "internvl2_5-1b": _chat(_VISION_300M, hidden=896, layers=24, mlp=4864, heads=14, kv=2, vocab=151674),
    "internvl3-8b": _chat(_VISION_300M, hidden=3584, layers=28, mlp=18944, heads=28, kv=4, vocab=151674),
    "internvl2_5-38b": _chat(
        _VISION_6B | {"num_hidden_layers": 45, "image_size": 448},
        hidden=5120,
        layers=64,
        mlp=27648,
        heads=40,
        kv=8,
        vocab=151674,
    ),
    "internvit-6b": {**_VISION_6B, "architectures": ["InternVisionModel"]},
    "internvit-300m": {**_VISION_300M, "architectures": ["InternVisionModel"]},
    "internvl-14b": {
        "architectures": ["InternVLModel"],
        "model_type": "internvl",
        "vision_config": _VISION_6B,
        "qllama_config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "intermediate_size": 11008,
            "vocab_size": 49954,
            "rms_norm_eps": 1e-6,
        },
        "clip_embed_dim": 768,
        "attn_pool_num_heads": 16,
        "num_query_token": 96,
        "cross_attention_frequency": 2,
        "tie_word_embeddings": False,
    },
}


def write_checkpoint(
    folder: Path,
    preset: str,
    layers: int | None = None,
    dtype: str = "float16",
    tokenizer: bool = False,
    text_layers: int | None = None,
) -> int:
    """Write the checkpoint `preset` with `layers` vision and `text_layers` language blocks (default: all of them).

    Return its bytes of weights.

    With `tokenizer` an example's tokenizer lies beside the weights.
    """
    content = json.loads(json.dumps(PRESETS[preset]))
    vision = content.get("vision_config", content)
    vision["num_hidden_layers"] = layers or vision["num_hidden_layers"]
    if text_layers is not None:
        part = "qllama_config" if "qllama_config" in content else "llm_config"
        content[part]["num_hidden_layers"] = text_layers
    with torch.device("meta"):
        state = InternVLModel(config_from_json(content)).state_dict()
    prefix = "vision_model." if "vision_config" not in content else ""
    shapes = {name.removeprefix(prefix): tuple(value.shape) for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content, indent=2))
    if tokenizer:
        example, files = TOKENIZERS[content["model_type"]]
        for file in files:
            shutil.copyfile(EXAMPLES / example / "checkpoint" / file, folder / file)
    blocks = _Blocks(dtype)
    shards = _shards(shapes, blocks.itemsize)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, {key: shapes[key] for key in shard}, blocks)
    total: int = sum(blocks.itemsize * math.prod(shape) for shape in shapes.values())
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


class _Blocks:
    """Blocks of random numbers by mean and deviation; each is made once, since making them is slower than the disk."""

    def __init__(self, dtype: str) -> None:
        self.safetensors_name, self._dtype = _DTYPES[dtype]
        self.itemsize: int = self._dtype.itemsize
        self._normal = torch.randn(BLOCK_VALUES, generator=torch.Generator().manual_seed(0))
        self._made: dict[tuple[float, float], memoryview] = {}
        self._tensors = 0

    def stagger(self) -> int:
        """Return the start of the next tensor in its block; starts differ, as a builder stores equal tensors once."""
        self._tensors += 1
        return self._tensors * STAGGER_BYTES % (BLOCK_VALUES * self.itemsize)

    def of(self, name: str, shape: tuple[int, ...]) -> memoryview:
        """Return the block for a tensor: linears keep activations near 1, norms are near 1, layer scales near 0.1."""
        key = _distribution(name, shape)
        if key not in self._made:
            mean, deviation = key
            values = (self._normal * deviation + mean).to(self._dtype)
            self._made[key] = values.view(torch.uint8).numpy().data
        return self._made[key]


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if name.endswith("bias"):
        return 0.0, 0.02
    if ".ls" in name:
        return 0.1, 0.02
    if len(shape) <= 1:
        return (2.66, 0.0) if name == "logit_scale" else (1.0, 0.1)
    if len(shape) == 2 and "embed" not in name:
        return 0.0, round(shape[1] ** -0.5, 4)
    return 0.0, 0.05


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        size = itemsize * math.prod(shape)
        if held + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], blocks: _Blocks) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + blocks.itemsize * math.prod(shape)
        header[name] = {"dtype": blocks.safetensors_name, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for piece in _pieces(blocks.of(name, shape), blocks.stagger(), blocks.itemsize * math.prod(shape)):
                file.write(piece)


def _pieces(block: memoryview, start: int, size: int) -> Iterator[memoryview]:
    while size > 0:
        piece = block[start : start + size]
        yield piece
        size -= len(piece)
        start = 0


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="internvit-6b", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Vision blocks; default: all.")
@click.option("--dtype", type=click.Choice(list(_DTYPES)), default="float16", show_default=True)
@click.option("--tokenizer", is_flag=True, help="Copy an example's tokenizer beside the weights.")
def main(folder: Path, preset: str, layers: int | None, dtype: str, tokenizer: bool) -> None:
    """Write a random checkpoint to FOLDER."""
    click.echo(f"{folder}: {write_checkpoint(folder, preset, layers, dtype, tokenizer) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
