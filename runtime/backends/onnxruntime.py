"""Graphs on ONNX Runtime's CPU kernels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import BackendError, InputError

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
"""What can cross the border as NumPy arrays. bfloat16 cannot, and its CPU kernels are missing as well."""
_KINDS = {np.float32: "f", np.float16: "f", np.int64: "iub"}
"""Kinds of NumPy types that are cast to each: another width, never another meaning."""
_FATAL_ONLY = 4
"""Log level: every failure is raised, so that printing it as well would say it twice."""


class OnnxRuntimeSession:
    """One graph on the CPU.

    Raises:
        BackendError: ONNX Runtime is not installed or refuses the graph.
    """

    def __init__(self, graph_file: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("backend onnxruntime: not installed; pip install 'internvl-edge[cpu]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        try:
            self._session = onnxruntime.InferenceSession(str(graph_file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises classes of its own, without a common base but this
            raise BackendError(_refusal(graph_file, str(error))) from error
        self._file = graph_file
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = {item.name: item for item in self._session.get_outputs()}
        foreign = {item.type for item in (*self._inputs.values(), *self._outputs.values()) if item.type not in _DTYPES}
        if foreign:
            listed = ", ".join(sorted(foreign))
            raise BackendError(f"{graph_file.name}: NumPy cannot hold its {listed}; export with --dtype fp16 or fp32")

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs; floats and integers are cast to the graph's own width.

        Raises:
            InputError: names, types or shapes that the graph does not take, all of them.
            BackendError: the graph fails on values that its signature allows.
        """
        names = list(self._outputs if outputs is None else outputs)
        self._check(inputs, names)
        feeds = {name: np.ascontiguousarray(value, self._dtype(name)) for name, value in inputs.items()}
        try:
            results = self._session.run(names, feeds)
        except Exception as error:  # as above
            raise BackendError(
                f"{self._file.name}: failed at run time ({_first_line(str(error))}); check its inputs"
            ) from error
        return dict(zip(names, results, strict=True))

    def _check(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        wrong = [f"input {name} is missing" for name in self._inputs if name not in inputs]
        wrong += [f"no input {name}" for name in inputs if name not in self._inputs]
        wrong += [f"no output {name}" for name in outputs if name not in self._outputs]
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        wrong += [
            f"{name} is {value.dtype} instead of {np.dtype(self._dtype(name))}"
            for name, value in given.items()
            if value.dtype.kind not in _KINDS[self._dtype(name)]
        ]
        wrong += _misfits(given, {name: self._inputs[name].shape for name in given})
        if wrong:
            raise InputError(f"graph {self._file.stem}: {'; '.join(wrong)}; see `internvl-edge inspect`")

    def _dtype(self, name: str) -> Any:
        return _DTYPES[self._inputs[name].type]


def _misfits(inputs: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int | str | None]]) -> Iterator[str]:
    """Yield what is wrong with the shapes: a fixed axis of another size, or one axis name with two sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in inputs.items():
        shape = shapes[name]
        fixed = [(found, size) for found, size in zip(value.shape, shape, strict=False) if isinstance(size, int)]
        if value.ndim != len(shape) or any(found != size for found, size in fixed):
            yield f"{name} has shape {list(value.shape)} instead of [{', '.join(map(str, shape))}]"
            continue
        for found, axis in zip(value.shape, shape, strict=True):
            if isinstance(axis, str):
                size, first = sizes.setdefault(axis, (found, name))
                if found != size:
                    yield f"axis {axis} is {found} in {name} but {size} in {first}"


def _refusal(graph_file: Path, message: str) -> str:
    if "NOT_IMPLEMENTED" in message and graph_file.parent.name == "bf16":  # the folder is named by precision
        return f"{graph_file.name}: ONNX Runtime has no bf16 kernels for CPUs; export with --dtype fp16 or fp32"
    return f"{graph_file.name}: ONNX Runtime refuses the graph ({_first_line(message)}); export the bundle again"


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else "no reason given"
