"""A bundle with plans of three small graphs, and a machine of fakes to run them on."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.backends.tensorrt import open_tensorrt
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.session import TensorRTSession
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import (
    EngineRecord,
    GraphEngines,
    PlanRecord,
    Profile,
    scales_digest,
    weight_digests,
)
from internvl_edge.runtime.bundle.manifest import GraphInfo, Manifest, TensorSpec
from tests.unit.runtime.fake_cuda import FakeCuda
from tests.unit.runtime.fake_tensorrt import FakeTensorRT
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

SM = 89
VERSIONS = {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}
MODULES = {"tensorrt": ["tensorrt"], "tensorrt_rtx": ["onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"]}
DEVICE = Device(name="NVIDIA Fake", sm=SM, memory_bytes=1 << 30, driver="12.6")

_GRAPHS = {
    "vision": GraphInfo(
        file="onnx/fp32/vision.onnx",
        use=USES["vision"],
        inputs=(TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4)),),
        outputs=(
            TensorSpec(name="vision_states", dtype="float16", shape=("batch", 2, 3)),
            TensorSpec(name="image_embeds", dtype="float32", shape=("batch", 3)),
        ),
    ),
    "text": GraphInfo(
        file="onnx/fp32/text.onnx",
        use=USES["text"],
        inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("texts", "length")),),
        outputs=(TensorSpec(name="text_embeds", dtype="float32", shape=("texts", 3)),),
    ),
    "decoder": GraphInfo(
        file="onnx/fp32/decoder.onnx",
        use=USES["decoder"],
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=("batch", "length")),
            TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total")),
            TensorSpec(name="position_ids", dtype="int64", shape=("batch", "length")),
            TensorSpec(name="past_key_values.0.key", dtype="float16", shape=("batch", 2, "past", 3)),
        ),
        outputs=(
            TensorSpec(name="logits", dtype="float32", shape=("batch", 3)),
            TensorSpec(name="present.0.key", dtype="float16", shape=("batch", 2, "past + length", 3)),
        ),
    ),
}
_PROFILES: Mapping[str, tuple[Profile, ...]] = {
    "vision": ({"pixel_values": ((1, 3, 4), (1, 3, 4), (8, 3, 4))},),
    "text": ({"input_ids": ((1, 1), (1, 4), (8, 6))},),
    "decoder": (
        {
            "input_ids": ((1, 1), (1, 2), (8, 4)),
            "attention_mask": ((1, 5), (1, 6), (8, 8)),
            "position_ids": ((1, 1), (1, 2), (8, 4)),
            "past_key_values.0.key": ((1, 2, 4, 3), (1, 2, 4, 3), (8, 2, 4, 3)),
        },
        {
            "input_ids": ((1, 1), (1, 1), (8, 1)),
            "attention_mask": ((1, 6), (1, 8), (8, 16)),
            "position_ids": ((1, 1), (1, 1), (8, 1)),
            "past_key_values.0.key": ((1, 2, 5, 3), (1, 2, 7, 3), (8, 2, 15, 3)),
        },
    ),
}


def first_half(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
    return {"hidden": (pixel_values * 2).astype(np.float16)}


def second_half(hidden: np.ndarray) -> dict[str, np.ndarray]:
    return {"vision_states": hidden[:, :2, :3] + 1, "image_embeds": hidden.astype(np.float32).sum(axis=2)}


def whole(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
    return second_half(**first_half(pixel_values))


def text(input_ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"text_embeds": np.repeat(input_ids.sum(axis=1, keepdims=True), 3, axis=1).astype(np.float32)}


def decoder(
    input_ids: np.ndarray, attention_mask: np.ndarray, position_ids: np.ndarray, past_key_values_0_key: np.ndarray
) -> dict[str, np.ndarray]:
    new = np.broadcast_to(
        (input_ids + position_ids)[:, None, :, None], (len(input_ids), 2, input_ids.shape[1], 3)
    ).astype(np.float16)
    present = np.concatenate([past_key_values_0_key, new], axis=2)
    kept = present * attention_mask[:, None, :, None]
    return {"logits": kept.sum(axis=(1, 2)).astype(np.float32), "present.0.key": present}


FUNCTIONS = {each.__name__: each for each in (first_half, second_half, whole, text, decoder)}


@dataclass(frozen=True)
class BundleOnDevice:
    """A bundle with plans, and the machine that it is opened on."""

    bundle: Bundle
    folder: Path
    """Of the plans."""
    flavour: str
    cuda: FakeCuda
    trt: FakeTensorRT

    def open(self, graph: str = "vision", **options: Any) -> TensorRTSession:
        return open_tensorrt(self.bundle, graph, SessionOptions(**options), self.flavour)


def bundle_on_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch, flavour: str = "tensorrt", *, parts: bool = False
) -> BundleOnDevice:
    """Write a bundle with plans into `folder` and put fakes in place of CUDA and TensorRT."""
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, FUNCTIONS, rtx=flavour == "tensorrt_rtx", version=VERSIONS[flavour])
    for module in MODULES[flavour]:
        monkeypatch.setitem(sys.modules, module, trt.module)
    monkeypatch.setattr("internvl_edge.runtime.backends.tensorrt.open.find_device", lambda: DEVICE)
    monkeypatch.setattr("internvl_edge.runtime.backends.tensorrt.open.open_cuda", lambda: cuda)
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", str(folder / "cache"))
    load_library.cache_clear()
    bundle = _bundle(folder / "bundle")
    return BundleOnDevice(bundle, _write_plans(bundle, flavour, parts), flavour, cuda, trt)


def _bundle(folder: Path) -> Bundle:
    write_bundle(folder, tuple(_GRAPHS), MODEL, None)
    manifest = Manifest.load(folder / "manifest.json")
    replace(manifest, graphs=_GRAPHS).save(folder / "manifest.json")
    return Bundle.open(folder)


def _write_plans(bundle: Bundle, flavour: str, parts: bool) -> Path:
    folder = bundle.path / "engines" / "l4"
    folder.mkdir(parents=True)
    vision = ["first_half", "second_half"] if parts else ["whole"]
    functions = {"vision": vision, "text": ["text"], "decoder": ["decoder"]}
    graphs = {}
    for graph, names in functions.items():
        plans = tuple(_write_plan(folder, graph, name, _PROFILES[graph]) for name in names)
        graphs[graph] = GraphEngines(
            graph_sha256=bundle.manifest.files[_GRAPHS[graph].file].sha256,
            key="k",
            profiles=_PROFILES[graph],
            plans=plans,
        )
    EngineRecord(
        target="l4",
        sm=SM,
        flavour=flavour,
        version=VERSIONS[flavour],
        driver=None,
        flags={},
        weights=weight_digests(bundle),
        scales_sha256=scales_digest(bundle),
        graphs=graphs,
    ).save(folder)
    return folder


_TENSORS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "first_half": (["pixel_values"], ["hidden"]),
    "second_half": (["hidden"], ["vision_states", "image_embeds"]),
    "whole": (["pixel_values"], ["vision_states", "image_embeds"]),
    "text": (["input_ids"], ["text_embeds"]),
    "decoder": ([item.name for item in _GRAPHS["decoder"].inputs], [item.name for item in _GRAPHS["decoder"].outputs]),
}
SCRATCH = {"first_half": 640, "second_half": 1280, "whole": 1024, "text": 512, "decoder": 256}


def _write_plan(folder: Path, graph: str, function: str, profiles: Sequence[Profile]) -> PlanRecord:
    inputs, outputs = _TENSORS[function]
    info = _GRAPHS[graph]
    dtypes = {item.name: item.dtype for item in (*info.inputs, *info.outputs)} | {"hidden": "float16"}
    plan = {
        "function": function,
        "layer": f"{graph}.encoder.{function}/mlp",
        "inputs": inputs,
        "outputs": outputs,
        "tensors": {name: dtypes[name] for name in (*inputs, *outputs)},
        "profiles": [{name: shapes for name, shapes in profile.items() if name in inputs} for profile in profiles],
        "scratch": SCRATCH[function],
    }
    content = json.dumps(plan).encode()
    (folder / f"{function}.plan").write_bytes(content)
    return PlanRecord(
        file=f"{function}.plan",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        seconds=1.0,
        peak_bytes=1,
    )
