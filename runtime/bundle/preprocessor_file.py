"""Read and write `preprocessor.json`, the settings of a bundle for the preprocessing of pictures."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import read_json_object
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.inputs.pictures.preprocess import MEAN, STD, Preprocessing
from internvl_edge.runtime.outputs.strict_json import json_text

FILE = "preprocessor.json"
SCHEMA = 1
"""Version of the file's layout that this code writes and reads."""


def save_preprocessing(settings: Preprocessing, folder: Path) -> None:
    """Write the settings into a bundle's `folder`."""
    (folder / FILE).write_text(json_text({"schema": SCHEMA, **asdict(settings)}) + "\n", encoding="utf-8")


def load_preprocessing(bundle: Bundle) -> Preprocessing:
    """Return the settings of `bundle`; those of the reference if it has no such file.

    Raises:
        BundleError: the file is not what this runtime writes, or does not fit the graphs.
    """
    size = bundle.manifest.model.vision.image_size
    if FILE not in bundle.manifest.files:
        return Preprocessing(image_size=size)
    content = read_json_object(bundle.path / FILE)
    if "schema" not in content:
        return _of_the_reference(content, bundle)
    where = bundle.path / FILE
    if content.pop("schema") != SCHEMA:
        raise BundleError(f"{where}: is of another schema than {SCHEMA}; upgrade internvl-edge or export again")
    known = {field.name for field in fields(Preprocessing)}
    if unknown := sorted(set(content) - known):
        raise BundleError(
            f"{where}: has fields that this runtime does not know ({', '.join(unknown)}); export the bundle again"
        )
    try:
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        settings = Preprocessing(**values)
    except (TypeError, InputError) as error:
        raise BundleError(f"{where}: does not say how pictures are prepared ({error}); export again") from error
    if settings.image_size != size:
        raise BundleError(f"{where}: is for pictures of {settings.image_size} px, the graphs take {size}; export again")
    return settings


def _of_the_reference(content: dict[str, Any], bundle: Bundle) -> Preprocessing:
    """Return the reference's settings if the file is a checkpoint's own with the same values, from an older export."""
    wanted = {"image_mean": list(MEAN), "image_std": list(STD), "resample": 3}
    changed = [f"{name} {content[name]}" for name, value in wanted.items() if content.get(name, value) != value]
    if changed:
        where = bundle.path / FILE
        raise BundleError(f"{where}: the export that wrote it ignored {', '.join(changed)}; export the bundle again")
    return Preprocessing(image_size=bundle.manifest.model.vision.image_size)
