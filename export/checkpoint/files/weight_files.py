"""Find the files that hold the weights, and choose between them where there are several."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from internvl_edge.export.checkpoint.files.agreement import first_difference
from internvl_edge.export.checkpoint.files.json_file import read_json
from internvl_edge.export.checkpoint.files.safetensors_file import read_safetensors
from internvl_edge.export.checkpoint.files.tensors import LazyTensor
from internvl_edge.export.checkpoint.files.torch_file import read_torch_file
from internvl_edge.export.checkpoint.names import LANGUAGE_MODEL, naming_of, official_names
from internvl_edge.export.models.families.fields import listed
from internvl_edge.runtime.errors import CheckpointError

_INDEX = ".index.json"
_SAFETENSORS, _TORCH = "model.safetensors", "pytorch_model.bin"
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_SHARD = re.compile(r"^(?P<stem>.+)-\d+-of-\d+(?P<suffix>\.\w+)$")
_NOT_WEIGHTS = ("adapter_model.", "training_args.", "optimizer.", "scheduler.", "scaler.", "rng_state")
"""Prefixes of the names of files that training leaves beside the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """The tensors of a checkpoint's files, by their names in the files."""

    tensors: Mapping[str, LazyTensor]
    left: tuple[str, ...] = ()
    """Names of tensors that no graph needs and whose files were not opened."""
    absent: tuple[str, ...] = ()
    """Names of missing files that hold nothing that a graph needs."""
    read: tuple[Path, ...] = field(default=())
    """Index files that were read to find the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which of a checkpoint's tensors are wanted."""

    state_dict: str | None = None
    """Name of one of several sets of weights, for example ``model_ema``."""
    language: bool = False
    """Whether the model has a language model with a graph; without one, its files may be absent."""


def read_weights(path: Path, wanted: Wanted) -> StoredWeights:
    """Return the tensors of a folder, of one file, or of the files that an index names.

    Raises:
        CheckpointError: there are no weights, a file is damaged, or two candidate files hold different weights.
    """
    if path.is_dir():
        return _read_folder(path, wanted)
    if path.name.endswith(_INDEX):
        return _read_index(path, wanted)
    return StoredWeights(tensors=_reader(path)(path))


def _read_folder(folder: Path, wanted: Wanted) -> StoredWeights:
    """Return the tensors that transformers would load.

    Raises:
        CheckpointError: another file of the folder holds different weights, so that the choice is not clear.
    """
    safe = _read_format(folder / _SAFETENSORS, wanted)
    if safe is None:
        return _read_format(folder / _TORCH, wanted) or _read_others(folder, wanted)
    try:
        torch_files = _read_format(folder / _TORCH, wanted)
    except CheckpointError:
        return safe  # transformers does not read them either where there are safetensors files
    if torch_files is not None:
        _require_equal(folder, safe, torch_files, wanted, _SAFETENSORS, _TORCH)
    return safe


def _read_format(file: Path, wanted: Wanted) -> StoredWeights | None:
    """Return the tensors of `file`, or of the shards that the index beside it names; None if neither exists."""
    index = file.with_name(f"{file.name}{_INDEX}")
    if not index.exists():
        return StoredWeights(tensors=_reader(file)(file)) if file.exists() else None
    if not file.exists():
        return _read_index(index, wanted)
    whole = StoredWeights(tensors=_reader(file)(file))
    if all((index.parent / name).exists() for name in set(_weight_map(index).values())):
        _require_equal(file.parent, whole, _read_index(index, wanted), wanted, file.name, index.name)
    return whole  # an index without its shards is left over from before they were joined


def _require_equal(folder: Path, first: StoredWeights, second: StoredWeights, wanted: Wanted, *names: str) -> None:
    difference = first_difference(first.tensors, second.tensors, wanted.language)
    if difference is not None:
        raise CheckpointError(
            f"{folder}: {' and '.join(names)} hold different weights ({difference}); give the file that is meant as "
            "CHECKPOINT, or move the other away"
        )


def _read_index(index: Path, wanted: Wanted) -> StoredWeights:
    """Return the tensors that an index lists, each from the file that the index names for it."""
    places = _weight_map(index)
    naming = naming_of(places, str(index), wanted.state_dict, wanted.language)
    official = official_names(places, naming, str(index))
    needed = {name: file for name, file in places.items() if name in official and not naming.is_unused(official[name])}
    absent = sorted(name for name in set(places.values()) if not (index.parent / name).exists())
    files = sorted(set(needed.values()))
    if lost := [name for name in absent if name in files]:
        spoken = all(official[name].startswith(LANGUAGE_MODEL) for name, file in needed.items() if file in lost)
        remedy = ", or export the tower without the language model with --graphs vision" if spoken else ""
        raise CheckpointError(f"{index}: names {len(lost)} absent shards: {listed(lost)}; download them{remedy}")
    shards = {name: _reader(index.parent / name)(index.parent / name) for name in files}
    if missing := sorted(name for name, file in needed.items() if name not in shards[file]):
        raise CheckpointError(
            f"{index}: {len(missing)} tensors are in no shard, as {missing[0]}; download the shards again"
        )
    tensors = {name: shards[file][name] for name, file in needed.items()} | _unlisted(shards, places, index)
    left = tuple(name for name in places if name not in needed)
    return StoredWeights(tensors=tensors, left=left, absent=tuple(absent), read=(index,))


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file name of each tensor that an index lists.

    Raises:
        CheckpointError: the file is no index, or names files outside its folder.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(v, str) and v for v in places.values()):
        raise CheckpointError(f"{index}: has no weight_map of tensors to files; download it again")
    if outside := sorted({name for name in places.values() if _is_outside(name)}):
        raise CheckpointError(f"{index}: names files outside its folder: {listed(outside)}; do not trust it")
    return places


def _is_outside(name: str) -> bool:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.anchor) or ".." in {*posix.parts, *windows.parts}


def _unlisted(
    shards: Mapping[str, Mapping[str, LazyTensor]], places: Mapping[str, str], index: Path
) -> dict[str, LazyTensor]:
    """Return the tensors in the shards that the index does not list, so that they are checked as well."""
    found: dict[str, LazyTensor] = {}
    for tensors in shards.values():
        for name in tensors:
            if name in found:
                raise CheckpointError(f"{index}: {name} is in two shards and not in weight_map; download it again")
            if name not in places:
                found[name] = tensors[name]
    return found


def _read_others(folder: Path, wanted: Wanted) -> StoredWeights:
    """Return the tensors of the only index or weight file in a folder without files of the usual names.

    Raises:
        CheckpointError: there is no such file, or there are several.
    """
    indexes, files = sorted(folder.glob(f"*{_INDEX}")), sorted(_weights_in(folder))
    if len(indexes) == 1:
        return _read_index(indexes[0], wanted)
    if len(files) == 1 and not indexes:
        return StoredWeights(tensors=_reader(files[0])(files[0]))
    shards = [match for path in files if (match := _SHARD.match(path.name))]
    if shards and len(shards) == len(files) and not indexes:
        index = f"{shards[0]['stem']}{shards[0]['suffix']}{_INDEX}"
        raise CheckpointError(f"{folder}: holds {listed(path.name for path in files)} without {index}; download it")
    if indexes or files:
        names = listed(path.name for path in indexes or files)
        raise CheckpointError(f"{folder}: {names}: which holds the weights is unclear; give one of them as CHECKPOINT")
    if list(folder.glob("adapter_model.*")):
        raise CheckpointError(f"{folder}: holds an adapter without its base weights; put them into the same folder")
    if (folder / "zero_to_fp32.py").exists():
        raise CheckpointError(f"{folder}: holds DeepSpeed's shards; join them with its zero_to_fp32.py")
    raise CheckpointError(f"{folder}: no weights; expected {_SAFETENSORS} or {_TORCH}, or an index of either")


def _weights_in(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix in _SUFFIXES and path.is_file() and not path.name.startswith(_NOT_WEIGHTS):
            yield path


def _reader(path: Path) -> Callable[[Path], dict[str, LazyTensor]]:
    return read_safetensors if path.suffix == ".safetensors" else read_torch_file
