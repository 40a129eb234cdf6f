"""The result of the accuracy gate: metrics before and after quantization."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyMetric:
    """One metric of the model before and after quantization, in percent."""

    name: str
    reference: float
    quantized: float

    @property
    def drop(self) -> float:
        """Loss in percentage points."""
        return self.reference - self.quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Metrics of a quantized model beside those of the reference."""

    metrics: tuple[AccuracyMetric, ...]
    pictures: int
    """Number of pictures that were measured."""
    source: str
    """The data set, as the user named it."""

    @property
    def drop(self) -> float:
        """Loss of the mean of all metrics in percentage points."""
        return float(np.mean([metric.drop for metric in self.metrics]))
