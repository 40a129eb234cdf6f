"""Check the picture size and the feature layers of an export against the model."""

from collections.abc import Sequence
from dataclasses import replace

from internvl_edge.export.models.config import ConnectorConfig, ModelConfig
from internvl_edge.runtime.errors import ExportError

MOST_PIXELS = 8192
"""Largest side of a picture; it has 586 x 586 positions with patches of 14."""


def at_image_size(config: ModelConfig, image_size: int | None) -> ModelConfig:
    """Return `config` for pictures of `image_size` pixels a side; None keeps the checkpoint's own.

    Raises:
        ExportError: the size is no multiple of the patch size, or its grid does not fit the pixel shuffle; or
            `image_size` is None and the checkpoint's files name two sizes.
    """
    if image_size is None and config.pictures.image_size != config.vision.image_size:
        own, files = config.vision.image_size, config.pictures.image_size
        raise ExportError(
            f"picture size: the position table has {own} px, the checkpoint's files name {files} px; choose with"
            f" --image-size {own} or --image-size {files}"
        )
    if image_size is None or image_size == config.vision.image_size == config.pictures.image_size:
        return config
    patch = config.vision.patch_size
    if image_size > MOST_PIXELS:
        raise ExportError(f"--image-size {image_size}: more than {MOST_PIXELS}, a table that no tower has; lower it")
    if image_size <= 0 or image_size % patch:
        near = max(patch, round(image_size / patch) * patch)
        raise ExportError(f"--image-size {image_size}: no multiple of the patch size {patch}; try {near}")
    connector = config.find(ConnectorConfig)
    if connector is not None and (image_size // patch) % connector.factor:
        raise ExportError(
            f"--image-size {image_size}: the connector needs an even patch grid; try {image_size + patch}"
        )
    pictures = config.pictures.at_size(image_size)
    return replace(config, preprocessing=pictures).with_part(replace(config.vision, image_size=image_size))


def checked_feature_layers(layers: Sequence[int], config: ModelConfig) -> tuple[int, ...]:
    """Return `layers` as indexes of blocks from 0; negative ones count from the end.

    Raises:
        ExportError: with all indexes that the tower does not have.
    """
    count = config.vision.num_layers
    outside = [layer for layer in layers if not -count <= layer < count]
    if outside:
        raise ExportError(f"--feature-layers {outside}: the tower has blocks 0 to {count - 1}; choose among them")
    return tuple(layer % count for layer in layers)
