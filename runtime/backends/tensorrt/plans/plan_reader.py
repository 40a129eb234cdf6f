"""Deserialize a plan from its file, in pieces where TensorRT can, so that host memory never holds the whole plan."""

import mmap
from pathlib import Path
from types import ModuleType
from typing import Any

from internvl_edge.runtime.backends.tensorrt.plans.library import Library


def deserialize(library: Library, path: Path) -> Any:
    """Return the engine in file `path`, or None with the reason in the library's errors."""
    library.errors.clear()
    with path.open("rb") as file:
        if hasattr(library.trt, "IStreamReaderV2"):
            return library.runtime.deserialize_cuda_engine(_reader(library.trt, file))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return library.runtime.deserialize_cuda_engine(mapped)


def _reader(trt: ModuleType, file: Any) -> Any:
    whence = {trt.SeekPosition.SET: 0, trt.SeekPosition.CUR: 1, trt.SeekPosition.END: 2}

    class Reader(trt.IStreamReaderV2):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, size: int, stream: int) -> bytes:
            found: bytes = file.read(size)
            return found

        def seek(self, offset: int, where: Any) -> bool:
            file.seek(offset, whence[where])
            return True

    return Reader()
