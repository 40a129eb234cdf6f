"""Open a checkpoint: find and read its files, and give its tensors their official names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from internvl_edge.export.checkpoint.adapters import (
    Strength,
    adapted_modules,
    check_whole,
    merged,
    placed,
    split_adapters,
)
from internvl_edge.export.checkpoint.config.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from internvl_edge.export.checkpoint.config.chat_files import CONVERSATION_FILES
from internvl_edge.export.checkpoint.config.companions import read_companions
from internvl_edge.export.checkpoint.config.config_json import ConfigFile, read_config
from internvl_edge.export.checkpoint.config.preprocessor import read_preprocessing, read_tile_limits
from internvl_edge.export.checkpoint.files.hub import from_hub
from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor, StoredTensor
from internvl_edge.export.checkpoint.files.torch_file import read_torch_file
from internvl_edge.export.checkpoint.files.weight_files import Wanted, read_weights
from internvl_edge.export.checkpoint.joined_rows import with_joined_rows
from internvl_edge.export.checkpoint.names import LANGUAGE_MODEL, Naming, naming_of, official_names
from internvl_edge.export.checkpoint.required_tensors import FLOATS
from internvl_edge.export.checkpoint.shapes import (
    as_plain_file,
    as_stored,
    config_from_shapes,
    with_tied_head,
)
from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig, ModelConfig, QllamaConfig
from internvl_edge.export.models.families.connector import ROUTER, tiled
from internvl_edge.export.models.families.fields import FieldReader, listed
from internvl_edge.export.models.families.language.support import ROUTED, reason_in_weights
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.errors import CheckpointError

_ADAPTER_FILES = {"adapter_model.safetensors": read_safetensors, "adapter_model.bin": read_torch_file}
_NO_WEIGHTS = "no file holds its weights; give the whole checkpoint"
_TEXT_FILES = (
    *("config.json", "generation_config.json", ADAPTER_CONFIG),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"),
    *CONVERSATION_FILES,
)
"""Names of files beside the weights that a result may depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint, without any weight in memory."""

    folder: Path
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    ignored: tuple[str, ...]
    """Stored names of tensors that no graph needs."""
    tokenizer_file: Path | None
    accepted_fields: tuple[str, ...] = ()
    """Unknown fields in its files that the user accepted as having no effect."""
    absent_files: tuple[str, ...] = ()
    """Names of missing shards that hold nothing that a graph needs."""
    text_files: tuple[Path, ...] = ()
    """Paths of the configuration, tokenizer and index files that a result may depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """Tensors under official names, separated into those that graphs need and those that they do not."""

    needed: Mapping[str, LazyTensor]
    unused: Mapping[str, LazyTensor]
    left: tuple[str, ...]
    """Stored names of tensors that no graph needs."""
    naming: Naming
    absent: tuple[str, ...]
    indexes: tuple[Path, ...]


def open_checkpoint(
    source: str | Path,
    revision: str | None = None,
    accept: Iterable[str] = (),
    state_dict: str | None = None,
    language: bool = True,
) -> Checkpoint:
    """Open a folder, a weight file, an index of weight files, or a Hub id.

    `accept` names unknown fields that the user declares to have no effect. `state_dict` chooses among several sets of
    weights, for example ``model_ema``. Without `language` the files of a language model may be absent, and its fields
    not supported.

    Raises:
        CheckpointError: there is no checkpoint, a file is damaged, or the model is not supported.
    """
    path = Path(source)
    if not path.exists():
        path = from_hub(str(source), revision)
    folder = path if path.is_dir() else path.parent
    reader = FieldReader(frozenset(accept))
    file = _config_file(folder, reader, language)
    adapter = _adapter_config(folder, reader)
    spoken = file is not None and file.model.find(LanguageConfig) is not None
    named = _named(path, Wanted(state_dict=state_dict, language=spoken and language))
    if spoken and not language and not named.absent:
        named = _named(path, Wanted(state_dict=state_dict, language=True))
    config = file.model if file is not None else config_from_shapes(named.needed, named.unused, path)
    if spoken and (reason := _language_reason(named, path)) is not None:
        named, config = _named(path, Wanted(state_dict=state_dict)), config.without_language(reason)
    if named.naming.plain:
        config = as_plain_file(config, named.needed)
    if (qllama := config.find(QllamaConfig)) is not None:
        read_companions(folder, qllama, reader)
    asked = config.vision.image_size
    config = as_stored(config, named.needed)
    pictures = read_preprocessing(folder, config.vision.image_size, reader)
    if config.find(ConnectorConfig) is not None and pictures.image_size == config.vision.image_size:
        pictures = pictures.at_size(asked)  # chat models interpolate the position table to the size in their config
    config = replace(config, preprocessing=pictures)
    if config.layout == "internvl_hf":
        config = tiled(config, **read_tile_limits(folder, reader))
    accepted = reader.finish()
    tensors = with_joined_rows(_with_adapters(named, path, file, adapter))
    tokenizer = folder / "tokenizer.model"
    return Checkpoint(
        folder=folder,
        config=config,
        tensors=with_tied_head(tensors, config),
        ignored=named.left,
        tokenizer_file=tokenizer if tokenizer.exists() else None,
        accepted_fields=accepted,
        absent_files=named.absent,
        text_files=(*named.indexes, *(folder / name for name in _TEXT_FILES if (folder / name).exists())),
    )


def _named(path: Path, wanted: Wanted) -> _Named:
    """Return the tensors at `path` under official names."""
    stored = read_weights(path, wanted)
    naming = naming_of([*stored.tensors, *stored.left], str(path), wanted.state_dict, wanted.language)
    needed: dict[str, LazyTensor] = {}
    unused: dict[str, LazyTensor] = {}
    left = list(stored.left)
    for name, official in official_names(stored.tensors, naming, str(path)).items():
        tensor = replace(stored.tensors[name], name=official)
        if naming.is_unused(official):
            unused[official] = tensor
            left.append(name)
        else:
            needed[official] = tensor
    return _Named(
        needed=needed,
        unused=unused,
        left=tuple(left),
        naming=naming,
        absent=stored.absent,
        indexes=stored.read,
    )


def _language_reason(named: _Named, path: Path) -> str | None:
    """Return why the stored language model has no graph; None if it has one."""
    if any(re.match(ROUTER, name) for name in [*named.unused, *named.left]):
        return ROUTED
    names = [(name, tensor.dtype) for name, tensor in named.needed.items() if name.startswith(LANGUAGE_MODEL)]
    if not names:
        return f"no file holds its weights; {listed(named.absent)} are absent" if named.absent else _NO_WEIGHTS
    if (beside := _adapter_beside(path)) is not None:
        adapter = placed(_ADAPTER_FILES[beside.name](beside), [*named.needed, *named.unused], named.naming)
        names += [(name, tensor.dtype) for name, tensor in adapter.items() if name.startswith(LANGUAGE_MODEL)]
    return reason_in_weights(names, FLOATS)


def _config_file(folder: Path, reader: FieldReader, language: bool) -> ConfigFile | None:
    file, tokenizer = folder / "config.json", folder / "tokenizer.model"
    if not file.exists():
        return None
    return read_config(
        read_json(file),
        reader,
        lambda text: Tokenizer(tokenizer).token_id(text) if tokenizer.exists() else None,
        language,
    )


def _adapter_config(folder: Path, reader: FieldReader) -> AdapterConfig | None:
    file = folder / ADAPTER_CONFIG
    return read_adapter_config(read_json(file), reader) if file.exists() else None


def _with_adapters(
    named: _Named, path: Path, file: ConfigFile | None, config: AdapterConfig | None
) -> dict[str, LazyTensor | MergedTensor]:
    """Return the tensors with all adapters merged, from among the weights and from an adapter file beside them.

    Raises:
        CheckpointError: an adapter does not fit, has no known factor, or seems to be missing.
    """
    plain, halves = split_adapters(named.needed, named.naming)
    beside = _adapter_beside(path)
    strength = Strength(
        config=config,
        backbone_rank=file.backbone_lora if file is not None else 0,
        qllama_rank=file.qllama_lora if file is not None else 0,
    )
    if beside is not None:
        if config is None:
            raise CheckpointError(f"{path}: holds {beside.name} without {ADAPTER_CONFIG}; put that file beside it")
        if halves:
            raise CheckpointError(f"{path}: holds adapters among its weights and in {beside.name}; keep one of them")
        extra = placed(_ADAPTER_FILES[beside.name](beside), [*plain, *named.unused, *named.left], named.naming)
        replaced, halves = split_adapters(extra, named.naming)
        plain |= {name: tensor for name, tensor in replaced.items() if not named.naming.is_unused(name)}
        check_whole(config, extra, plain)
    elif config is not None and not halves and not any(adapted_modules(named.left)):
        raise CheckpointError(
            f"{path}: holds {ADAPTER_CONFIG}, but no adapter; if it is merged, remove that file, if it is lost, add it"
        )
    elif file is not None and not halves and (strength.backbone_rank or strength.qllama_rank):
        ranks = f"use_backbone_lora {strength.backbone_rank}, use_qllama_lora {strength.qllama_rank}"
        raise CheckpointError(
            f"{path}: config.json speaks of LoRA adapters ({ranks}), the weights hold none; if they are merged, set "
            "both fields to 0, if they are lost, give all of the weights"
        )
    return merged(plain, halves, strength)


def _adapter_beside(path: Path) -> Path | None:
    """Return the adapter file beside the base weights, or None.

    Raises:
        CheckpointError: `path` is a single file beside an adapter, so that it is not clear whether to merge it.
    """
    folder = path if path.is_dir() else path.parent
    found = next((folder / name for name in _ADAPTER_FILES if (folder / name).exists()), None)
    if found is not None and not path.is_dir():
        raise CheckpointError(
            f"{path}: {found.name} lies beside it; give the folder to merge it, or move it away to leave it out"
        )
    return found
