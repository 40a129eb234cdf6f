"""What `internvl-edge export` may be asked for, checked once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.calib.recipes.thresholds import METHODS
from internvl_edge.export.models.graphs import GRAPH_NAMES
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.numbers.formats import DTYPES, QUANTIZED

WEIGHTS = ("auto", "copy", "link")
"""Share blocks with the checkpoint's files where the file system can and write the rest; write all; or hard-link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """One export; defaults live here alone."""

    checkpoint: str
    """Folder, file or Hub id."""
    output: Path
    graphs: tuple[str, ...] | None = None
    """None: every graph that the checkpoint has weights for."""
    dtype: str = "fp16"
    weights: str = "auto"
    """How the checkpoint's bytes get into the bundle: one of `WEIGHTS`."""
    image_size: int | None = None
    """None: the checkpoint's own; another size bakes the interpolated position table."""
    feature_layers: tuple[int, ...] = ()
    """Blocks (0-based) whose patch maps `vision` also puts out."""
    target: str | None = None
    """Device to build TensorRT-RTX plans for; None builds none."""
    atol: float | None = None
    """Largest absolute difference allowed at verification; None: relative to the output, per dtype."""
    on_overflow: str = "fp32"
    """What becomes of values that fp16 cannot hold: their nodes are kept in ``fp32``, or the export is a ``refuse``."""
    samples: Path | None = None
    """Pictures and texts to verify on; None: those in the checkpoint folder, else synthetic ones."""
    sample_count: int = 2
    precision: str | None = None
    """Precision of the linears, one of `QUANTIZED`; None leaves everything in `dtype`."""
    data: str | None = None
    """What to calibrate on, as `calibrate --data`."""
    calibration_samples: int = 128
    method: str | None = None
    """Rule for clips; None: that of the ranges, ``auto`` where they are measured now."""
    ranges: Path | None = None
    """What `calibrate` wrote; instead of `data`."""
    smooth: str = "auto"
    """``auto``, ``off``, or SmoothQuant's alpha."""
    keep_high: tuple[str, ...] = ()
    """Names or globs of linears that stay in `dtype`."""
    fp8_attention: bool = False
    """Quantize q, k, v and the probabilities as well, where the precision can."""
    max_drop: float = 0.5
    """Points of accuracy that quantization may cost on the data."""
    budget_layers: int | None = None
    """Sites that may be kept high to stay within `max_drop`; None: as many as it takes."""
    gate_samples: int = 64
    """Pictures that the drop is measured on; 0 measures none."""
    revision: str | None = None
    """Of a Hub id."""
    accept_config: tuple[str, ...] = ()
    """Unknown fields of the checkpoint's files that have no effect on the model."""
    state_dict: str | None = None
    """Which set of weights is meant where the checkpoint holds several, as ``model_ema``."""

    def __post_init__(self) -> None:
        """Check what can be checked before the checkpoint is open.

        Raises:
            ExportError: all that is wrong, in one line.
        """
        wrong = []
        if self.dtype not in DTYPES:
            wrong.append(f"--dtype {self.dtype}: unknown; choose from {', '.join(DTYPES)}")
        if self.weights not in WEIGHTS:
            wrong.append(f"--weights {self.weights}: unknown; choose from {', '.join(WEIGHTS)}")
        if self.on_overflow not in ("fp32", "refuse"):
            wrong.append(f"--on-overflow {self.on_overflow}: unknown; choose fp32 or refuse")
        unknown = [name for name in self.graphs or () if name not in GRAPH_NAMES]
        if unknown:
            wrong.append(f"--graphs {','.join(unknown)}: unknown; choose from {', '.join(GRAPH_NAMES)}")
        if self.atol is not None and not 0 <= self.atol < math.inf:
            wrong.append(f"--atol {self.atol}: not a tolerance; give a number >= 0")
        wrong += self._quantization_findings()
        if self.sample_count < 1:
            wrong.append(f"--sample-count {self.sample_count}: nothing to verify on; give at least 1")
        if wrong:
            raise ExportError("; ".join(wrong))

    @property
    def bundle_precision(self) -> str:
        """Name of the precision as the bundle has it."""
        return self.precision or self.dtype

    def _quantization_findings(self) -> Iterator[str]:
        if self.precision is None:
            if self.ranges is not None or self.data is not None or self.keep_high:
                yield "--data, --ranges, --keep-high: without --precision nothing is quantized; add --precision int8"
            return
        if self.precision not in QUANTIZED:
            yield f"--precision {self.precision}: unknown; choose from {', '.join(QUANTIZED)}"
        if self.data is None and self.ranges is None:
            yield f"--precision {self.precision}: nothing to calibrate on; give --data or --ranges"
        if self.method is not None and self.method not in METHODS:
            yield f"--method {self.method}: unknown; choose from {', '.join(METHODS)}"
        able = [name for name, row in QUANTIZED.items() if row.attention is not None]
        if self.fp8_attention and self.precision not in able:
            yield f"--fp8-attention with --precision {self.precision}: it is for {', '.join(able)}; leave it out"
        if self.smooth not in ("auto", "off") and not _is_share(self.smooth):
            yield f"--smooth {self.smooth}: give auto, off, or a number from 0 to 1"
        if not 0 <= self.max_drop < math.inf:
            yield f"--max-drop {self.max_drop}: not a drop; give points >= 0"
        if self.budget_layers is not None and self.budget_layers < 0:
            yield f"--budget-layers {self.budget_layers}: not a count; give 0 or more"
        if self.gate_samples < 0:
            yield f"--gate-samples {self.gate_samples}: not a count; give 0 for no gate, or more"


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
