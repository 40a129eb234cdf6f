"""The copies with outliers that quantization is measured on: the function is the original's, the ranges are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from outliers import plant_massive, scale_folds

from internvl_edge.calib.data.dataset import open_data
from internvl_edge.export.blockwise.sources import fetch_from, weight_sources
from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from tests.tolerances import GOLDEN_FP32, PLANTED_COSINE


@pytest.fixture(scope="module")
def original(emoji: Path) -> Path:
    return emoji / "checkpoint"


@pytest.fixture(scope="module")
def inputs(emoji: Path) -> dict[str, dict[str, np.ndarray]]:
    data = open_data(emoji / "data" / "test.jsonl").subsample(8)
    texts = [text for row in data.rows for _, text in row.captions()]
    return {
        "vision": {"pixel_values": preprocess([data.picture(row) for row in data.rows], Preprocessing(image_size=70))},
        "text": {"input_ids": Tokenizer(emoji / "checkpoint" / "tokenizer.model").encode_texts(texts)},
    }


def outputs(
    folder: Path, graph: str, inputs: dict[str, dict[str, np.ndarray]], **observed: list[float]
) -> torch.Tensor:
    """Return the embeddings; for every block named in `observed`, its largest input over the median one is appended."""
    checkpoint = open_checkpoint(folder)
    fetch = fetch_from(weight_sources(checkpoint.tensors, checkpoint.config))

    def observer(ratios: list[float]):  # type: ignore[no-untyped-def]
        def note(x: torch.Tensor) -> torch.Tensor:
            ratios.append(float(x.abs().max() / x[x != 0].abs().median()))
            return x

        return note

    changed = {name.replace("__", "."): observer(ratios) for name, ratios in observed.items()}
    found = torch_outputs(graph, checkpoint.config, inputs[graph], fetch, (), changed)
    return torch.from_numpy(found["image_embeds" if graph == "vision" else "text_embeds"])


QKV = "vision_model__encoder__layers__3__attn__qkv"


def test_folded_scales_keep_the_function(
    original: Path, tmp_path: Path, inputs: dict[str, dict[str, np.ndarray]]
) -> None:
    scale_folds(original, tmp_path)
    plain: list[float] = []
    scaled: list[float] = []
    for graph, before, after in (("vision", {QKV: plain}, {QKV: scaled}), ("text", {}, {})):
        wanted, found = outputs(original, graph, inputs, **before), outputs(tmp_path, graph, inputs, **after)
        assert (found - wanted).abs().max() < GOLDEN_FP32 * wanted.abs().max()
    assert scaled[0] > 10 * plain[0]


def test_massive_tokens_keep_the_function_nearly(
    original: Path, tmp_path: Path, inputs: dict[str, dict[str, np.ndarray]]
) -> None:
    plant_massive(original, tmp_path)
    ratios: list[float] = []
    for graph, observed in (("vision", {QKV: ratios}), ("text", {})):
        wanted, found = outputs(original, graph, inputs), outputs(tmp_path, graph, inputs, **observed)
        assert torch.cosine_similarity(found, wanted).mean() > PLANTED_COSINE
    assert ratios[0] > 100, "hundreds of times the median"
