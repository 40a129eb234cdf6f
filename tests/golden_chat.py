"""Recorded outputs of the reference chat model: six small checkpoints, one for each family and layout."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.project import ROOT

GOLDEN_CHAT = ROOT / "tests" / "golden" / "chat"
CASES = ("c1", "c2", "c3", "c4", "c5", "c6")
ROW_AXES = {"logits": 1, "hidden_states": 2, "keys": 3, "values": 3}
"""Name of an output -> its axis of prompt positions, of which `GoldenChat.rows` are kept."""

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenChat:
    """One case: a checkpoint, pictures, prompts, and what the reference computed (see README.md beside the cases)."""

    case: str
    folder: Path
    tensors: Mapping[str, np.ndarray]
    """The recorded tensors by name; those of `ROW_AXES` hold the positions `rows` of a prompt alone.

    ``batch.step_logits`` holds the first, second and last step, as the short runs do.
    """
    about: Mapping[str, Any]
    """Content of golden.json."""

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return self.folder / "checkpoint"

    @property
    def prompts(self) -> Mapping[str, Any]:
        """Content of prompts.json."""
        return _json(self.folder / "prompts.json")

    @property
    def long_prompt(self) -> Mapping[str, Any]:
        """Content of long_prompt.json, which c2, c4 and c6 have."""
        return _json(self.folder / "long_prompt.json")

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the recorded runs."""
        return tuple(name.removesuffix(".greedy_ids") for name in self.tensors if name.endswith(".greedy_ids"))

    def rows(self, run: str) -> np.ndarray:
        """Return the positions of a prompt whose logits, hidden states, keys and values are recorded."""
        return self.tensors[f"{run}.rows"]


@functools.cache
def golden_chat(case: str) -> GoldenChat:
    """Return case ``c1`` to ``c6``."""
    folder = GOLDEN_CHAT / case
    kept = load_file(folder / "golden.safetensors")
    pixels = pixels_of(kept.pop("tiles"))
    tensors = {}
    for name, value in kept.items():
        if name.endswith(".tiles"):
            tensors[name.replace(".tiles", ".pixel_values")] = pixels[value]
        else:
            tensors[name] = value
    return GoldenChat(case=case, folder=folder, tensors=tensors, about=_json(folder / "golden.json"))


def pixels_of(tiles: np.ndarray) -> np.ndarray:
    """Return the pixel values of tiles of bytes, to the last bit as the reference computed them."""
    pixels: np.ndarray = (tiles.astype(np.float32) / np.float32(255) - _MEAN) / _STD
    return pixels


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
