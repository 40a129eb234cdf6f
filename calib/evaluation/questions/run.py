"""Evaluate a chat bundle on a table of questions, and a baseline on the same ones."""

from dataclasses import dataclass
from pathlib import Path

from internvl_edge.calib.evaluation.options import MAX_NEW_TOKENS
from internvl_edge.calib.evaluation.questions.answers import answer_all
from internvl_edge.calib.evaluation.questions.report import AnswerEvaluation, agreement, answer_report
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.names import in_one_line
from internvl_edge.runtime.inputs.questions import Question, read_questions
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.progress import Progress, Silent
from internvl_edge.runtime.tasks.chat.prompts import described_chat


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """Settings of an evaluation on questions.

    Raises:
        InputError: there is nothing to measure.
    """

    sample_count: int | None = None
    """Number of questions, evenly spaced over the table; None: all."""
    max_new_tokens: int = MAX_NEW_TOKENS
    backend: str = "onnxruntime"
    bf16: bool = False
    """Whether a CPU may compute the bundle in bf16; the baseline is never computed in bf16."""

    def __post_init__(self) -> None:
        """Check the options."""
        if self.sample_count is not None and self.sample_count < 1:
            raise InputError(f"sample_count: {self.sample_count} questions; give 1 or more, or none for all")


def evaluate_answers(
    bundle: Path, data: Path, options: AnswerOptions, baseline: Path | None = None, progress: Progress | None = None
) -> AnswerEvaluation:
    """Evaluate a bundle on the questions of a table, and a baseline on the same ones.

    Raises:
        InputError: the table is faulty, or has no answers and there is no baseline.
        BundleError: a bundle cannot be opened or has no language model.
    """
    questions = _chosen(read_questions(data), options.sample_count)
    if baseline is None and not any(question.answers for question in questions):
        raise InputError(f"{in_one_line(data)}: no row has an `answer`; add them, or give a baseline to compare with")
    with (progress or Silent()).task("Opening", 1 if baseline is None else 2, "bundles") as advance:
        model = _opened(bundle, options, options.bf16)
        advance(1)
        reference = None if baseline is None else _opened(baseline, options, bf16=False)
        advance(0 if baseline is None else 1)
    with model:
        found = answer_all(model, questions, options.max_new_tokens, progress)
    report = answer_report(questions, found)
    if reference is None:
        return AnswerEvaluation(report=report)
    with reference:
        others = answer_all(reference, questions, options.max_new_tokens, progress)
    return AnswerEvaluation(
        report=report, baseline=answer_report(questions, others), agreement=agreement(questions, found, others)
    )


def _chosen(questions: list[Question], count: int | None) -> list[Question]:
    """Return `count` evenly spaced questions, or all."""
    if count is None or count >= len(questions):
        return questions
    step = len(questions) / count
    return [questions[int(index * step)] for index in range(count)]


def _opened(bundle: Path, options: AnswerOptions, bf16: bool) -> InternVL:
    model = InternVL.open(bundle, backend=options.backend, options=SessionOptions(bf16=bf16))
    described_chat(model.bundle)
    return model
