"""What a family of parts is: how its config is read, which tensors are its own, and where it is quantized."""

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
"""Gives the id of a token's text, or None where the tokenizer has no such token."""
Shapes = Mapping[str, tuple[int, ...]]
"""Official name of a tensor -> its shape."""
Module = nn.Module | nn.Parameter


class StoredTensor(Protocol):
    """A tensor on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, known without reading it."""

    def torch(self) -> Tensor:
        """Return its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """The `config.json` that a part is read from."""

    layout: Layout
    top: Mapping[str, Any]
    """Values of the top level, by the names that its table gives them."""
    reader: FieldReader
    token_id: TokenId

    def part(self, name: str) -> Mapping[str, Any]:
        """Return the object `name` of the top level, empty where there is none.

        Raises:
            CheckpointError: it is no object.
        """
        return part_of(self.top, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShapes:
    """Weights without a `config.json`."""

    needed: Shapes
    unused: Shapes
    """Tensors that no graph needs: among them may be the rotary frequencies."""
    unclear: list[str] = field(default_factory=list)
    """Parts whose number of heads shapes do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A linear behind the last block, and the norm before it, by their module paths."""

    path: str
    norm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStack:
    """The blocks of a part, and how samples pass through them one block at a time."""

    path: str
    """Module path of a block, with ``{}`` for its index."""
    count: Callable[[ModelConfig], int]
    """Return the number of blocks."""
    width: Callable[[ModelConfig], int]
    """Return the number of values in the widest activation of one row."""
    embeddings: str
    """Module path of what gives the rows before the first block; its weights are in memory only while it does."""
    run: Callable[[Any, nn.Module, Tensor, Any, Any], tuple[Tensor, Any]]
    """Return the rows after a block, and its cache, from the model, the block, the rows before it, what the layers see
    beside them, and the cache that the rows continue.
    """
    kept: tuple[str, ...] = ()
    """Module paths and parameters outside of the blocks that all blocks need."""
    head: Head | None = None
    """What stands behind the last block, where it is quantized."""

    def blocks(self, model: ModelConfig) -> tuple[str, ...]:
        """Return the module paths of the blocks in order."""
        return tuple(self.path.format(index) for index in range(self.count(model)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of part. `kind` is the class of its config; every function takes or gives a config of that class."""

    name: str
    kind: type[PartConfig]
    tensors: tuple[str, ...]
    """First components of the official names of its tensors: each tensor of a model belongs to one family."""
    read: Callable[[ConfigSource, Sequence[PartConfig]], PartConfig | None]
    """Return the part that a `config.json` describes, given the parts that were read before: the tower is the first.

    None where the file describes a part of another family, as another language model.
    """
    from_shapes: Callable[[StoredShapes, Sequence[PartConfig]], PartConfig | None]
    """Return the part that shapes tell of, given the parts found before; None where it is not stored."""
    modules: Callable[[ModelConfig], Mapping[str, Module]]
    """Return the torch modules and parameters of the part under their official names."""
    in_plain_file: Callable[[ModelConfig, Shapes], PartConfig | None]
    """Return the part as a plain-PyTorch file stores it, None where it does not."""
    as_stored: Callable[[ModelConfig, Shapes], PartConfig | None] = lambda model, shapes: None
    """Return the part corrected by what shapes say, None where they change nothing."""
    computed: Callable[[ModelConfig, Mapping[str, StoredTensor]], Mapping[str, Tensor]] = lambda model, stored: {}
    """Return the tensors that are computed from the config and from stored tensors, instead of stored as they are."""
    tied: Callable[[ModelConfig], tuple[str, str] | None] = lambda model: None
    """Return the name of a head that may be stored tied, and that of the table which then is the head too."""
    sites: Callable[[ModelConfig], Iterator[Site]] = lambda model: iter(())
    """Yield the linears that are quantized, in the order of the forward."""
    stack: BlockStack | None = None
    """Its blocks; None: it has none."""
    plain_root: tuple[str, str] | None = None
    """The beginning of most names in plain-PyTorch files, as ``blocks.``, and of the official ones."""
    plain_names: tuple[tuple[re.Pattern[str], str], ...] = ()
    """Patterns of the other names in plain-PyTorch files -> official names (MODEL.md 2.2)."""
    unused: tuple[str, ...] = ()
    """Patterns of tensors that older code wrote and that no graph needs (MODEL.md 2.1)."""

    def owns(self, name: str) -> bool:
        """Return whether the tensor of an official name is of this family."""
        return name.split(".")[0] in self.tensors

    def official(self, name: str) -> str | None:
        """Return the official name of a tensor of this family in a plain-PyTorch file, None where it is no such."""
        for pattern, replacement in self.plain_names:
            renamed, count = pattern.subn(replacement, name)
            if count:
                return renamed
        if self.plain_root is not None and name.startswith(self.plain_root[0]):
            return self.plain_root[1] + name.removeprefix(self.plain_root[0])
        return None


def tower_of(parts: Sequence[PartConfig]) -> VisionConfig | None:
    """Return the tower among `parts`."""
    return next((part for part in parts if isinstance(part, VisionConfig)), None)


def part_of(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object `name` of `content`, empty where there is none.

    Raises:
        CheckpointError: it is no object.
    """
    part = content.get(name) or {}
    if not isinstance(part, Mapping):
        raise CheckpointError(f"{name} is no object")
    return part


def check_heads(part: str, heads: int, head_dim: int, fields: Mapping[str, Any], reader: FieldReader) -> None:
    """Find grouped key/value heads, and heads of another size than the width divided by their number."""
    key_value_heads, said = fields.get("key_value_heads"), fields.get("head_dim")
    if key_value_heads not in (None, heads):
        reader.find(CONFIG_FILE, f"{part} {heads} heads share {key_value_heads} grouped key/value heads")
    if said not in (None, head_dim):
        reader.find(CONFIG_FILE, f"{part} head_dim is {said!r}, but each of {heads} heads has {head_dim}")


def layer_count(shapes: Shapes, prefix: str) -> int:
    """Return how many layers the names below `prefix` tell of."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix))
