"""Answers of a bundle to questions, and the probability that it gives to the expected ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.calib.evaluation.options import MAX_NEW_TOKENS
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.decode import check_pictures
from internvl_edge.runtime.inputs.questions import Question
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.progress import Progress, Silent
from internvl_edge.runtime.tasks.chat.score import token_log_probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question."""

    text: str
    log_probability: float | None = None
    """Natural logarithm of the probability of the first expected answer with its stop token; None without one."""
    tokens: int = 0
    """Number of tokens of that answer, its stop token included."""


def answer_all(
    model: InternVL,
    questions: Sequence[Question],
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress | None = None,
) -> list[Answer]:
    """Return the greedy answers to questions, in order; the expected ones of earlier turns are their history.

    Raises:
        InputError: pictures that cannot be read, all of them named, or a question that the model does not take.
        BundleError: the bundle has no language model.
    """
    pictures = {picture.name: picture for question in questions for picture in question.pictures}
    check_pictures([*pictures.values()])
    found = []
    with (progress or Silent()).task("Answering", len(questions), "questions") as advance:
        for question in questions:
            try:
                found.append(_answer(model, question, max_new_tokens))
            except InputError as error:
                raise InputError(f"question {question.name}: {error}") from error
            advance(1)
    return found


def _answer(model: InternVL, question: Question, max_new_tokens: int) -> Answer:
    pictures, history = [*question.pictures], [*question.history]
    reply = model.chat(question.text, pictures, history, max_new_tokens=max_new_tokens)
    if not question.answers:
        return Answer(text=reply.text)
    found = token_log_probabilities(model, question.text, question.answers[0], pictures, history)
    return Answer(text=reply.text, log_probability=float(found.sum()), tokens=len(found))
