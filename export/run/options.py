"""Options of `internvl-edge export`, checked once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.calib.recipes.thresholds import unknown_method
from internvl_edge.export.models.graphs import unknown_graphs
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.numbers.formats import DTYPES, QUANTIZED

DEFAULT_CONTEXT = 8192
"""Positions of a request to a language model: a picture of 12 tiles and its thumbnail take 3,328."""
WEIGHTS = ("auto", "copy", "link")
"""How the checkpoint's weights get into the bundle.

``auto`` shares blocks with the checkpoint's files where the file system can and writes the rest, ``copy`` writes all,
``link`` makes hard links.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of one export and their defaults."""

    checkpoint: str
    """Folder, weight file or Hub id."""
    output: Path
    graphs: tuple[str, ...] | None = None
    """Names of the graphs to write; None writes every graph that the checkpoint has weights for."""
    dtype: str | None = None
    """Type of what is not quantized; None: fp16, but bf16 where the values of a language model leave fp16 no room."""
    weights: str = "auto"
    """One of `WEIGHTS`."""
    image_size: int | None = None
    """Side of pictures in pixels; None keeps the checkpoint's. Another size interpolates the position table."""
    feature_layers: tuple[int, ...] = ()
    """Indexes of blocks, from 0, whose patch maps are further outputs of `vision`."""
    target: str | None = None
    """Device to build plans for; None builds none."""
    atol: float | None = None
    """Largest absolute difference that verification allows; None takes a bound relative to the output, by dtype."""
    on_overflow: str = "fp32"
    """What happens to values that fp16 cannot hold: ``fp32`` computes their nodes in fp32, ``refuse`` is an error."""
    samples: Path | None = None
    """Pictures and texts to verify on; None takes pictures in the checkpoint folder, or else synthetic ones."""
    sample_count: int = 2
    precision: str | None = None
    """Precision of the linears, one of `QUANTIZED`; None quantizes nothing."""
    data: str | None = None
    """Data to calibrate on, as for `calibrate --data`."""
    calibration_samples: int = 128
    method: str | None = None
    """Rule for thresholds; None takes that of `ranges`, or ``auto`` where ranges are measured now."""
    ranges: Path | None = None
    """Folder that `calibrate` wrote; it replaces `data`."""
    smooth: str = "auto"
    """``auto``, ``off``, or the alpha of SmoothQuant as text."""
    keep_high: tuple[str, ...] = ()
    """Names or globs of linears that are not quantized."""
    fp8_attention: bool = False
    """Whether to quantize q, k, v and the probabilities of attention too; only some precisions can."""
    max_drop: float = 0.5
    """Points of accuracy that quantization may cost."""
    budget_layers: int | None = None
    """Most sites that may stay unquantized to keep within `max_drop`; None sets no bound."""
    gate_samples: int = 64
    """Number of pictures that the accuracy gate measures on; 0 turns the gate off."""
    revision: str | None = None
    """Revision of a Hub id."""
    accept_config: tuple[str, ...] = ()
    """Unknown fields of the checkpoint's files that the user declares to have no effect on the model."""
    state_dict: str | None = None
    """Name of the set of weights to read from a checkpoint that holds several, for example ``model_ema``."""
    max_context: int | None = None
    """Most positions of a request to a language model, prompt and answer together; None: `DEFAULT_CONTEXT`, or what the
    tokenizer's files state if that is less."""

    def __post_init__(self) -> None:
        """Check the options as far as that needs no files.

        Raises:
            ExportError: with all findings in one line.
        """
        wrong = []
        if self.dtype is not None and self.dtype not in DTYPES:
            wrong.append(f"--dtype {self.dtype}: unknown; choose from {', '.join(DTYPES)}")
        if self.weights not in WEIGHTS:
            wrong.append(f"--weights {self.weights}: unknown; choose from {', '.join(WEIGHTS)}")
        if self.on_overflow not in ("fp32", "refuse"):
            wrong.append(f"--on-overflow {self.on_overflow}: unknown; choose fp32 or refuse")
        wrong += unknown_graphs(self.graphs)
        if self.atol is not None and not 0 <= self.atol < math.inf:
            wrong.append(f"--atol {self.atol}: not a tolerance; give a number >= 0")
        wrong += self._quantization_findings()
        if self.max_context is not None and self.max_context < 1:
            wrong.append(f"--max-context {self.max_context}: no room for a prompt; give 1 or more")
        if self.sample_count < 1:
            wrong.append(f"--sample-count {self.sample_count}: nothing to verify on; give at least 1")
        if wrong:
            raise ExportError("; ".join(wrong))

    @property
    def bundle_precision(self) -> str:
        """Name of the precision in the bundle."""
        return self.precision or self.dtype or "fp16"

    def _quantization_findings(self) -> Iterator[str]:
        if self.precision is None:
            if self.ranges is not None or self.data is not None or self.keep_high:
                yield "--data, --ranges, --keep-high: without --precision nothing is quantized; add --precision int8"
            return
        if self.precision not in QUANTIZED:
            yield f"--precision {self.precision}: unknown; choose from {', '.join(QUANTIZED)}"
        if self.data is None and self.ranges is None:
            yield f"--precision {self.precision}: nothing to calibrate on; give --data or --ranges"
        if self.method is not None:
            yield from unknown_method(self.method)
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
