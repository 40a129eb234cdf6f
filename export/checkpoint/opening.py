"""Open a checkpoint: find its files, read them, and bring its tensors under the official names."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from internvl_edge.export.checkpoint.companions import read_companions
from internvl_edge.export.checkpoint.config_json import read_config
from internvl_edge.export.checkpoint.fields import FieldReader
from internvl_edge.export.checkpoint.json_file import read_json
from internvl_edge.export.checkpoint.preprocessor import read_preprocessing
from internvl_edge.export.config import (
    ALL_QLLAMA_GRAPHS,
    ModelConfig,
    QllamaConfig,
    VisionConfig,
)
from internvl_edge.export.lora import merge_lora
from internvl_edge.export.samples import PICTURE_SUFFIXES
from internvl_edge.export.tensor_files import LazyTensor, MergedTensor, read_safetensors, read_torch_file
from internvl_edge.runtime.errors import CheckpointError
from internvl_edge.runtime.tokenizer import Tokenizer

StoredTensor = LazyTensor | MergedTensor

_KNOWN_UNUSED = re.compile(r"rotary_emb\.inv_freq$|position_ids$|^language_model\.|^head\.|^llm_proj")
"""Written by older code (MODEL.md 2.1), or another program's part: a language model, a classifier's head."""

_PTH_NAMES = (
    (re.compile(r"^cls_token$"), "vision_model.embeddings.class_embedding"),
    (re.compile(r"^pos_embed$"), "vision_model.embeddings.position_embedding"),
    (re.compile(r"^patch_embed\.proj\."), "vision_model.embeddings.patch_embedding."),
    (re.compile(r"^blocks\.(\d+)\.(ls[12])\.gamma$"), r"vision_model.encoder.layers.\1.\2"),
    (re.compile(r"^blocks\."), "vision_model.encoder.layers."),
    (re.compile(r"^transformer\."), "qllama.model."),
)
"""Plain-PyTorch names -> official names (MODEL.md 2.2)."""
_PLAIN_MARK = "cls_token"
"""A name that every plain-PyTorch file has, and no other."""

_POSITIONS = "vision_model.embeddings.position_embedding"
_HEAD, _EMBEDDING = "qllama.lm_head.weight", "qllama.model.embed_tokens.weight"
_POOLED = "clip_projector.cross_attn.proj.weight"
_QUERIES = "query_tokens"
_CROSS_LAYER = re.compile(r"^qllama\.model\.layers\.(\d+)\.cross_attn\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint; no weight is in memory."""

    folder: Path
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    ignored: tuple[str, ...]
    """Names that are known and not needed."""
    tokenizer_file: Path | None
    accepted_fields: tuple[str, ...] = ()
    """Unknown fields of its files that the user accepted as having no effect."""

    @property
    def has_pictures(self) -> bool:
        """Whether the folder itself holds pictures to verify on."""
        return any(path.suffix.lower() in PICTURE_SUFFIXES for path in self.folder.iterdir())


def open_checkpoint(source: str | Path, revision: str | None = None, accept: Iterable[str] = ()) -> Checkpoint:
    """Open a folder, a single weight file or a Hub id.

    `accept` names fields of its files that no table knows and that the user declares to have no effect.

    Raises:
        CheckpointError: nothing is there, a file is broken, or the config does not describe a supported model.
    """
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source), revision)
    folder = path if path.is_dir() else path.parent
    reader = FieldReader(frozenset(accept))
    stored = _read_folder(path) if path.is_dir() else _read_file(path)
    tokenizer, config_file = folder / "tokenizer.model", folder / "config.json"
    tensors, ignored = _official(stored)
    if config_file.exists():
        config = read_config(read_json(config_file), reader, lambda text: _token_id(tokenizer, text)).model
    else:
        config = _config_from_shapes(tensors, path)
    if config.qllama is not None:
        read_companions(folder, config.qllama, reader)
    if _PLAIN_MARK in stored:
        config = _as_plain_file(config, tensors)
    config = _as_stored(config, tensors)
    config = replace(config, preprocessing=read_preprocessing(folder, config.vision.image_size, reader))
    accepted = reader.finish()
    return Checkpoint(
        folder=folder,
        config=config,
        tensors=_with_tied_head(tensors, config),
        ignored=tuple(ignored),
        tokenizer_file=tokenizer if tokenizer.exists() else None,
        accepted_fields=accepted,
    )


def _token_id(tokenizer: Path, text: str) -> int | None:
    return Tokenizer(tokenizer).token_id(text) if tokenizer.exists() else None


def _from_hub(name: str, revision: str | None) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name}: no such folder or file; give a checkpoint folder, a weight file or a Hub id")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such folder, and huggingface_hub is not installed; pip install huggingface_hub"
        ) from error
    wanted = ["*.json", "*.safetensors", "*.bin", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{name}: the Hub does not give it ({reason}); check the name and the network") from error


def _read_folder(folder: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a folder; safetensors before torch files, an index before a single file."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch_file)):
        if (index := folder / f"{name}.index.json").exists():
            return _read_shards(index, read)
        if (folder / name).exists():
            return read(folder / name)
    raise CheckpointError(
        f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, or an index of either"
    )


def _read_shards(index: Path, read: Callable[[Path], dict[str, LazyTensor]]) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map of tensors to files; download it again")
    shards = sorted(set(weight_map.values()))
    absent = [name for name in shards if not (index.parent / name).exists()]
    if absent:
        raise CheckpointError(f"{index}: names {len(absent)} absent shards: {', '.join(absent)}; download them")
    tensors: dict[str, LazyTensor] = {}
    for name in shards:
        tensors |= read(index.parent / name)
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise CheckpointError(f"{index}: {len(lost)} tensors are in no shard, as {lost[0]}; download the shards again")
    return tensors


def _read_file(path: Path) -> dict[str, LazyTensor]:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _official(stored: Mapping[str, LazyTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
    """Return the tensors under official names, LoRA merged, and the names that are known to be unused."""
    tensors: dict[str, LazyTensor] = {}
    ignored = []
    vision_only = "embeddings.class_embedding" in stored
    for name, tensor in stored.items():
        renamed = _renamed(name, vision_only)
        if _KNOWN_UNUSED.search(renamed):
            ignored.append(name)
        else:
            tensors[renamed] = tensor
    return {name: replace(tensor, name=name) for name, tensor in merge_lora(tensors).items()}, ignored


def _renamed(name: str, vision_only: bool) -> str:
    if vision_only:
        return f"vision_model.{name}"
    for pattern, official in _PTH_NAMES:
        renamed, count = pattern.subn(official, name)
        if count:
            return renamed
    return name


def _as_plain_file(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` cut to the parts of a plain-PyTorch file: the tower, maybe its pool, maybe the text encoder."""
    qllama = config.qllama if _EMBEDDING in tensors else None
    pooled = _POOLED in tensors
    return replace(
        config,
        family="internvl" if qllama else "internvit",
        qllama=qllama,
        embed_dim=tensors[_POOLED].shape[0] if pooled else None,
        pool_heads=(config.pool_heads or 16) if pooled else None,
        connector=None,
        qllama_graphs=("text",),
    )


def _as_stored(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` corrected by what the tensors say: the position table's rows, the layers with cross-attention."""
    table = tensors.get(_POSITIONS)
    vision = config.vision
    if table is not None and len(table.shape) == 3 and (side := _square_side(table.shape[1] - 1)):
        vision = replace(vision, image_size=side * vision.patch_size)
    qllama = config.qllama
    if qllama is not None:
        qllama = replace(qllama, cross_attention_layers=_cross_layers(config, qllama, tensors))
    return replace(config, vision=vision, qllama=qllama)


def _square_side(count: int) -> int:
    """Return the root of a square number, 0 for every other."""
    side = math.isqrt(max(count, 0))
    return side if side * side == count else 0


def _cross_layers(config: ModelConfig, qllama: QllamaConfig, names: Iterable[str]) -> tuple[int, ...]:
    """Return every f-th layer, f being the smallest step between stored ones, so that a lost layer counts as missing.

    The config's word stands only where no layer is stored: what it says of f is unreliable (MODEL.md T2).
    """
    found = {int(match[1]) for name in names if (match := _CROSS_LAYER.match(name))}
    stored = sorted(layer for layer in found if layer < qllama.num_layers)
    if not stored:
        return qllama.cross_attention_layers if "query" in config.qllama_graphs else ()
    step = min((after - before for before, after in pairwise(stored)), default=qllama.num_layers)
    return tuple(sorted({*range(stored[0] % step, qllama.num_layers, step), *stored}))


def _with_tied_head(tensors: dict[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """Return `tensors` with the embedding table as head where none is stored: the file was saved tied (MODEL.md T1)."""
    tied = config.qllama is not None and "decoder" in config.qllama_graphs
    if not tied or _HEAD in tensors or not isinstance(table := tensors.get(_EMBEDDING), LazyTensor):
        return tensors
    return tensors | {_HEAD: replace(table, name=_HEAD)}


def _config_from_shapes(tensors: Mapping[str, StoredTensor], path: Path) -> ModelConfig:
    """Return the config of a bare weight file; what shapes do not tell is that of the 6B family (MODEL.md 1.1).

    Raises:
        CheckpointError: the names are not those of InternViT-6B or InternVL-C.
    """
    try:
        vision = _vision_from_shapes(tensors)
        qllama = _qllama_from_shapes(tensors, vision) if _EMBEDDING in tensors else None
        return ModelConfig(
            family="internvl" if qllama else "internvit",
            vision=vision,
            qllama=qllama,
            embed_dim=tensors[_POOLED].shape[0] if _POOLED in tensors else None,
            pool_heads=16 if _POOLED in tensors else None,
            qllama_graphs=ALL_QLLAMA_GRAPHS if _QUERIES in tensors else ("text",),
        )
    except KeyError as error:
        finding = f"no config.json beside it and no tensor {error}"
        raise CheckpointError(f"{path}: {finding}; give the folder of the checkpoint") from error
    except (CheckpointError, ValueError, IndexError) as error:
        finding = f"no config.json beside it, and the shapes are not those of the 6B family ({error})"
        raise CheckpointError(f"{path}: {finding}; put the config.json beside it") from error


def _vision_from_shapes(tensors: Mapping[str, StoredTensor]) -> VisionConfig:
    width, _, patch, _ = tensors["vision_model.embeddings.patch_embedding.weight"].shape
    first = "vision_model.encoder.layers.0"
    layer_norm = f"{first}.norm1.bias" in tensors
    rows = tensors[_POSITIONS].shape[1]
    return VisionConfig(
        hidden_size=width,
        num_heads=width // (64 if layer_norm else 128),
        num_layers=_count(tensors, "vision_model.encoder.layers."),
        intermediate_size=tensors[f"{first}.mlp.fc1.weight"].shape[0],
        patch_size=patch,
        image_size=_square_side(rows - 1) * patch,
        norm_type="layer_norm" if layer_norm else "rms_norm",
        qkv_bias=f"{first}.attn.qkv.bias" in tensors,
        qk_norm=f"{first}.attn.q_norm.weight" in tensors,
    )


def _qllama_from_shapes(tensors: Mapping[str, StoredTensor], vision: VisionConfig) -> QllamaConfig:
    vocab, width = tensors[_EMBEDDING].shape
    config = QllamaConfig(
        hidden_size=width,
        num_heads=width // 128,
        num_layers=_count(tensors, "qllama.model.layers."),
        intermediate_size=tensors["qllama.model.layers.0.mlp.gate_proj.weight"].shape[0],
        vocab_size=vocab,
        vision_hidden_size=vision.hidden_size,
    )
    return replace(config, num_queries=tensors[_QUERIES].shape[1]) if _QUERIES in tensors else config


def _count(names: Iterable[str], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in names if name.startswith(prefix))
