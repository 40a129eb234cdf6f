"""The settings of a Triton model repository."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from internvl_edge.runtime.errors import InputError

Platform = Literal["onnxruntime", "tensorrt", "runtime"]
Device = Literal["auto", "cpu", "gpu"]
Weights = Literal["auto", "link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryOptions:
    """Settings of all models in the repository."""

    platform: Platform = "onnxruntime"
    """What runs the graphs: Triton's ONNX Runtime, Triton's TensorRT, or this runtime in Triton's Python backend."""
    target: str | None = None
    """Target of the plans for ``tensorrt``; None: the only target for which the bundle has plans."""
    backend: str = "auto"
    """Backend of this runtime for ``runtime``."""
    weights: Weights = "auto"
    """With ``auto``, each graph has its own weights, which share blocks where the file system supports it. With
    ``link``, graphs share one copy by hard links; it needs less space, but onnx 1.23 and later refuses to read it."""
    max_batch: int = 16
    """Largest number of rows in one batch of a graph."""
    max_delay_ms: float = 2.0
    """Longest time that a request waits for others to join its batch."""
    instances: int = 1
    """Number of instances of each graph."""
    task_instances: int = 2
    """Number of instances of each task: so many requests are decoded, scaled and tokenized concurrently."""
    device: Device = "auto"
    """Where the instances of graphs run."""
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs with instances; empty: all."""
    images: tuple[Path, ...] = field(default=())
    """Pictures for the warm-up of models."""
    texts: tuple[str, ...] = field(default=())
    """Texts for the warm-up of models."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: Values are out of their ranges; the message names all of them.
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
