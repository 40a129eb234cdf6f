"""The registry: names, and that a backend is opened as it is named."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import BACKENDS, SessionOptions, open_session, require_backend
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BackendError, BundleError, EdgeError, InputError
from tests.unit.runtime.toy_bundle import write_toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_toy_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_name_is_known(backend: str) -> None:
    require_backend(backend)


def test_an_unknown_name_lists_the_known(bundle: Bundle) -> None:
    for ask in (require_backend, lambda name: open_session(name, bundle, "vision")):
        with pytest.raises(BackendError, match=r"'abacus': unknown; choose from auto, tensorrt, .*, openvino_gpu"):
            ask("abacus")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_session_is_of_the_backend_that_was_asked_for(bundle: Bundle, backend: str) -> None:
    pytest.importorskip(backend)
    session = open_session(backend, bundle, "vision", SessionOptions(threads=1))
    assert session.backend == backend
    assert session.inputs["pixel_values"].shape == ("batch", 3, 4, 4)
    outputs = session.run({"pixel_values": np.ones((2, 3, 4, 4))})
    np.testing.assert_array_equal(outputs["image_embeds"], np.full((2, 3), 16))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_plans_that_are_not_there_are_said_in_one_line(bundle: Bundle, backend: str) -> None:
    with pytest.raises(EdgeError, match=f"{backend}|plans") as caught:
        open_session(backend, bundle, "vision")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
def test_a_graph_that_the_bundle_lacks_is_named(bundle: Bundle, backend: str) -> None:
    with pytest.raises(BundleError, match="has no graph itm"):
        open_session(backend, bundle, "itm")


def test_the_toy_is_a_valid_graph(bundle: Bundle) -> None:
    onnx.checker.check_model(bundle.graph_file("vision"), full_check=True)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_only_wait_are_refused(tmp_path: Path, threads: int) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match=rf"^threads: {threads} on a machine of \d+ cores; give 1 to \d+$"):
        open_session("onnxruntime", bundle, "vision", SessionOptions(threads=threads))
