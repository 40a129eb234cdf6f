"""Dialects: how a graph is written for a TensorRT, chosen by the library's capabilities and never by its version."""

import logging
from dataclasses import dataclass, replace

from internvl_edge.export.canonical.opset import OPSET
from internvl_edge.export.plugins.tensorrt_plugins import VERSION as AHEAD_OF_TIME
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import VERSION as THROUGH_PYTHON
from internvl_edge.runtime.errors import EngineError

logger = logging.getLogger(__name__)

PORTABLE_OPSET = 20
"""Newest opset of the parser of TensorRT 10.3, the oldest version that plans are built with.

It has FP8 Q/DQ (opset 19) and LayerNormalization (17).
"""

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
    """Form of a graph; the defaults are the canonical graph itself."""

    attention: str = "op"
    """Form of attention.

    ``op`` is one Attention node, ``pattern`` is MatMul, Softmax, MatMul. ``plugin`` is a node of our plugins, and the
    pattern where no kernel fits. ``best`` is the plugin only where it is predicted to be faster than the pattern.
    """
    scale: str = "query"
    """Place of 1/sqrt(D) in the pattern.

    ``query`` multiplies q, ``gain`` the gain of the norm before q (q if there is none), ``both`` q and k by its root,
    ``keys`` the transposed keys, ``scores`` the scores.
    """
    heads: str = "apart"
    """Split of q, k and v into heads.

    ``apart`` has a Transpose for each. ``together`` has one for q and k, with the root of the scale after it.
    ``joined`` has one for q, k and v, with their norms or rotaries after it.
    """
    keys: str = "once"
    """Packed keys to ``[B, H, D, N]``: ``once`` by one Transpose, ``twice`` by a split into heads and a second one."""
    values: str = "apart"
    """Keys and values of cross-attention: ``apart``, or ``with keys`` by one Transpose with the scale after it."""
    qkv: str = "split"
    """Packed q, k, v are separated by one Split (``split``) or by three Slices (``slices``)."""
    norms: str = "op"
    rotary: str = "op"
    gelu: str = "op"
    opset: int = OPSET
    sm: int | None = None
    """SM of the device that runs the plugins; None takes every plugin that has a kernel for any device."""
    batch: int = 1
    """Batch size for which ``best`` predicts times."""
    plugin_version: str = AHEAD_OF_TIME
    """Version of the plugins: a plan holds their kernels (1), or our runtime launches them (3)."""

    def __post_init__(self) -> None:
        """Check that passes exist for all fields.

        Raises:
            EngineError: with all fields that no pass can write.
        """
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
"""Dialect that every TensorRT from 10.3 on can parse."""


FEWEST_LAUNCHES = Dialect(attention="pattern", heads="joined")
"""Dialect that the search of forms finds for TensorRT-RTX and 16-bit graphs.

Launches per block: InternViT-6B 9, 300M 8, QLLaMA's text 9, decode step 9, query layer with cross-attention 14; plain
exports have 10, 10, 10, 11 and 16. The figures of the towers hold for sm_75, 80, 86, 89 and 120.
"""

FEWEST_LAUNCHES_8_BITS = replace(FEWEST_LAUNCHES, values="with keys")
"""The same for graphs whose linears multiply 8-bit codes.

A kernel converts each product to 16 bits anyway, and one kernel does it for k and v.
"""


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
    """Return the dialect for a TensorRT that has IAttention or not (`attention`) and parses `opset`.

    `quantized` says whether linears multiply 8-bit codes. `plugins` says whether the library takes plugins whose
    kernels are in the plan, `plugins_v3` whether it takes plugins that our runtime launches; `sm` is their device.
    Without either, the pattern replaces ``plugin``, with a warning. Plans with plugins of the second kind can be opened
    by our runtime only, so that only ``plugin`` uses them.

    A parser without the Attention operator has none of opset 23's operators. ``auto`` takes plugins where they are
    predicted to be faster, and otherwise the pattern: it needs fewer launches than the operator, whose packed heads are
    each copied by a transpose kernel.

    Raises:
        EngineError: this TensorRT does not have the attention `wanted`.
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
