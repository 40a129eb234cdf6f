"""How a bundle is laid out as Triton's model repository."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from internvl_edge.runtime.errors import InputError

Platform = Literal["onnxruntime", "tensorrt", "runtime"]
Device = Literal["auto", "cpu", "gpu"]
Weights = Literal["auto", "link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryOptions:
    """Settings of every model."""

    platform: Platform = "onnxruntime"
    """What runs the graphs: Triton's ONNX Runtime, Triton's TensorRT, or this runtime in Triton's Python backend."""
    target: str | None = None
    """Whose plans, for ``tensorrt``; None: the only ones that the bundle has."""
    backend: str = "auto"
    """Of this runtime, for ``runtime``."""
    weights: Weights = "auto"
    """Each graph has its own weights, which share blocks where the file system can; or ``link``: graphs have one copy
    by hard links, which takes less room and which onnx 1.23 and later refuses to read."""
    max_batch: int = 16
    max_delay_ms: float = 2.0
    instances: int = 1
    """Of each graph."""
    task_instances: int = 2
    """Of each task: so many requests are decoded, scaled and tokenized side by side."""
    device: Device = "auto"
    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs that have instances; empty: all."""
    images: tuple[Path, ...] = field(default=())
    """Pictures that models warm up on."""
    texts: tuple[str, ...] = field(default=())
    """Texts that models warm up on."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: values out of their range, all of them named.
        """
        counts = ("max_batch", "instances", "task_instances")
        wrong = [f"{name} {getattr(self, name)} (1 or more)" for name in counts if getattr(self, name) < 1]
        if not self.max_delay_ms >= 0:
            wrong.append(f"max_delay_ms {self.max_delay_ms} (0 or more)")
        for name, known in (
            ("platform", get_args(Platform)),
            ("device", get_args(Device)),
            ("weights", get_args(Weights)),
        ):
            if getattr(self, name) not in known:
                wrong.append(f"{name} {getattr(self, name)} ({', '.join(known)})")
        if wrong:
            raise InputError(f"package: {'; '.join(wrong)}; give values in these ranges")
