"""A driver of CUDA that is compiled from C: it enforces what a real one requires."""

import ctypes
import gc
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from internvl_edge.runtime.backends.cuda import device, libcuda
from internvl_edge.runtime.backends.cuda.open import open_cuda
from tests.tolerances import HANG_S

CAPACITY = 1 << 20
_SOURCE = Path(__file__).with_name("fake_libcuda.c")


@pytest.fixture(scope="session")
def library_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of libcuda")
    built = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(_SOURCE)], check=True, timeout=HANG_S)
    return built


@pytest.fixture
def driver(library_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The driver in place of the machine's own, with `CAPACITY` bytes of device memory and nothing in them."""
    loaded = ctypes.CDLL(str(library_file))
    loaded.fake_reset(ctypes.c_size_t(CAPACITY))
    monkeypatch.setattr(libcuda, "LIBCUDA", str(library_file))
    monkeypatch.setattr(device, "LIBCUDA", str(library_file))
    libcuda._library.cache_clear()
    open_cuda.cache_clear()
    yield loaded
    gc.collect()  # streams and events are destroyed by this driver, not by the machine's
    libcuda._library.cache_clear()
    open_cuda.cache_clear()
