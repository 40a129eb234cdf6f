"""ModelOpt's ONNX PTQ: an environment of its own (1.4 GB, made once), and the call that runs inside it.

This file imports nothing of `internvl_edge`, which is not installed in that environment.
"""

import importlib
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from steps import measured

MODELOPT = ("nvidia-modelopt==0.47.0",)
"""Package that is installed without its dependencies, CUDA builds of ONNX Runtime and CuPy, which a CPU cannot use."""
MODELOPT_NEEDS = (
    *("onnx==1.21.0", "onnxruntime==1.24.4", "onnxconverter-common==1.16.0", "onnx-graphsurgeon>=0.6.1"),
    *("onnxslim>=0.1.76", "polygraphy>=0.53.4", "setuptools>=80", "pulp<4", "click", "cppimport", "lief", "ml_dtypes"),
    *("ninja", "numpy", "nvidia-ml-py", "omegaconf", "onnxscript", "packaging", "pydantic", "pyyaml", "regex", "rich"),
    *("safetensors", "scipy", "torch", "tqdm"),
)
"""Dependencies with the versions that 0.47.0 needs; the newest where it sets no bound."""


def modelopt_python(environment: Path, log: Path) -> Path:
    """Return the interpreter of ModelOpt's environment, which is made if it is not there.

    Raises:
        StepError: a package cannot be installed.
    """
    python, made = environment / "bin" / "python", environment / "made"
    if not made.exists():
        venv.create(environment, clear=True, with_pip=True)
        constraint = environment / "constraints.txt"
        constraint.write_text(f"torch=={version('torch')}\n")  # the same build as ours: no CUDA where ours has none
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        measured([*pip, "--no-deps", *MODELOPT], log)
        measured([*pip, "-c", str(constraint), *MODELOPT_NEEDS], log)
        made.touch()
    return python


def modelopt_graph(graph: str, inputs: str, precision: str, method: str, dtype: str) -> None:
    """Replace a graph by ModelOpt's quantized graph, calibrated on the batches in `inputs`, in ModelOpt's environment.

    It chooses the nodes itself: products, convolutions, residual sums. What it needed:

    - `simplify`: without it the weights stay behind their Transpose and get one scale each instead of one a channel.
    - The weights go into the file first: it looks for external data beside the copies that it makes.
    - A data reader: its own takes arrays of one shape, the decoder's chunk and its steps have two.
    - `high_precision_dtype`: fp16 by default, also of a graph in fp32.
    """
    import onnx

    quantize = importlib.import_module("modelopt.onnx.quantization").quantize
    base = importlib.import_module("onnxruntime.quantization").CalibrationDataReader
    onnx.save(onnx.load(graph), graph)
    quantize(
        graph,
        quantize_mode=precision,
        calibration_method=method,
        calibration_data_reader=batch_reader(Path(inputs), base),
        calibration_eps=["cpu"],
        high_precision_dtype=dtype,
        simplify=True,
        output_path=graph,
    )


def batch_reader(folder: Path, base: type) -> Any:
    """Return a calibration data reader over the batches in `folder`; `base` is the class that the tool asks for."""
    files = sorted(folder.glob("*.npz"))

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(files))

        def __len__(self) -> int:
            return len(files)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(files[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            file = next(self.left, None)
            return None if file is None else dict(np.load(file))

        def get_first(self) -> dict[str, np.ndarray]:
            return dict(np.load(files[0]))

        def rewind(self) -> None:
            self.set_range(0, len(files))

    return Reader()
