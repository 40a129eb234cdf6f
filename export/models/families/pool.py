"""The attention pool after the tower, which computes the feature shared by pictures and texts."""

from collections.abc import Mapping, Sequence

from internvl_edge.export.models.config import ModelConfig, PartConfig, PoolConfig
from internvl_edge.export.models.families.family import ConfigSource, Family, Module, Shapes, StoredShapes
from internvl_edge.export.models.pool import AttentionPool
from internvl_edge.runtime.errors import CheckpointError

_POOLED = "clip_projector.cross_attn.proj.weight"
_HEADS = {(3200, 768): 16}
"""(width, width of the feature) -> number of heads of the released attention pool."""


def _read(source: ConfigSource, parts: Sequence[PartConfig]) -> PoolConfig:
    return PoolConfig(**{name: source.top[name] for name in ("embed_dim", "pool_heads") if name in source.top})


def _from_shapes(stored: StoredShapes, parts: Sequence[PartConfig]) -> PoolConfig | None:
    if _POOLED not in stored.needed:
        return None
    embed, width = stored.needed[_POOLED]
    heads = _HEADS.get((width, embed))
    if heads is None:
        stored.unclear.append(f"an attention pool from {width} to {embed}")
    return PoolConfig(embed_dim=embed, pool_heads=heads or 1)


def _in_plain_file(model: ModelConfig, shapes: Shapes) -> PoolConfig | None:
    """Return the stored pool with the number of heads in the config, or None if no pool is stored.

    Raises:
        CheckpointError: neither config nor shapes determine the number of heads.
    """
    stored = StoredShapes(needed=shapes, unused={})
    found, said = _from_shapes(stored, ()), model.find(PoolConfig)
    if found is None:
        return None
    if said is not None:
        return PoolConfig(embed_dim=found.embed_dim, pool_heads=said.pool_heads)
    if stored.unclear:
        raise CheckpointError(
            f"config.json: does not state the number of heads of {stored.unclear[0]}; add model_type internvl and "
            "attn_pool_num_heads"
        )
    return found


def _modules(model: ModelConfig) -> Mapping[str, Module]:
    pool = model.need(PoolConfig)
    return {"clip_projector": AttentionPool(model.vision.hidden_size, pool.embed_dim, pool.pool_heads)}


POOL = Family(
    name="pool",
    kind=PoolConfig,
    tensors=("clip_projector",),
    read=_read,
    from_shapes=_from_shapes,
    in_plain_file=_in_plain_file,
    modules=_modules,
)
