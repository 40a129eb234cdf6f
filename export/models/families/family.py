"""Description of a model family: how its config is read, which tensors it owns, and which linears are quantized."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from internvl_edge.calib.sites import Site
from internvl_edge.export.models.config import Layout, ModelConfig, PartConfig, VisionConfig
from internvl_edge.export.models.families.common_fields import CONFIG_FILE
from internvl_edge.export.models.families.fields import FieldReader
from internvl_edge.runtime.errors import CheckpointError

TokenId = Callable[[str], int | None]
"""Function from the text of a token to its id, or to None if the tokenizer has no such token."""
Shapes = Mapping[str, tuple[int, ...]]
"""Official name of a tensor -> its shape."""
Module = nn.Module | nn.Parameter
_LANGUAGE_PARTS: Mapping[Layout, str] = {"internvl_chat": "llm_config", "internvl_hf": "text_config"}
"""Layout of a chat checkpoint -> name of the object that describes its language model."""


class StoredTensor(Protocol):
    """A tensor on disk, whose shape is known without reading it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    def torch(self) -> Tensor:
        """Return the values of the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """Content of the `config.json` from which a part is read."""

    layout: Layout
    top: Mapping[str, Any]
    """Values of the top level, by the target names of its table."""
    reader: FieldReader
    token_id: TokenId

    @property
    def language_part(self) -> str | None:
        """Name of the object that describes the language model of a chat checkpoint; None in other layouts."""
        return _LANGUAGE_PARTS.get(self.layout)

    def part(self, name: str) -> Mapping[str, Any]:
        """Return the object `name` of the top level, or an empty one if there is none.

        Raises:
            CheckpointError: the value is no object.
        """
        return part_of(self.top, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShapes:
    """Shapes of the tensors of weights without a `config.json`."""

    needed: Shapes
    unused: Shapes
    """Shapes of tensors that no graph needs; rotary frequencies may be among them."""
    unclear: list[str] = field(default_factory=list)
    """Parts, in words, whose number of heads the shapes do not determine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Module paths of a linear after the last block and of the norm before it."""

    path: str
    norm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStack:
    """The blocks of a part, with the functions that run samples through them one block at a time."""

    path: str
    """Module path of a block, with ``{}`` for its index; None if the part has no blocks."""
    count: Callable[[ModelConfig], int]
    """Return the number of blocks."""
    width: Callable[[ModelConfig], int]
    """Return the number of values in the widest activation of one row."""
    embeddings: str
    """Module path of the embeddings before the first block; their weights are in memory only while they run."""
    run: Callable[[Any, nn.Module, Tensor, Any, Any], tuple[Tensor, Any]]
    """Return the rows after a block and its cache, from model, block, rows before it, context and past cache."""
    kept: tuple[str, ...] = ()
    """Module paths and parameters outside of the blocks that all blocks need."""
    head: Head | None = None
    """Quantized linear after the last block; None if there is none."""

    def blocks(self, model: ModelConfig) -> tuple[str, ...]:
        """Return the module paths of the blocks in order."""
        return tuple(self.path.format(index) for index in range(self.count(model)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of part. `kind` is the class of its config, which its functions return."""

    name: str
    kind: type[PartConfig]
    tensors: tuple[str, ...]
    """First components of the official names of its tensors; each tensor of a model belongs to one family."""
    read: Callable[[ConfigSource, Sequence[PartConfig]], PartConfig | None]
    """Return the part that a `config.json` describes, given the parts read before it; the tower is the first.

    Return None if the file describes a part of another family, such as another language model.
    """
    from_shapes: Callable[[StoredShapes, Sequence[PartConfig]], PartConfig | None]
    """Return the part that shapes describe, given the parts found before it; None if it is not stored."""
    modules: Callable[[ModelConfig], Mapping[str, Module]]
    """Return the torch modules and parameters of the part under their official names."""
    in_plain_file: Callable[[ModelConfig, Shapes], PartConfig | None]
    """Return the part as a plain-PyTorch file stores it, or None if the file does not."""
    as_stored: Callable[[ModelConfig, Shapes], PartConfig | None] = lambda model, shapes: None
    """Return the part corrected by the stored shapes, or None if nothing changes."""
    computed: Callable[[ModelConfig, Mapping[str, StoredTensor]], Mapping[str, Tensor]] = lambda model, stored: {}
    """Return the tensors that are computed from the config and from stored tensors."""
    tied: Callable[[ModelConfig], tuple[str, str] | None] = lambda model: None
    """Return the names of a head that may be stored tied and of the embedding table that then is the head too."""
    sites: Callable[[ModelConfig], Iterator[Site]] = lambda model: iter(())
    """Yield the sites of the part, which are linears that may be quantized, in the order of the forward."""
    stack: BlockStack | None = None
    """The blocks of the part; None if it has none."""
    plain_root: tuple[str, str] | None = None
    """Prefix of most names in plain-PyTorch files, such as ``blocks.``, and the official prefix; None if equal."""
    other_names: tuple[tuple[re.Pattern[str], str], ...] = ()
    """Patterns of names in other layouts, with the official names (MODEL.md 2.2, CHAT.md 3)."""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Module whose rows other layouts store as several modules -> these modules in order; all are last components."""
    unused: tuple[str, ...] = ()
    """Patterns of the names of tensors that older code wrote and no graph needs (MODEL.md 2.1)."""

    def owns(self, name: str) -> bool:
        """Return whether the tensor with official name `name` belongs to this family."""
        return name.split(".")[0] in self.tensors

    def official(self, name: str) -> str | None:
        """Return the official name of a tensor of another layout, or None if it is not of this family."""
        for pattern, replacement in self.other_names:
            renamed, count = pattern.subn(replacement, name)
            if count:
                return renamed
        if self.plain_root is not None and name.startswith(self.plain_root[0]):
            return self.plain_root[1] + name.removeprefix(self.plain_root[0])
        return None


def tower_of(parts: Sequence[PartConfig]) -> VisionConfig | None:
    """Return the tower among `parts`, or None."""
    return next((part for part in parts if isinstance(part, VisionConfig)), None)


def part_of(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object `name` of `content`, or an empty one if there is none.

    Raises:
        CheckpointError: the value is no object.
    """
    part = content.get(name) or {}
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{name} is no object")
    return part


def check_heads(part: str, heads: int, head_dim: int, fields: Mapping[str, Any], reader: FieldReader) -> None:
    """Report grouped key/value heads, and a head size that is not the width divided by the number of heads."""
    key_value_heads, said = fields.get("key_value_heads"), fields.get("head_dim")
    if key_value_heads not in (None, heads):
        reader.find(CONFIG_FILE, f"{part} {heads} heads share {key_value_heads} grouped key/value heads")
    if said not in (None, head_dim):
        reader.find(CONFIG_FILE, f"{part} head_dim is {said!r}, but each of {heads} heads has {head_dim}")


def layer_count(shapes: Shapes, prefix: str) -> int:
    """Return the number of layers whose names begin with `prefix` and an index."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix))
