"""A checkpoint as a torch model."""

from pathlib import Path

import torch

from internvl_edge.export.blockwise.sources import weight_sources
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.checkpoint.store.weight_sources import ComputedTensor
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.resolution import at_image_size


def load_model(folder: Path, image_size: int | None = None) -> tuple[ModelConfig, InternVLModel]:
    """Return the checkpoint as a torch model in fp32 with its weights, for pictures of `image_size` if given."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config if image_size is None else at_image_size(checkpoint.config, image_size)
    model = InternVLModel(config).eval()
    sources = weight_sources(checkpoint.tensors, config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            source = sources[name]
            tensor.copy_(source.value if isinstance(source, ComputedTensor) else source.torch())
    return config, model
