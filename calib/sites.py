"""Sites, the places where a graph is quantized: one activation tensor and the linears that read it.

A site is either quantized, with its weights and its activation, or it *stays in high precision*: its linears keep the
type of the bundle (fp32, fp16 or bf16). `keep_high`, `kept_high` and ``high`` in options and reports mean the latter.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NormFold:
    """Smoothing of the output of a norm: dividing channels of the tensor divides the parameters of the norm."""

    parameters: tuple[str, ...]
    """Names of the gain and, where the norm has one, of the bias, each ``[C]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFold:
    """Smoothing of a tensor that is linear in output rows of another linear: dividing channels divides those rows."""

    weight: str
    start: int = 0
    """Index of the first of the C rows."""
    bias: str | None = None


Fold = NormFold | RowFold


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place where a graph is quantized; `name` is the module path of its first linear."""

    name: str
    linears: tuple[str, ...]
    """Module paths of the linears, which read the same tensor and share its quantizer."""
    tower: str
    """Part of the model, as reports name it."""
    block: int
    kind: str
    channels: int
    fold: Fold | None
    """Where smoothing is folded; None where no parameter before the tensor takes a factor exactly, as behind GELU."""
    layer_scale: str | None = None
    """Name of the vector that multiplies the output of the linear; it is folded into the rows of the weight."""
    row_multiple: int = 1
    """Number to whose multiple the output rows are padded with zeros; they are removed again after the product."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights, each ``[out, C]``."""
        return tuple(f"{path}.weight" for path in self.linears)
