"""Decide the type of a chat bundle: fp16 where the values of its language model leave room, else bf16."""

from collections.abc import Mapping

from torch import Tensor

from internvl_edge.export.blockwise.streamed import Change
from internvl_edge.export.numerics.reach import HEADROOM
from internvl_edge.runtime.numbers.tensor_types import FLOAT16


class LargestValues:
    """The largest magnitude that enters each part of a module in fp32."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        """Path of a part -> the largest magnitude of its inputs."""

    def recorders(self, paths: Mapping[str, object]) -> dict[str, Change]:
        """Return a function for each part that records its input and leaves it as it is."""
        return {path: self._recorder(path) for path in paths}

    def _recorder(self, path: str) -> Change:
        def record(x: Tensor) -> Tensor:
            if x.is_floating_point() and x.numel():
                self.of[path] = max(self.of.get(path, 0.0), float(x.abs().max()))
            return x

        return record


def fitting_dtype(largest: Mapping[str, float]) -> tuple[str, str]:
    """Return the option of the type that holds these magnitudes, and the reason in words."""
    path, reached = max(largest.items(), key=lambda item: item[1], default=("nothing", 0.0))
    fits = reached * HEADROOM <= FLOAT16.largest
    reason = f"values of the language model reach {reached:.3g} of {FLOAT16.largest:.5g} that fp16 holds, before {path}"
    return ("fp16" if fits else "bf16"), reason
