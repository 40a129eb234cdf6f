"""Kernels that TensorRT-RTX compiles on the device: for each shape once, kept for the next process."""

from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.tensorrt.contexts import ContextFactory
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.plans.plan import load_plan
from internvl_edge.runtime.bundle.engines import EngineRecord
from internvl_edge.runtime.cache_folder import cache_folder
from internvl_edge.runtime.errors import BackendError
from tests.unit.runtime.fake_plans import SM, BundleOnDevice, bundle_on_device


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleOnDevice:
    return bundle_on_device(tmp_path, monkeypatch, "tensorrt_rtx")


def run(here: BundleOnDevice, *batches: int) -> None:
    session = here.open()
    for batch in batches:
        session.run({"pixel_values": np.zeros((batch, 3, 4))})
    session.close()


def test_a_kernel_is_compiled_once_for_a_shape(here: BundleOnDevice) -> None:
    run(here, 1, 1, 2)
    assert here.trt.compiled == 2
    run(here, 2, 1, 3)  # as in another process: sessions share nothing but the file
    assert here.trt.compiled == 3


def test_the_file_names_version_device_and_plan(here: BundleOnDevice) -> None:
    run(here, 1)
    (file,) = cache_folder().iterdir()
    assert file.name.startswith("1.7.1.116-sm89-")


def test_a_damaged_file_is_written_again(here: BundleOnDevice) -> None:
    run(here, 1)
    (file,) = cache_folder().iterdir()
    file.write_bytes(b"damaged")
    run(here, 1)
    assert here.trt.compiled == 2
    run(here, 1)
    assert here.trt.compiled == 2


def test_a_folder_that_cannot_be_written_stops_nothing(here: BundleOnDevice, caplog: pytest.LogCaptureFixture) -> None:
    cache_folder().write_text("a file where the folder would be")
    caplog.set_level("INFO")
    run(here, 1)
    assert "graph vision: compiled kernels are not kept (" in caplog.text


def test_a_growing_past_runs_with_general_kernels(here: BundleOnDevice) -> None:
    session = here.open("decoder")
    cache = session.open_cache({"present.0.key": np.zeros((1, 2, 4, 3), np.float16)}, rows=1, length=10)
    for held in range(4, 9):
        ones = np.ones((1, 1), np.int64)
        cache.step({"input_ids": ones, "attention_mask": np.ones((1, held + 1), np.int64), "position_ids": ones})
    assert here.trt.compiled == 0


def test_the_standard_tensorrt_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bundle_on_device(tmp_path, monkeypatch, "tensorrt"), 1)
    assert not cache_folder().exists()


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    monkeypatch.delenv("INTERNVL_EDGE_CACHE", raising=False)
    assert cache_folder() == Path("/there/internvl-edge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "internvl-edge"
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", "/here")
    assert cache_folder() == Path("/here")


def test_a_library_is_loaded_once(here: BundleOnDevice) -> None:
    assert load_library("tensorrt_rtx") is load_library("tensorrt_rtx")


def maker(here: BundleOnDevice) -> ContextFactory:
    library = load_library(here.flavour)
    record = EngineRecord.load(here.folder).graphs["vision"].plans[0]
    return ContextFactory(library, load_plan(library, here.folder, record, "vision"), "vision", SM, growing=False)


def test_every_context_is_another_one(here: BundleOnDevice) -> None:
    with here.cuda.current():
        made = maker(here)
        assert made.new() is not made.new()
        assert len(here.trt.contexts) == 2


def test_a_context_that_is_not_made_is_one_line(here: BundleOnDevice) -> None:
    with here.cuda.current():
        made = maker(here)
        made._plan.engine.create_execution_context = lambda how: None
        with pytest.raises(
            BackendError, match=r"^graph vision: .* makes no context of whole\.plan \(no reason given\)"
        ):
            made.new()


def test_kernels_that_did_not_change_are_not_written_again(here: BundleOnDevice) -> None:
    with here.cuda.current():
        made = maker(here)
        made._cache.kernels.add("a")
        made.keep_kernels()
        (kept,) = cache_folder().iterdir()
        kept.unlink()
        made.keep_kernels()
        assert not kept.exists()
        made._cache.kernels.add("another")
        made.keep_kernels()
        assert kept.exists()
