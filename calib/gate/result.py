"""What quantization cost: figures before and after, and the damage of single sites."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyMetric:
    """One figure of the model before and after, in percent."""

    name: str
    reference: float
    quantized: float

    @property
    def drop(self) -> float:
        """Points lost."""
        return self.reference - self.quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What the gate saw."""

    metrics: tuple[AccuracyMetric, ...]
    pictures: int
    source: str

    @property
    def drop(self) -> float:
        """Points that the mean of all metrics lost."""
        return float(np.mean([metric.drop for metric in self.metrics]))
