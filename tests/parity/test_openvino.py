"""The exported graphs on OpenVINO against the same graphs on ONNX Runtime, in fp32 and fp16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions, open_session
from internvl_edge.runtime.backends.selection.trials import difference, sample_inputs
from internvl_edge.runtime.numbers.formats import PRECISIONS

pytest.importorskip("openvino", reason="needs openvino: pip install 'internvl-edge[openvino]'")

ONE_THREAD = SessionOptions(threads=1)


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "fp32"}, {"dtype": "fp16", "graphs": ("vision", "text")}],  # as test_onnx_golden exports them
    ids=["fp32", "fp16"],
)
def test_every_graph_gives_the_same(
    exported: Callable[..., InternVL], golden_a: Path, settings: dict[str, Any]
) -> None:
    bundle = exported(golden_a / "checkpoint", **settings).bundle
    for graph in bundle.manifest.graphs:
        reference, session = (open_session(name, bundle, graph, ONE_THREAD) for name in ("onnxruntime", "openvino"))
        assert session.inputs.keys() == reference.inputs.keys()
        assert list(session.outputs) == list(reference.outputs)
        sample = sample_inputs(bundle, graph, reference)
        far = difference(session.run(sample), reference.run(sample))
        assert far <= PRECISIONS[bundle.manifest.precision].largest_difference, graph


def test_captions_are_the_recorded_ones(
    exported: Callable[..., InternVL], golden_a: Path, recorded_a: dict[str, torch.Tensor]
) -> None:
    folder = exported(golden_a / "checkpoint", dtype="fp32").bundle.path
    pixels, prompt = recorded_a["pixel_values"].numpy(), recorded_a["gen.prompt_ids"].numpy()
    with InternVL.open(folder, backend="openvino", options=ONE_THREAD) as model:
        greedy = model.generate(pixels, prompt, max_new_tokens=12)
        beams = model.generate(pixels, prompt, num_beams=5, min_new_tokens=8, max_new_tokens=12)
    np.testing.assert_array_equal(greedy, recorded_a["gen.sequences"].numpy())
    np.testing.assert_array_equal(beams, recorded_a["gen_beam.sequences"].numpy())
