"""What quantization cost: figures before and after, and the damage of single sites."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of the model before and after, in percent."""

    metric: str
    reference: float
    quantized: float

    @property
    def drop(self) -> float:
        """Points lost."""
        return self.reference - self.quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate saw."""

    measures: tuple[Measure, ...]
    pictures: int
    source: str

    @property
    def drop(self) -> float:
        """Points that the mean of all measures lost."""
        return float(np.mean([measure.drop for measure in self.measures]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What one site costs alone, in the graph where it costs most."""

    site: str
    graph: str
    sqnr_db: float
    """Of the graph's output, against fp32."""
    kept_high: bool = False
