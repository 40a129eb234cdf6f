"""Rows of the table of token embeddings: exact in every type, and read without the rest of the table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.embedding_table import EmbeddingTable
from internvl_edge.runtime.bundle.manifest import SCHEMA, EmbeddingInfo, LanguageInfo, Manifest, ModelInfo, VisionInfo
from internvl_edge.runtime.errors import BundleError

ROWS, HIDDEN = 40, 6


def bundle_with(folder: Path, dtype: str, values: np.ndarray, offset: int) -> Bundle:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "weights").write_bytes(b"\x01" * offset + values.tobytes())
    language = LanguageInfo(
        layers=1,
        kv_heads=1,
        head_dim=2,
        hidden_size=HIDDEN,
        vocab_size=ROWS,
        max_context=8,
        max_positions=8,
        tokens_per_tile=2,
        embedding=EmbeddingInfo(file="onnx/weights", offset=offset, dtype=dtype, rows=ROWS),
    )
    return opened(folder, language)


def opened(folder: Path, language: LanguageInfo | None) -> Bundle:
    model = ModelInfo(
        layout="internvl_chat",
        vision=VisionInfo(image_size=28, patch_size=14, hidden_size=2, tokens=5),
        language=language,
    )
    manifest = Manifest(schema=SCHEMA, producer={}, model=model, precision="fp32", graphs={}, files={})
    manifest.save(folder / "manifest.json")
    return Bundle.open(folder, verify=False)


@pytest.mark.parametrize("offset", [0, 4096, 37])
@pytest.mark.parametrize(("name", "dtype"), [("float32", np.float32), ("float16", np.float16)])
def test_rows_are_those_of_the_store(
    tmp_path: Path, rng: np.random.Generator, name: str, dtype: Any, offset: int
) -> None:
    values = rng.normal(size=(ROWS, HIDDEN)).astype(dtype)
    table = EmbeddingTable(bundle_with(tmp_path, name, values, offset))
    ids = np.array([[0, 39], [7, 7]])
    found = table.rows(ids)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values[ids])


def test_bfloat16_becomes_fp32_exactly(tmp_path: Path, rng: np.random.Generator) -> None:
    single = (rng.normal(size=(ROWS, HIDDEN)) * 10.0 ** rng.integers(-30, 30, (ROWS, 1))).astype(np.float32)
    single[3] = [0, -0.0, np.inf, -np.inf, 1e-40, np.nan]
    narrow = torch.from_numpy(single).bfloat16()
    upper, expected = narrow.view(torch.uint16).numpy(), narrow.float().numpy()
    found = EmbeddingTable(bundle_with(tmp_path, "bfloat16", upper, 64)).rows(np.arange(ROWS))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_a_bundle_without_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no language model"):
        EmbeddingTable(opened(tmp_path, None))
