"""What `internvl-edge export` may be asked for, checked once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from internvl_edge.export.models.graphs import GRAPH_NAMES
from internvl_edge.runtime.errors import ExportError

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision as users name it -> tensor type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """One export; defaults live here alone."""

    checkpoint: str
    """Folder, file or Hub id."""
    output: Path
    graphs: tuple[str, ...] | None = None
    """None: every graph that the checkpoint has weights for."""
    dtype: str = "fp16"
    weights: str = "link"
    image_size: int | None = None
    """None: the checkpoint's own; another size bakes the interpolated position table."""
    feature_layers: tuple[int, ...] = ()
    """Blocks (0-based) whose patch maps `vision` also puts out."""
    target: str | None = None
    """Device to build TensorRT-RTX plans for; None builds none."""
    atol: float | None = None
    """Largest absolute difference allowed at verification; None: relative to the output, per dtype."""
    samples: Path | None = None
    """Pictures and texts to verify on; None: those in the checkpoint folder, else synthetic ones."""
    sample_count: int = 2
    revision: str | None = None
    """Of a Hub id."""

    def __post_init__(self) -> None:
        """Check what can be checked before the checkpoint is open.

        Raises:
            ExportError: all that is wrong, in one line.
        """
        wrong = []
        if self.dtype not in DTYPES:
            wrong.append(f"--dtype {self.dtype}: unknown; choose from {', '.join(DTYPES)}")
        if self.weights not in ("link", "copy"):
            wrong.append(f"--weights {self.weights}: unknown; choose link or copy")
        unknown = [name for name in self.graphs or () if name not in GRAPH_NAMES]
        if unknown:
            wrong.append(f"--graphs {','.join(unknown)}: unknown; choose from {', '.join(GRAPH_NAMES)}")
        if self.atol is not None and not self.atol >= 0:
            wrong.append(f"--atol {self.atol}: not a tolerance; give a number >= 0")
        if self.sample_count < 1:
            wrong.append(f"--sample-count {self.sample_count}: nothing to verify on; give at least 1")
        if wrong:
            raise ExportError("; ".join(wrong))


Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows long work: a task has a label and a total, and is advanced from inside its block."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Open a task of `total` units."""
        ...


class Silent:
    """Shows nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Return a block whose advance does nothing."""
        return nullcontext(lambda _: None)
