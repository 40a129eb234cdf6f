"""Derive the config from the tensors' names and shapes: corrections of a given one, or all of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from internvl_edge.export.checkpoint.files.tensors import LazyTensor, MergedTensor, StoredTensor
from internvl_edge.export.models.config import Layout, ModelConfig, PartConfig, QllamaConfig
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.family import Shapes, StoredShapes
from internvl_edge.export.models.families.fields import listed
from internvl_edge.runtime.errors import CheckpointError


def as_plain_file(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` with only the parts that a plain-PyTorch file holds: tower, and maybe pool and text encoder.

    Raises:
        CheckpointError: neither config nor shapes determine the number of heads of the attention pool.
    """
    shapes = _shapes(tensors)
    found = [part for family in FAMILIES if (part := family.in_plain_file(config, shapes)) is not None]
    return replace(config, layout=_layout(found), parts=tuple(found))


def as_stored(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return `config` corrected by the tensors: rows of the position table, and layers with cross-attention."""
    shapes = _shapes(tensors)
    for family in FAMILIES:
        if config.find(family.kind) is not None and (part := family.as_stored(config, shapes)) is not None:
            config = config.with_part(part)
    return config


def with_tied_head(tensors: dict[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """Return `tensors` with the embedding table as head if no head is stored: the file was saved tied (MODEL.md T1).

    Raises:
        CheckpointError: the table has an adapter, and it is not known whether the head was trained with it.
    """
    for family in FAMILIES:
        tied = family.tied(config) if config.find(family.kind) is not None else None
        if tied is None or tied[0] in tensors or (table := tensors.get(tied[1])) is None:
            continue
        head, embedding = tied
        if isinstance(table, MergedTensor):
            raise CheckpointError(
                f"LoRA adapters: {embedding} has one and is the head too, as no {head} is stored: with or without it "
                "is unclear; merge it with PEFT"
            )
        tensors = tensors | {head: replace(table, name=head)}
    return tensors


def config_from_shapes(
    tensors: Mapping[str, StoredTensor], unused: Mapping[str, LazyTensor], source: Path
) -> ModelConfig:
    """Return the config of weights that have no config file.

    Values that shapes do not determine are those of the released models (MODEL.md 1.1). `unused` holds the tensors that
    no graph needs, by official name; rotary frequencies may be among them.

    Raises:
        CheckpointError: the names are not those of InternViT or InternVL-C, or the number of heads is not determined.
    """
    stored = StoredShapes(needed=_shapes(tensors), unused=_shapes(unused))
    try:
        parts: list[PartConfig] = []
        for family in FAMILIES:
            part = family.from_shapes(stored, parts)
            parts += [part] if part is not None else []
        config = ModelConfig(layout=_layout(parts), parts=tuple(parts))
    except KeyError as error:
        finding = f"no config.json beside it and no tensor {error}"
        raise CheckpointError(f"{source}: {finding}; give the folder of the checkpoint") from error
    except (CheckpointError, ValueError, IndexError) as error:
        finding = f"no config.json beside it, and the shapes are not those of a released model ({error})"
        raise CheckpointError(f"{source}: {finding}; put the config.json beside it") from error
    if stored.unclear:
        raise CheckpointError(
            f"{source}: no config.json beside it, and shapes do not determine the number of heads of "
            f"{listed(stored.unclear)}; put the config.json beside it"
        )
    return config


def _layout(parts: list[PartConfig]) -> Layout:
    """Return the layout of a plain-PyTorch file, or of weights without a config."""
    return "internvl" if any(isinstance(part, QllamaConfig) for part in parts) else "internvit"


def _shapes(tensors: Mapping[str, StoredTensor]) -> Shapes:
    return {name: tensor.shape for name, tensor in tensors.items()}
