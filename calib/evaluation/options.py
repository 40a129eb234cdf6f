"""Settings of an evaluation."""

from dataclasses import dataclass

from internvl_edge.runtime.errors import InputError

MAX_NEW_TOKENS = 32
"""Most tokens of a caption or an answer, as in the recorded figures of the examples."""
TASKS = ("retrieval", "zero_shot", "captions")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """Settings of an evaluation.

    Raises:
        InputError: options that leave nothing to measure, all of them named.
    """

    tasks: tuple[str, ...] = TASKS
    sample_count: int | None = None
    """Number of pictures, evenly spaced over the data; None: all. Fewer candidates make retrieval easier."""
    languages: tuple[str, ...] | None = None
    """Languages to evaluate; None: all languages of the data."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Most tokens of a caption."""
    batch_size: int = 64
    backend: str = "onnxruntime"
    bf16: bool = False
    """Whether a CPU may compute the bundle in bf16; the baseline is never computed in bf16."""

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
