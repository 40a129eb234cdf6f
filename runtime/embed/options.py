"""What `embed` computes, and what becomes of inputs that cannot be read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """What is computed, and what becomes of inputs that cannot be read."""

    output: Path
    """Its ending is the format: .npz, .npy (names in a .names.jsonl beside it) or .parquet."""
    mode: "Mode | None" = None
    """Whose picture features; None: InternVL-G's where the bundle has them, otherwise InternVL-C's."""
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int = 32
    workers: int | None = None
    """Threads that decode; None: one a core, 8 at most."""
    on_error: Literal["fail", "skip"] = "fail"
    """skip: inputs that cannot be read have no row, and are listed."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a batch of no row, or nothing known for errors.
        """
        if self.batch_size < 1 or self.on_error not in ("fail", "skip"):
            raise InputError(
                f"embed: batch_size {self.batch_size}, on_error {self.on_error}; give 1 or more, and fail or skip"
            )
