"""Plans of a chat bundle for a device that is not here, with the real TensorRT-RTX."""

import json
import shutil
from pathlib import Path

import pytest

from internvl_edge.runtime.bundle.bundle import Bundle
from tests.e2e.conftest import Run
from tests.exports import Exports
from tests.golden_chat import golden_chat

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

CHUNK, CONTEXT = 512, 2048


@pytest.mark.parametrize("case", ["c2", "c5"])
def test_tiles_and_the_language_model_build_for_ada(run: Run, exports: Exports, tmp_path: Path, case: str) -> None:
    """c2 has packed projections and angles that follow the length; c5 norms of heads and a tied head."""
    checkpoint = golden_chat(case).checkpoint
    made = exports.bundle(checkpoint, dtype="fp16", max_context=CONTEXT)
    bundle = Bundle.open(shutil.copytree(made, tmp_path / "bundle"))
    done = run("build", bundle.path, "--target", "sm_89")
    assert done.returncode == 0, done.stderr
    folder = bundle.path / "engines" / "sm_89"
    record = json.loads((folder / "engine.json").read_text())
    assert sorted(record["graphs"]) == ["llm", "vision"]
    assert all((folder / f"{name}.plan").stat().st_size > 0 for name in record["graphs"])
    language = bundle.manifest.model.require_language()
    prompt, step = (profile["past_key_values.0.key"] for profile in record["graphs"]["llm"]["profiles"])
    heads, width = language.kv_heads, language.head_dim
    assert prompt == [[1, heads, 0, width], [1, heads, 0, width], [8, heads, CONTEXT, width]]
    assert step == [[1, heads, 1, width], [1, heads, 400, width], [8, heads, CONTEXT, width]]
    lengths = [profile["inputs_embeds"] for profile in record["graphs"]["llm"]["profiles"]]
    assert [[shape[1] for shape in shapes] for shapes in lengths] == [[1, CHUNK, CHUNK], [1, 1, 1]]
