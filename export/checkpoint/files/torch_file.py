"""Read the names, types and byte ranges of the tensors in a torch file, without their values."""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses import FakeTensorMode

from internvl_edge.export.checkpoint.files.pointers import refuse_pointer
from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.names import holds_a_tower
from internvl_edge.runtime.errors import CheckpointError, first_line

_NESTING_KEYS = ("module", "state_dict", "model", "model_state_dict", "model_state", "net", "weights", "params")
"""Keys under which training scripts store weights; in a file without a tower they win over other keys."""
_DEEPEST = 4
"""Most levels of nested dictionaries that are searched for tensors."""


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a ``.bin`` or ``.pth`` file; its pickle is read with `weights_only`, without the values.

    In nested dictionaries, the name of a tensor begins with the keys that lead to it if its dictionary holds a tower,
    because a file may hold several, for example ``model`` and ``model_ema``.

    Raises:
        CheckpointError: the file is corrupt, holds code, or is in torch's format from before 1.6.
    """
    refuse_pointer(path)
    tensors = _named(dict(_states(_load(path))), path)
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if sparse:
        raise CheckpointError(f"{path}: sparse tensors {', '.join(sparse)}; save them dense")
    if any(_storage_offset(tensor) is None for tensor in tensors.values()):
        raise CheckpointError(
            f"{path}: saved in torch's format from before 1.6, which cannot be mapped; load and save it anew"
        )
    return {name: _from_fake(name, tensor, path) for name, tensor in tensors.items()}


def _load(path: Path) -> Any:
    try:
        # Fake storages have their offset in the file instead of data. Training scripts also save their arguments.
        with FakeTensorMode(), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_pickle_message(path, str(error))) from error
    except Exception as error:  # a broken pickle raises whatever its bytes happen to spell
        reason = first_line(error).partition(". ")[0]
        raise CheckpointError(f"{path}: not a whole torch file ({reason}); download it again") from error


def _states(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Yield every dictionary of tensors in a file, with the keys that lead to it."""
    if not isinstance(content, Mapping):
        return
    if tensors := {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}:
        yield keys, tensors
    if len(keys) < _DEEPEST:
        for key, value in content.items():
            yield from _states(value, (*keys, str(key)))


def _named(states: Mapping[tuple[str, ...], dict[str, torch.Tensor]], path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of every dictionary that holds a tower; without a tower, those of the only likely dictionary.

    Raises:
        CheckpointError: there is no dictionary of tensors, or there are several without a tower.
    """
    towers = {keys: tensors for keys, tensors in states.items() if holds_a_tower(tensors)}
    if towers:
        return {".".join((*keys, name)): value for keys, tensors in towers.items() for name, value in tensors.items()}
    places = [keys for keys in states if set(keys) <= set(_NESTING_KEYS)] or list(states)
    if not places:
        raise CheckpointError(f"{path}: holds no tensors; give a state dict")
    if len(places) > 1:
        names = ", ".join(sorted(".".join(keys) or "the top level" for keys in places))
        raise CheckpointError(f"{path}: holds several sets of tensors ({names}), none with a tower; give a state dict")
    return states[places[0]]


def _pickle_message(path: Path, reason: str) -> str:
    if (forbidden := re.search(r"GLOBAL (\S+)", reason)) is not None:
        return (
            f"{path}: the pickle holds code or objects that are no tensors ({forbidden[1]}); convert it to safetensors"
        )
    return f"{path}: the pickle holds objects that are no tensors, or is broken; convert it to safetensors"


def _storage_offset(tensor: torch.Tensor) -> int | None:
    offset: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return offset


def _from_fake(name: str, tensor: torch.Tensor, path: Path) -> LazyTensor:
    start = _storage_offset(tensor)
    assert start is not None
    return LazyTensor(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        file=path,
        offset=start + int(tensor.storage_offset()) * tensor.element_size(),
        nbytes=tensor.numel() * tensor.element_size(),
        strides=None if tensor.is_contiguous() else tuple(tensor.stride()),
    )
