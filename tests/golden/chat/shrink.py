"""Copy the recorded outputs of the reference chat model from FOLDER to here, without what can be made from the rest.

Pixel values are kept as bytes, once for each tile; a run names its tiles. Of the largest outputs of long prompts every
fourth row is kept, and the last one. `tests/golden_chat.py` gives the tensors back under their recorded names.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from tests.golden_chat import ROW_AXES, pixels_of  # noqa: E402

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
_EVERY = 4
_FIRST_STEPS_ALONE = ("batch.step_logits",)
_MADE_FROM_OTHERS = ("turns.inputs_embeds", "multi.inputs_embeds", "video.inputs_embeds", "cross.inputs_embeds")
"""Rows of the stored table and of ``vit_embeds``; the other runs keep theirs."""


def shrunk(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is kept of the tensors of one case."""
    pictures = [tile for index in range(3) for tile in tensors[f"picture_{index}.pixel_values"]]
    tiles = np.rint((np.stack(pictures) * _STD + _MEAN) * 255).astype(np.uint8)
    assert np.array_equal(pixels_of(tiles), np.stack(pictures))
    places = {tile.tobytes(): index for index, tile in enumerate(pictures)}
    kept = {"tiles": tiles}
    for name, value in tensors.items():
        run, _, what = name.partition(".")
        if what == "pixel_values" and run != "other_size":
            kept[f"{run}.tiles"] = np.array([places[tile.tobytes()] for tile in value], np.int32)
        elif name in _FIRST_STEPS_ALONE:
            kept[name] = value[:, [0, 1, -1]].copy()
        elif what in ROW_AXES:
            axis = ROW_AXES[what] % value.ndim
            length = value.shape[axis]
            rows = np.array(sorted({*range(0, length, _EVERY), length - 1}), np.int32)
            kept[f"{run}.rows"] = rows
            kept[name] = np.ascontiguousarray(value.take(rows, axis))
        elif name not in _MADE_FROM_OTHERS:
            kept[name] = value
    return kept


def main(source: Path) -> None:
    """Copy all cases."""
    for case in sorted(source.glob("c?")):
        target = HERE / case.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(
            case, target, ignore=shutil.ignore_patterns("golden.safetensors"), copy_function=shutil.copyfile
        )
        save_file(shrunk(load_file(case / "golden.safetensors")), target / "golden.safetensors")
    for name in ("tiling.json", "video.json"):
        shutil.copyfile(source / name, HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
