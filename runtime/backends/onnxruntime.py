"""Graphs on ONNX Runtime's CPU kernels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from internvl_edge.runtime.errors import BackendError, InputError

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class OnnxRuntimeSession:
    """One graph on the CPU."""

    def __init__(self, graph_file: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("backend onnxruntime: not installed; pip install 'internvl-edge[cpu]'") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(graph_file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises classes of its own, without a common base but this
            raise BackendError(_refusal(graph_file, str(error))) from error
        self._name = graph_file.stem
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs; floats are cast to the graph's own width.

        Raises:
            InputError: names, types or shapes that the graph does not take, all of them.
        """
        self._check(inputs, outputs or ())
        feeds = {name: self._cast(name, value) for name, value in inputs.items()}
        names = list(outputs) if outputs is not None else self._outputs
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _check(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        wrong = [f"input {name} is missing" for name in self._inputs if name not in inputs]
        wrong += [f"no input {name}" for name in inputs if name not in self._inputs]
        wrong += [f"no output {name}" for name in outputs if name not in self._outputs]
        for name, item in self._inputs.items():
            if name in inputs and not _fits(inputs[name], item.shape):
                wrong.append(f"{name} has shape {list(inputs[name].shape)} instead of {item.shape}")
            if name in inputs and (inputs[name].dtype.kind == "f") != ("float" in item.type):
                wrong.append(f"{name} is {inputs[name].dtype} instead of {item.type}")
        if wrong:
            raise InputError(f"graph {self._name}: {'; '.join(wrong)}; see `internvl-edge inspect`")

    def _cast(self, name: str, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value, dtype=_DTYPES.get(self._inputs[name].type))


def _fits(value: np.ndarray, shape: Sequence[int | str]) -> bool:
    return len(shape) == value.ndim and all(isinstance(d, str) or d == n for d, n in zip(shape, value.shape, strict=True))


def _refusal(graph_file: Path, message: str) -> str:
    if "NOT_IMPLEMENTED" in message and "bfloat16" in graph_file.parent.name + message.lower() or graph_file.parent.name == "bf16":
        return f"{graph_file.name}: ONNX Runtime has no bf16 kernels for CPUs; export with --dtype fp16 or fp32 to run it here"
    return f"{graph_file.name}: ONNX Runtime refuses the graph ({message.splitlines()[0]}); export the bundle again"
