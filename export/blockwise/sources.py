"""Sources of the values of all parameters and buffers: the checkpoint's tensors, and a few computed ones."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np
import torch

from internvl_edge.export.blockwise.streamed import Fetch
from internvl_edge.export.checkpoint.files.tensors import LazyTensor, StoredTensor
from internvl_edge.export.checkpoint.store.weight_sources import (
    ComputedTensor,
    QuantizedTensor,
    Source,
    stored_chunks,
    whole,
)
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.internvl import InternVLModel


def weight_sources(tensors: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, Source]:
    """Return the official name of every parameter and buffer of the model -> its source."""
    sources: dict[str, Source] = dict(tensors)
    for family in FAMILIES:
        if config.find(family.kind) is not None:
            computed = family.computed(config, tensors)
            sources |= {name: ComputedTensor(name=name, value=value) for name, value in computed.items()}
    return sources


def stored_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a checkpoint of `config` stores."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in InternVLModel(config).state_dict().items()}


def table_rows(source: Source, ids: np.ndarray) -> np.ndarray:
    """Return rows of the matrix of `source` in fp32, ``[..., C]`` for ids ``[...]``; no others are read from a file."""
    if not isinstance(source, LazyTensor) or source.strides is not None:
        rows: np.ndarray = whole(source)[torch.from_numpy(np.asarray(ids))].numpy()
        return rows
    size = source.nbytes // source.shape[0]
    known, places = np.unique(ids, return_inverse=True)
    part = replace(source, shape=source.shape[1:], nbytes=size)
    found = [replace(part, offset=source.offset + int(row) * size).torch().float().numpy() for row in known]
    gathered: np.ndarray = np.stack(found)[places.reshape(ids.shape)]
    return gathered


def _part(source: Source, skipped: int, out: torch.Tensor) -> Source:
    """Return the values of `source` that follow the first `skipped` ones, as many as `out` takes."""
    shape = tuple(out.shape)
    if isinstance(source, LazyTensor) and source.strides is None:
        size = source.nbytes // prod(source.shape)
        return replace(source, shape=shape, offset=source.offset + skipped * size, nbytes=out.numel() * size)
    return ComputedTensor(name=source.name, value=whole(source).flatten()[skipped : skipped + out.numel()].view(shape))


def fetch_from(sources: Mapping[str, Source]) -> Fetch:
    """Return a function that fills a tensor with the values of the source of a name, chunk by chunk."""

    def fetch(name: str, out: torch.Tensor, skipped: int = 0) -> None:
        source = sources[name]
        if out.numel() < prod(source.shape):
            source = _part(source, skipped, out)
        if isinstance(source, QuantizedTensor):
            out.copy_(source.dequantized())
            return
        flat, start = out.view(-1), 0
        for values in stored_chunks(source):
            flat[start : start + values.numel()] = values
            start += values.numel()

    return fetch
