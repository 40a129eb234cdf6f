"""The turns of a conversation, and the pictures that their marks stand for."""

from collections.abc import Iterable, Sequence

from internvl_edge.runtime.inputs.pictures.arguments import PICTURE_MARK
from internvl_edge.runtime.tasks.chat.pictures import TiledPicture


class PicturedHistory(list[tuple[str, str]]):
    """A list of (question, answer) that knows its pictures, so that a later question needs none of them again."""

    def __init__(self, turns: Iterable[tuple[str, str]] = (), pictures: Sequence[TiledPicture] = ()) -> None:
        super().__init__(turns)
        self.pictures = tuple(pictures)
        """Pictures in the order of the marks in the questions."""


def pictures_of(history: object, question: str, given: Sequence[TiledPicture]) -> list[TiledPicture]:
    """Return all pictures of a conversation: those of its history and those `given` with a new question.

    A history that knows its pictures may be given with them again, as one that does not know them has to be.
    """
    known = history.pictures if isinstance(history, PicturedHistory) else ()
    again = [picture.key for picture in given[: len(known)]] == [picture.key for picture in known]
    marks = question.count(PICTURE_MARK) if isinstance(question, str) else 0
    if again and marks in (0, len(given) - len(known)):
        return [*given]
    return [*known, *given]
