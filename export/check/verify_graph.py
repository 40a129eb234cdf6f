"""Compare a graph on ONNX Runtime with its torch module in fp32, on the same weights and inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvl_edge.export.models.graph_modules.specs import PRESENT
from internvl_edge.export.numerics.reach import Reach, run_rounded
from internvl_edge.runtime.errors import VerificationError
from internvl_edge.runtime.numbers.formats import PRECISIONS

_MASK = "attention_mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """Difference of one output of a graph to torch."""

    graph: str
    output: str
    max_abs_diff: float
    cosine: float
    """Cosine of the two flattened outputs."""
    atol: float
    """Largest `max_abs_diff` that is allowed."""

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.max_abs_diff <= self.atol


def verify_graph(
    name: str,
    onnx_file: Path,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    *,
    precision: str,
    atol: float | None = None,
) -> tuple[list[OutputError], list[Reach]]:
    """Return the error of every output on `inputs` (fp32 or int64), and the reach of every 16-bit value.

    Inputs are cast to the graph's types, and every intermediate is rounded to its type, as in a plan. Keys and values
    of padding are not compared: no position counts for them, so that they are means of whatever rounding left.
    """
    found, reached = run_rounded(onnx_file, inputs)
    mask = inputs.get(_MASK)
    errors = [
        _compare(name, output, _counting(output, found[output], mask), _counting(output, values, mask), precision, atol)
        for output, values in expected.items()
    ]
    return errors, reached


def onnx_outputs(onnx_file: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a graph with every intermediate rounded to its type.

    Raises:
        VerificationError: with all 16-bit values that overflow on these inputs.
    """
    found, reached = run_rounded(onnx_file, inputs)
    if over := [reach for reach in reached if reach.overflows]:
        listed = ", ".join(f"{reach.place} reaches {reach.largest:.3g} of {reach.limit:.5g}" for reach in over[:8])
        raise VerificationError(
            f"{onnx_file.name}: overflows on these inputs: {listed}; verify on more of them with --samples and "
            "--sample-count, so that islands in fp32 are made for it, or try --dtype bf16"
        )
    return found


def require_ok(errors: list[OutputError]) -> None:
    """Check that every output is within its tolerance.

    Raises:
        VerificationError: with every output that is not, its difference and its tolerance.
    """
    bad = [error for error in errors if not error.ok]
    if bad:
        listed = "; ".join(f"{e.graph}.{e.output} differs by {e.max_abs_diff:.3g} (allowed {e.atol:.3g})" for e in bad)
        raise VerificationError(f"exported graphs: {listed}; try --dtype fp32 or bf16, or allow it with --atol")


def _counting(output: str, values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the keys or values ``[B, H, n, D]`` of the positions of `mask` ``[B, n]``; other outputs as they are."""
    if mask is None or not output.startswith(PRESENT):
        return values
    kept: np.ndarray = values.transpose(0, 2, 1, 3)[mask > 0]
    return kept


def _compare(
    graph: str, output: str, found: np.ndarray, expected: np.ndarray, precision: str, atol: float | None
) -> OutputError:
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    difference = float(np.abs(a - b).max(initial=0.0))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    relative = PRECISIONS[precision].relative_tolerance
    allowed = atol if atol is not None else relative * max(1.0, float(np.abs(b).max(initial=0.0)))
    return OutputError(
        graph=graph,
        output=output,
        max_abs_diff=difference,
        cosine=float(a @ b) / norms if norms else 1.0,
        atol=allowed,
    )
