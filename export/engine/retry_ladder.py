"""Retry ladder of a build: when memory runs out, build again with smaller limits, step by step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from internvl_edge.export.engine.build_process import BuilderMemoryError

T = TypeVar("T")

_WORKSPACES = (1 << 30, 256 << 20)
"""Limits of scratch memory in bytes, tried in order; attention at 1,025 tokens and batch 8 needs less than 1 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """Limits of a build that determine how much memory it needs."""

    workspace_bytes: int | None = None
    """Most scratch memory for kernels; None leaves the library's default."""
    largest_batch: int = 8
    part_bytes: int | None = None
    """Most bytes of weights in one part; None does not cut the graph."""


def retry_with_less(
    attempt: Callable[[BuildLimits], T], limits: BuildLimits, weight_bytes: int, block_bytes: int
) -> tuple[T, list[str]]:
    """Return the result of `attempt` with the largest limits that fit into memory, and the steps that were needed.

    `weight_bytes` is the size of the graph's weights and `block_bytes` that of its largest block, the smallest possible
    part; 0 means that parts cannot be cut further.

    Raises:
        BuilderMemoryError: memory runs out at every step; the message lists all steps.
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
    """Yield smaller and smaller limits: less scratch memory, then smaller batches, then smaller parts."""
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
