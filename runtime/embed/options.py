"""The settings of bulk embedding."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """Output, features and handling of unreadable inputs."""

    output: Path
    """Path of the file; its suffix gives the format: .npz, .npy (names go in a .names.jsonl beside it) or .parquet."""
    mode: "Mode | None" = None
    """Kind of picture features; None: those of InternVL-G if the bundle has them, otherwise those of InternVL-C."""
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 32
    workers: int | None = None
    """Number of threads that decode; None: one for each core, at most 8."""
    on_error: Literal["fail", "skip"] = "fail"
    """Whether unreadable inputs fail the run, or get no row and are listed in a file."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: The batch size is below 1, or `on_error` has another value.
        """
        if self.batch_size < 1 or self.on_error not in ("fail", "skip"):
            raise InputError(
                f"embed: batch_size {self.batch_size}, on_error {self.on_error}; give 1 or more, and fail or skip"
            )
