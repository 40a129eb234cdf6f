"""What a dialect is, and which one a TensorRT gets: told by what it can do, never by its version."""

import logging
from dataclasses import dataclass, replace

from internvl_edge.export.canonical.opset import OPSET
from internvl_edge.export.plugins.tensorrt_plugins import VERSION as AHEAD_OF_TIME
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import VERSION as THROUGH_PYTHON
from internvl_edge.runtime.errors import EngineError

logger = logging.getLogger(__name__)

PORTABLE_OPSET = 20
"""What the parser of TensorRT 10.3, the oldest that plans are built with, takes; it holds FP8 Q/DQ (19) and
LayerNormalization (17)."""

_CHOICES = {
    "attention": ("op", "pattern", "plugin", "best"),
    "scale": ("query", "gain", "both", "keys", "scores"),
    "heads": ("apart", "together", "joined"),
    "keys": ("once", "twice"),
    "values": ("apart", "with keys"),
    "qkv": ("split", "slices"),
    "norms": ("op", "decomposed"),
    "rotary": ("op", "decomposed"),
    "gelu": ("op", "decomposed"),
    "plugin_version": (AHEAD_OF_TIME, THROUGH_PYTHON),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a graph is written; the defaults are the canonical graph itself."""

    attention: str = "op"
    """``op``: one Attention node; ``pattern``: MatMul, Softmax, MatMul; ``plugin``: nodes of ours, and the pattern
    where no kernel serves; ``best``: the plugin only where it is predicted to be faster than the pattern."""
    scale: str = "query"
    """Where 1/sqrt(D) goes in the pattern: on q, into the gain of the norm before q (on q where there is none),
    its root on q and on k, on the transposed keys, or on the scores."""
    heads: str = "apart"
    """q, k and v split into heads apart; or packed q and k side by side by one Transpose with the root of the scale
    behind it; or joined: q, k and v by one Transpose, with their norms or rotaries behind it."""
    keys: str = "once"
    """Packed keys to ``[B, H, D, N]`` by one Transpose, or head split and matrix transpose apart."""
    values: str = "apart"
    """Keys and values of cross-attention split into heads apart, or by one Transpose with the scale behind it."""
    qkv: str = "split"
    """Packed q, k, v taken apart by one Split or by three Slices."""
    norms: str = "op"
    rotary: str = "op"
    gelu: str = "op"
    opset: int = OPSET
    sm: int | None = None
    """Of the device that plugins are for; None: whatever has kernels."""
    batch: int = 1
    """Rows of a batch for which ``best`` weighs."""
    plugin_version: str = AHEAD_OF_TIME
    """Whether a plan holds the kernels of plugins (1), or our runtime launches them (3)."""

    def __post_init__(self) -> None:
        """Refuse forms that no pass writes, all at once."""
        wrong = [
            f"{field} {getattr(self, field)}: unknown; choose from {', '.join(choices)}"
            for field, choices in _CHOICES.items()
            if getattr(self, field) not in choices
        ]
        if not PORTABLE_OPSET <= self.opset <= OPSET:
            wrong.append(f"opset {self.opset}: not written; choose from {PORTABLE_OPSET} to {OPSET}")
        if wrong:
            raise EngineError("; ".join(wrong))


PORTABLE = Dialect(
    attention="pattern", norms="decomposed", rotary="decomposed", gelu="decomposed", opset=PORTABLE_OPSET
)
"""What every TensorRT from 10.3 on parses."""


FEWEST_LAUNCHES = Dialect(attention="pattern", heads="joined")
"""What the search finds for TensorRT-RTX and graphs in 16 bits: InternViT-6B 9 launches a block, 300M 8, QLLaMA's
text 9, decode step 9, query layer with cross-attention 14 (plain exports: 10, 10, 10, 11, 16). The towers' figures hold
for sm_75, 80, 86, 89 and 120."""

FEWEST_LAUNCHES_8_BITS = replace(FEWEST_LAUNCHES, values="with keys")
"""The same where linears give 8-bit products: a kernel brings each back to 16 bits anyway, and one does for k and v."""


def dialect_for(
    *,
    attention: bool,
    wanted: str = "auto",
    opset: int = OPSET,
    quantized: bool = False,
    plugins: bool = False,
    plugins_v3: bool = False,
    sm: int | None = None,
    batch: int = 1,
) -> Dialect:
    """Return the dialect of a TensorRT with IAttention (`attention`) that parses `opset`; 8-bit graphs have one too.

    `plugins` says whether it takes plugins whose kernels lie in the plan, `plugins_v3` whether those that our runtime
    launches, `sm` for which device; without either the pattern stands for ``plugin``, with a warning. Since plans with
    the latter open in our runtime alone, only ``plugin`` takes them.

    A parser without attention knows none of opset 23's operators. ``auto`` takes the pattern, which gives fewer
    launches than the operator, whose packed heads are copied by a transpose kernel each; and plugins where they are
    predicted to be faster.

    Raises:
        EngineError: attention is `wanted` as what this TensorRT does not have.
    """
    modern = attention and opset >= OPSET
    if wanted == "op":
        if not modern:
            raise EngineError(
                "--attention op: this TensorRT does not parse the Attention operator; take auto or pattern"
            )
        return Dialect()
    written = (FEWEST_LAUNCHES_8_BITS if quantized else FEWEST_LAUNCHES) if modern else PORTABLE
    if plugins and wanted != "pattern":
        return replace(written, attention="plugin" if wanted == "plugin" else "best", sm=sm, batch=batch)
    if wanted == "plugin" and plugins_v3:
        logger.warning("--attention plugin: no ahead-of-time plugins here; the plans will open in our runtime alone")
        return replace(written, attention="plugin", sm=sm, batch=batch, plugin_version=THROUGH_PYTHON)
    if wanted == "plugin":
        logger.warning(
            "--attention plugin: no ahead-of-time plugins here (the standard TensorRT has them from 10.9 on, "
            "TensorRT-RTX and kits do not); the pattern is written instead"
        )
    return written
