"""Write a chat checkpoint of the official layout again as transformers' native layout: `native_checkpoint.py IN OUT`.

The bytes of the weights stay as they are; only names change, and the tower's query, key and value rows, which follow
each other in the file, get a name each (CHAT.md 3).
"""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

_TOWER = "vision_tower.encoder.layer"
_RENAMED = (
    (re.compile(r"^vision_model\.embeddings\.class_embedding$"), "vision_tower.embeddings.cls_token"),
    (re.compile(r"^vision_model\.embeddings\.position_embedding$"), "vision_tower.embeddings.position_embeddings"),
    (
        re.compile(r"^vision_model\.embeddings\.patch_embedding\."),
        "vision_tower.embeddings.patch_embeddings.projection.",
    ),
    (re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.norm1\."), rf"{_TOWER}.\1.layernorm_before."),
    (re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.norm2\."), rf"{_TOWER}.\1.layernorm_after."),
    (re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.ls(\d)$"), rf"{_TOWER}.\1.lambda_\2"),
    (re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.attn\.proj\."), rf"{_TOWER}.\1.attention.projection_layer."),
    (re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.attn\."), rf"{_TOWER}.\1.attention."),
    (re.compile(r"^vision_model\.encoder\.layers\."), f"{_TOWER}."),
    (re.compile(r"^mlp1\.0\."), "multi_modal_projector.layer_norm."),
    (re.compile(r"^mlp1\.1\."), "multi_modal_projector.linear_1."),
    (re.compile(r"^mlp1\.3\."), "multi_modal_projector.linear_2."),
)
"""Patterns of official names with the native ones; the first that fits is taken, and other names stay."""


def write_native(official: Path, folder: Path, context_token_id: int) -> None:
    """Write the checkpoint in folder `official` to `folder` in the native layout."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads((official / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(_config(content, context_token_id), indent=2))
    weight_map: dict[str, str] = {}
    for file in sorted(official.glob("*.safetensors")):
        for name in _write_file(file, folder / file.name):
            weight_map[name] = file.name
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_language_model(official: Path, folder: Path) -> None:
    """Write the language model of the checkpoint in folder `official` to `folder` as a checkpoint of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads((official / "config.json").read_text())["llm_config"]
    (folder / "config.json").write_text(json.dumps(content | {"torch_dtype": "bfloat16"}, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"):
        shutil.copyfile(official / name, folder / name)
    (file,) = official.glob("*.safetensors")
    tensors, start = _header(file)
    kept = {name.removeprefix("language_model."): at for name, at in tensors.items() if name.startswith("language_")}
    first = min(at["data_offsets"][0] for at in kept.values())
    moved = {
        name: at | {"data_offsets": [offset - first for offset in at["data_offsets"]]} for name, at in kept.items()
    }
    _copied(file, start + first, moved, folder / "model.safetensors")


def _config(content: dict[str, Any], context_token_id: int) -> dict[str, Any]:
    """Return the native config of an official one (CHAT.md 2)."""
    vision, language = content["vision_config"], content["llm_config"]
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": vision["hidden_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "intermediate_size": vision["intermediate_size"],
            "image_size": [vision["image_size"]] * 2,
            "patch_size": [vision["patch_size"]] * 2,
            "attention_bias": vision["qkv_bias"],
            "use_qk_norm": vision["qk_normalization"],
            "norm_type": vision.get("norm_type", "rms_norm"),
            "layer_norm_eps": vision["layer_norm_eps"],
            "use_mean_pooling": True,
        },
        "text_config": language,
        "image_token_id": context_token_id,
        "image_seq_length": (vision["image_size"] // vision["patch_size"] // 2) ** 2,
        "downsample_ratio": content["downsample_ratio"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": content["select_layer"],
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _write_file(source: Path, target: Path) -> list[str]:
    tensors, start = _header(source)
    renamed = dict(entry for name, at in tensors.items() for entry in _native(name, at))
    _copied(source, start, renamed, target)
    return list(renamed)


def _native(name: str, at: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the native names of a tensor with their types, shapes and places."""
    pattern, replacement = next((row for row in _RENAMED if row[0].search(name)), (re.compile(r"^"), ""))
    native = pattern.sub(replacement, name, count=1)
    if ".attention.qkv." not in native:
        yield native, at
        return
    first, last = at["data_offsets"]
    rows, size = at["shape"][0] // 3, (last - first) // 3
    for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
        begin = first + index * size
        shape = [rows, *at["shape"][1:]]
        yield native.replace(".qkv.", f".{part}."), at | {"shape": shape, "data_offsets": [begin, begin + size]}


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return name -> type, shape and place of the tensors of a safetensors file, and where their bytes begin."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        content: dict[str, Any] = json.loads(stream.read(length))
    content.pop("__metadata__", None)
    return content, 8 + length


def _copied(source: Path, start: int, tensors: dict[str, dict[str, Any]], target: Path) -> None:
    """Write `target` with these tensors, whose bytes follow each other in `source` from `start` on."""
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    left = max(at["data_offsets"][1] for at in tensors.values())
    with source.open("rb") as stream, target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        stream.seek(start)
        while left > 0:
            piece = stream.read(min(left, 1 << 24))
            file.write(piece)
            left -= len(piece)


@click.command()
@click.argument("official", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--context-token-id", type=int, required=True, help="Id of <IMG_CONTEXT> in the tokenizer.")
def main(official: Path, folder: Path, context_token_id: int) -> None:
    """Write the chat checkpoint OFFICIAL to FOLDER in transformers' native layout."""
    write_native(official, folder, context_token_id)


if __name__ == "__main__":
    main()
