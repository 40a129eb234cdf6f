"""A model whose graphs are NumPy functions, and pictures whose features identify them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.stages import UNMEASURED, Stages
from internvl_edge.runtime.tasks import opened as opened_module


class FakeGraph:
    """Means of pixels, sums of ids, tokens of states; `ran` holds graph and rows of each call of all graphs."""

    backend = "fake"

    def __init__(self, graph: str, ran: list[tuple[str, int]]) -> None:
        self.graph = graph
        self.ran = ran

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        values = next(iter(inputs.values()))
        self.ran.append((self.graph, len(values)))
        if self.graph == "text":
            return {"text_embeds": np.stack([values.sum(axis=1)] * 3, axis=1).astype(np.float32)}
        if self.graph == "connector":
            return {"vit_embeds": values * 2}
        means = values.mean(axis=(2, 3))
        return {"vision_states": means[:, None], "image_embeds": means}

    def close(self) -> None:
        pass


def fake_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int = 32
) -> tuple[InternVL, list[tuple[str, int]]]:
    """Return a model of the bundle in `folder` over fake graphs, and the list of what they ran."""
    ran: list[tuple[str, int]] = []

    def open_session(backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> FakeGraph:
        bundle.require(graph)
        return FakeGraph(graph, ran)

    monkeypatch.setattr(opened_module, "open_session", open_session)
    return InternVL.open(folder, batch_size=batch_size), ran


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write `count` pictures of one grey each, of different sizes, and return their paths in order."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index:03d}.png" for index in range(count)]
    for index, path in enumerate(paths):
        Image.new("RGB", (5 + index % 3, 6), (index % 256,) * 3).save(path)
    return paths


def greys(features: np.ndarray) -> list[int]:
    """Return the grey of each picture, from its features or its pixel values ``[B, 3, ...]``."""
    return [round((float(np.mean(red)) * 0.229 + 0.485) * 255) for red in features[:, 0]]
