"""Places where a graph is quantized: one activation tensor, the linears that read it, and where smoothing folds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NormFold:
    """The tensor is a norm's output: dividing its channels divides the norm's parameters."""

    parameters: tuple[str, ...]
    """Gain, and bias where the norm has one, each ``[C]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFold:
    """The tensor is linear in some output rows of another linear: dividing its channels divides those rows."""

    weight: str
    start: int = 0
    """First of the C rows."""
    bias: str | None = None


Fold = NormFold | RowFold


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place. `name` is that of its first linear; all of `linears` read the same tensor and share its quantizer."""

    name: str
    linears: tuple[str, ...]
    """Module paths; the weight is ``<path>.weight`` ``[out, C]``."""
    tower: str
    """The part of the model that it lies in, as reports call it."""
    block: int
    kind: str
    channels: int
    fold: Fold | None
    """None: nothing before the tensor takes a factor exactly (GELU)."""
    layer_scale: str | None = None
    """Vector that multiplies the linear's output, folded into its rows."""
    row_multiple: int = 1
    """Output rows are padded with zeros to a multiple of this, and cut again behind the product."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights."""
        return tuple(f"{path}.weight" for path in self.linears)
