"""What a bundle says of pictures reaches whoever prepares some: the API, embed's batches, the server and Triton."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.manifest import FileInfo
from internvl_edge.runtime.bundle.preprocessor_file import FILE, save_preprocessing
from internvl_edge.runtime.embed.compute import LocalEngine
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.read import find_pictures
from internvl_edge.runtime.package.tasks import _NEEDED
from internvl_edge.runtime.serve.models import ENCODE_IMAGE
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.workers.messages import Job
from internvl_edge.runtime.serve.workers.model_runner import ModelRunner
from internvl_edge.runtime.tasks.video import encode_video
from tests.unit.runtime.toy_bundle import write_toy_bundle

SETTINGS = Preprocessing(image_size=4, mean=(0.5, 0.4, 0.3), resample="box", geometry="clip", short_side=5)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Path:
    Image.fromarray(rng.integers(0, 256, (9, 21, 3), dtype=np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def model(tmp_path: Path) -> InternVL:
    bundle = write_toy_bundle(tmp_path / "bundle")
    save_preprocessing(SETTINGS, bundle.path)
    content = (bundle.path / FILE).read_bytes()
    files = {**bundle.manifest.files, FILE: FileInfo(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())}
    replace(bundle.manifest, files=files).save(bundle.path / "manifest.json")
    return InternVL.open(bundle.path, backend="onnxruntime")


def api(model: InternVL, picture: Path) -> np.ndarray:
    return model.encode_image([picture], "c")


def video(model: InternVL, picture: Path) -> np.ndarray:
    return encode_video(model, [picture], "c")[None]


def pipeline(model: InternVL, picture: Path) -> np.ndarray:
    options = EmbedOptions(output=picture.with_suffix(".npy"), mode="c")
    (part,) = LocalEngine(model).pictures(find_pictures([picture]), options)([0])
    return part.rows


def server(model: InternVL, picture: Path) -> np.ndarray:
    content = np.array([picture.read_bytes()], np.object_)
    job = Job(id=0, model=ENCODE_IMAGE, parts=({"image": content},), shared={}, parameters={"mode": "c"}, outputs=None)
    runner = ModelRunner(model, ServeOptions())
    (answer,) = runner.answer(runner.prepare(job))
    assert isinstance(answer, dict)
    return answer["embedding"]


@pytest.mark.parametrize("way", [api, video, pipeline, server])
def test_settings_reach(model: InternVL, picture: Path, way: Callable[[InternVL, Path], np.ndarray]) -> None:
    expected = preprocess([picture], SETTINGS, "clip").sum(axis=(2, 3))
    np.testing.assert_allclose(way(model, picture), expected, rtol=1e-5)


def test_a_callers_geometry_is_obeyed(model: InternVL, picture: Path) -> None:
    np.testing.assert_array_equal(model.preprocess([picture], "squash"), preprocess([picture], SETTINGS, "squash"))


def test_triton_tasks_take_the_file_along() -> None:
    assert FILE in _NEEDED


def test_an_edited_file_is_refused(model: InternVL) -> None:
    path = model.bundle.path / FILE
    path.write_text(path.read_text().replace("{", '{"gamma": 2,', 1))
    with pytest.raises(BundleError, match=r"preprocessor.json has \d+ bytes instead of"):
        InternVL.open(model.bundle.path, verify=False)
    manifest = model.bundle.manifest
    size = FileInfo(bytes=path.stat().st_size, sha256="0")
    replace(manifest, files={**manifest.files, FILE: size}).save(model.bundle.path / "manifest.json")
    with pytest.raises(BundleError, match=r"does not know \(gamma\)"):
        InternVL.open(model.bundle.path, verify=False)
