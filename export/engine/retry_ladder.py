"""What to give up, step by step, when memory runs out while building."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from internvl_edge.export.engine.build_process import BuilderMemoryError

T = TypeVar("T")

_WORKSPACES = (1 << 30, 256 << 20)
"""Scratch memory that kernels may ask for; attention at 1,025 tokens and batch 8 wants less than 1 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """What a build may take."""

    workspace_bytes: int | None = None
    """None: what the library allows by itself."""
    largest_batch: int = 8
    part_bytes: int | None = None
    """Weights of one part; None: the graph is not cut."""


def retry_with_less(
    attempt: Callable[[BuildLimits], T], limits: BuildLimits, weight_bytes: int, block_bytes: int
) -> tuple[T, list[str]]:
    """Return what `attempt` gives with the most means that do not run out of memory, and what was given up.

    `block_bytes` is the least that a part can hold; 0 says that parts cannot be cut any finer here.

    Raises:
        BuilderMemoryError: memory runs out on every step; the last message, with all that was tried.
    """
    given_up: list[str] = []
    steps = _steps(limits, weight_bytes, block_bytes)
    while True:
        try:
            return attempt(limits), given_up
        except BuilderMemoryError as error:
            step = next(steps, None)
            if step is None:
                tried = f"; tried {', '.join(given_up)}" if given_up else ""
                raise BuilderMemoryError(f"{error}{tried}") from error
            limits, what = step
            given_up.append(what)


def _steps(limits: BuildLimits, weight_bytes: int, block_bytes: int) -> Iterator[tuple[BuildLimits, str]]:
    """Yield ever smaller limits: less scratch memory, then smaller batches, then finer parts."""
    for workspace in _WORKSPACES:
        if limits.workspace_bytes is None or limits.workspace_bytes > workspace:
            limits = replace(limits, workspace_bytes=workspace)
            yield limits, f"workspace {workspace >> 20} MiB"
    while limits.largest_batch > 1:
        limits = replace(limits, largest_batch=limits.largest_batch // 2)
        yield limits, f"largest batch {limits.largest_batch}"
    part = min(limits.part_bytes or weight_bytes, weight_bytes)
    while block_bytes and part > block_bytes:
        part = max(part // 2, block_bytes)
        limits = replace(limits, part_bytes=part)
        yield limits, f"parts of {part >> 20} MiB of weights"
