"""What is measured, and on how much."""

from dataclasses import dataclass

from internvl_edge.runtime.errors import InputError

TASKS = ("retrieval", "zero_shot", "captions")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What is measured, and on how much.

    Raises:
        InputError: options that leave nothing to measure, all of them named.
    """

    tasks: tuple[str, ...] = TASKS
    sample_count: int | None = None
    """Pictures, spread evenly over the set; fewer candidates make retrieval easier."""
    languages: tuple[str, ...] | None = None
    """Default: all that the data knows."""
    batch_size: int = 64
    backend: str = "onnxruntime"
    bf16: bool = False
    """Let a processor compute the bundle in bf16; the baseline never is."""

    def __post_init__(self) -> None:
        """Check the options, all at once."""
        wrong = []
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            wrong.append(f"tasks: {', '.join(unknown) or 'none'}; choose from {', '.join(TASKS)}")
        if self.sample_count is not None and self.sample_count < 1:
            wrong.append(f"sample_count: {self.sample_count} pictures; give 1 or more, or none for all")
        if self.languages is not None and not self.languages:
            wrong.append("languages: none; name some, or leave them out for all")
        if self.batch_size < 1:
            wrong.append(f"batch_size: {self.batch_size} rows; give 1 or more")
        if wrong:
            raise InputError("; ".join(wrong))
