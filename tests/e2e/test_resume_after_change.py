"""An export that is killed and asked for again after a file changed is the export of the files as they are now."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from internvl_edge.export.calibrate import CalibrateOptions, calibrate
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.progress import Silent
from tests.unit.export.checkpoint.checkpoint_folders import (
    CHAT_CONFIG,
    chat_weights,
    write_config,
    write_safetensors,
    write_shards,
)

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NAME = "vision_model.encoder.layers.1.mlp.fc1.weight"


class _Killed(KeyboardInterrupt):
    pass


class _Killing(Silent):
    """Ends the run as a kill does when the graphs are about to be verified: all but that is finished."""

    @contextmanager
    def task(self, label: str, *arguments: Any, **options: Any) -> Iterator[Callable[[int], None]]:
        if label == "Verifying graphs":
            raise _Killed
        with super().task(label, *arguments, **options) as advance:
            yield advance


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A chat checkpoint whose language model is absent, in two shards."""
    weights = chat_weights()
    names = sorted(weights)
    first, second = ({name: weights[name] for name in part} for part in (names[:12], names[12:]))
    return write_shards(write_config(tmp_path / "ckpt", CHAT_CONFIG), {A: first, B: second})


def _options(checkpoint: Path, output: str, **options: Any) -> ExportOptions:
    return ExportOptions(checkpoint=str(checkpoint), output=checkpoint.parent / output, dtype="fp32", **options)


def _embeds(bundle: Path) -> np.ndarray:
    """Return what vision computes of a fixed picture."""
    pixels = np.random.default_rng(3).standard_normal((1, 3, 28, 28)).astype(np.float32)
    file = bundle / "onnx" / "fp32" / "vision.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (embeds,) = session.run(["vit_embeds"], {"pixel_values": pixels})
    return np.asarray(embeds)


def _new_config(folder: Path) -> None:
    write_config(folder, {**CHAT_CONFIG, "select_layer": -2})


def _new_weights(folder: Path) -> None:
    weights = chat_weights()
    write_safetensors(folder, {name: weights[name] * 1.5 for name in sorted(weights)[:12]}, A)


def _new_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    write_safetensors(folder, {NAME: chat_weights()[NAME] * 2}, "other.safetensors")
    index.write_text(json.dumps({"weight_map": {**places, NAME: "other.safetensors"}}))


def _new_adapter(folder: Path) -> None:
    halves = {"lora_A": torch.ones(2, 16), "lora_B": torch.ones(24, 2)}
    tensors = {f"base_model.model.{NAME.removesuffix('weight')}{name}.weight": value for name, value in halves.items()}
    write_safetensors(folder, tensors, "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}))


CHANGES = {
    "config.json": _new_config,
    A: _new_weights,
    "model.safetensors.index.json": _new_index,
    "adapter_config.json": _new_adapter,
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_bundle_follows_the_file_as_it_is_now(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    options = _options(checkpoint, "resumed")
    with pytest.raises(_Killed):
        export_bundle(options, _Killing())
    CHANGES[name](checkpoint)
    with caplog.at_level(logging.WARNING, "internvl_edge.export.run.staging"):
        export_bundle(options)
    told = [record.getMessage() for record in caplog.records if "starting anew" in record.getMessage()]
    assert len(told) == 1
    assert name in told[0]
    export_bundle(_options(checkpoint, "fresh"))
    fresh, resumed = (_embeds(checkpoint.parent / name) for name in ("fresh", "resumed"))
    np.testing.assert_array_equal(resumed, fresh)


def test_without_a_change_finished_stages_are_taken_up(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = _options(checkpoint, "resumed")
    with pytest.raises(_Killed):
        export_bundle(options, _Killing())
    traced = checkpoint.parent / ".resumed.partial" / "traced" / "vision.onnx"
    stamp = traced.stat().st_mtime_ns
    with pytest.raises(_Killed):
        export_bundle(options, _Killing())
    assert traced.stat().st_mtime_ns == stamp
    export_bundle(options)
    assert not [record for record in caplog.records if "starting anew" in record.getMessage()]


def test_other_pictures_to_verify_on_start_anew(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = checkpoint.parent / "pictures" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (40, 40), (10, 200, 30)).save(picture)
    options = _options(checkpoint, "resumed", samples=picture.parent, sample_count=1)
    with pytest.raises(_Killed):
        export_bundle(options, _Killing())
    Image.new("RGB", (40, 40), (200, 10, 30)).save(picture)
    export_bundle(options)
    assert [record for record in caplog.records if record.getMessage().endswith("these changed: the samples")]


def test_ranges_follow_the_config_as_it_is_now(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = CalibrateOptions(
        checkpoint=str(checkpoint), output=checkpoint.parent / "ranges", data="random", sample_count=16
    )

    class Killing(Silent):
        @contextmanager
        def task(self, label: str, *arguments: Any, **settings: Any) -> Iterator[Callable[[int], None]]:
            with super().task(label, *arguments, **settings) as advance:
                yield advance
            raise _Killed

    with pytest.raises(_Killed):
        calibrate(options, Killing())
    assert (checkpoint.parent / ".ranges.partial" / "stages.json").exists()
    write_config(checkpoint, {**CHAT_CONFIG, "vision_config": {**CHAT_CONFIG["vision_config"], "layer_norm_eps": 1e-2}})
    calibrate(options)
    (told,) = [record.getMessage() for record in caplog.records if "starting anew" in record.getMessage()]
    assert told.endswith("these changed: config.json, the model, the fingerprint")


def test_a_broken_picture_beside_the_weights_is_no_part_of_the_model(checkpoint: Path) -> None:
    (checkpoint / "teaser.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    report = export_bundle(_options(checkpoint, "bundle"))
    assert report.samples == "synthetic pictures"
    Image.new("RGB", (40, 40), (10, 200, 30)).save(checkpoint / "good.png")
    os.utime(checkpoint / "teaser.png")
    assert export_bundle(_options(checkpoint, "second")).samples == str(checkpoint)
