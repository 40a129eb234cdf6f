"""Both drivers, and the fake that tests run on, offer what the protocol says, under the same names."""

import inspect

import pytest

from internvl_edge.runtime.backends.cuda.ctypes_driver import CtypesDriver
from internvl_edge.runtime.backends.cuda.driver import Cuda, CudaError, DeviceMemoryError
from internvl_edge.runtime.backends.cuda.pycuda_driver import PycudaDriver
from internvl_edge.runtime.errors import BackendError
from tests.unit.runtime.fake_cuda import FakeCuda

CALLS = sorted(name for name in vars(Cuda) if not name.startswith("_"))


def parameters(owner: type, call: str) -> list[tuple[str, object]]:
    return [(each.name, each.kind) for each in inspect.signature(getattr(owner, call)).parameters.values()]


@pytest.mark.parametrize("driver", [CtypesDriver, PycudaDriver, FakeCuda])
@pytest.mark.parametrize("call", CALLS)
def test_a_driver_takes_what_the_protocol_says(driver: type, call: str) -> None:
    assert len(CALLS) == 17
    assert parameters(driver, call) == parameters(Cuda, call)


def test_a_device_without_memory_is_an_error_of_cuda_and_that_one_of_the_backend() -> None:
    assert issubclass(DeviceMemoryError, CudaError)
    assert issubclass(CudaError, BackendError)
