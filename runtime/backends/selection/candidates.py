"""Find backends that can run the graphs of a bundle on this machine, by installed libraries and usable plans."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle

logger = logging.getLogger(__name__)

_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")
"""Packages with the module `onnxruntime`."""
_OPENVINO = ("openvino",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend that may run graphs on this machine."""

    backend: str
    version: str
    """Versions of all its parts. After a change it is measured again."""


def find_candidates(bundle: Bundle, options: SessionOptions) -> list[Candidate]:
    """Return the candidates, the likely fastest first. CPU libraries are found without loading them."""
    return [*_tensorrt(bundle, options), *_onnxruntime(), *_openvino()]


def _tensorrt(bundle: Bundle, options: SessionOptions) -> Iterator[Candidate]:
    records = sorted(bundle.path.glob("engines/*/engine.json"))
    if not records:
        return
    from internvl_edge.runtime.backends.tensorrt.open import unavailable

    digest = hashlib.sha256(b"".join(record.read_bytes() for record in records)).hexdigest()
    for flavour in ("tensorrt", "tensorrt_rtx"):
        if reason := unavailable(bundle, flavour, options):
            logger.info("%s is left out: %s", flavour, reason)
        else:
            yield Candidate(backend=flavour, version=digest)


def _onnxruntime() -> Iterator[Candidate]:
    if find_spec("onnxruntime") is None:
        return
    found = _version("onnxruntime", _ONNXRUNTIME)
    if _has_cuda():
        yield Candidate(backend="onnxruntime_cuda", version=found)
    yield Candidate(backend="onnxruntime", version=found)


def _openvino() -> Iterator[Candidate]:
    if find_spec("openvino") is not None:
        yield Candidate(backend="openvino", version=_version("openvino", _OPENVINO))


def _has_cuda() -> bool:
    from internvl_edge.runtime.backends.cuda import Device, find_device

    if not isinstance(find_device(), Device):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _version(module: str, packages: Sequence[str]) -> str:
    """Return the version of the package that contains `module`, or the file of a module without a package."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    spec = find_spec(module)
    return str(spec.origin if spec else None)
