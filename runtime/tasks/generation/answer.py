"""Write an answer while its tokens arrive: text that later tokens cannot change, up to a stop string."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.generated import FinishReason, Generated, LogProbabilities, Step
from internvl_edge.runtime.tasks.generation.stops import check_stops, first_stop, open_letters

Decode = Callable[[Sequence[int]], str]
"""Function from ids to text, without special tokens."""
_UNDECODED = "\ufffd"
"""Replacement character, into which tokenizers decode bytes that are no complete character (yet)."""
_CLEANED = (" n't", " 'm", " 's", " 've", " 're", " ' ")
"""Texts whose space some tokenizers drop once they are complete; spaces before punctuation are white space at the end
until then."""
_WINDOW = 32
"""Number of new tokens after which older ones are no longer decoded with them."""


class AnswerText:
    """The text of an answer whose tokens arrive one by one, without white space around it.

    What `append` and `finish` return, joined, is the text. A character of several tokens is kept back until it is
    complete, and so are white space at the end and letters with which a stop string may begin, or a short form whose
    space is dropped.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._tokens = _GrowingText(decode)
        self._stops = check_stops(stops)
        self._searched = 0
        self._end = 0
        self.text = ""
        """All text that was returned."""
        self.stopped = False
        """Whether a stop string has come; later tokens give no text."""

    def append(self, token: int) -> str:
        """Return the text that has become final with this token, which is often empty."""
        whole = self._tokens.append(token).rstrip(_UNDECODED)
        if self._cut(whole):
            return self.finish()
        return self._new(whole[: len(whole) - open_letters(whole, (*self._stops, *_CLEANED))])

    def finish(self) -> str:
        """Return the remaining text at the end of the tokens or before a stop string."""
        whole = self._tokens.text
        if not self.stopped:
            self._cut(whole)
        return self._new(whole[: self._end] if self.stopped else whole)

    def _cut(self, whole: str) -> bool:
        """Return whether a stop string stands in `whole`, and remember where the text before it ends."""
        changing = max(map(len, (*self._stops, *_CLEANED)))  # letters at the end that the last token may have changed
        begin = first_stop(whole, self._stops, max(self._searched - changing, 0))
        self._searched = len(whole)
        if begin is not None:
            self.stopped, self._end = True, begin
        return self.stopped

    def _new(self, sure: str) -> str:
        text = sure.strip()
        piece = text[len(self.text) :]
        self.text += piece
        return piece


class _GrowingText:
    """The text of all tokens so far. A step decodes the last ones alone, so that a long answer costs no more."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._before = ""
        """Text of the tokens before `_new`."""
        self._context: list[int] = []
        """Last tokens of those, which the new ones are decoded with, since a text begins in another way."""
        self._context_text = ""
        self._new: list[int] = []
        self.text = ""

    def append(self, token: int) -> str:
        """Return the text of all tokens."""
        self._new.append(token)
        joined = self._decode([*self._context, *self._new])
        self.text = self._before + joined[len(self._context_text) :]
        if len(self._new) >= _WINDOW and _settled(joined):
            alone = self._decode(self._new)
            if alone.strip() and joined.endswith(alone):
                self._before, self._context, self._context_text, self._new = self.text, self._new, alone, []
        return self.text


def _settled(text: str) -> bool:
    """Return whether later tokens only add to a text."""
    return text.rstrip() == text and not text.endswith(_UNDECODED) and not open_letters(text, _CLEANED)


class AnswerWriter:
    """One answer in the making: iterate over `pieces`; then the other attributes are complete.

    Args:
        steps: steps of a generation of one row; they are computed as the pieces are requested.
        decode: from ids to text.
        config: settings of the generation.
        stops: stop strings; the text ends before the first.
    """

    def __init__(
        self, steps: Iterable[Step], decode: Decode, config: GenerationConfig, stops: Sequence[str] = ()
    ) -> None:
        self._steps, self._config = steps, config
        self._text = AnswerText(decode, stops)
        self.ids: list[int] = []
        """New tokens, with the one that stopped the answer or completed a stop string."""
        self.log_probabilities: list[LogProbabilities] = []
        """One for each token, if the settings ask for them."""
        self.finish_reason: FinishReason = "cancelled"

    @property
    def text(self) -> str:
        """Return the text so far."""
        return self._text.text

    def pieces(self) -> Iterator[str]:
        """Yield pieces of the text as they become final, none of them empty; joined, they are `text`."""
        for step in self._steps:
            self.ids.append(int(step.tokens[0]))
            if step.log_probabilities is not None:
                self.log_probabilities.append(step.log_probabilities)
            if not step.unfinished[0]:
                self.finish_reason = "stop"
                break
            if piece := self._text.append(self.ids[-1]):
                yield piece
            if self._text.stopped:
                self.finish_reason = "stop"
                break
        else:
            self.finish_reason = "length" if len(self.ids) >= self._config.max_new_tokens else "cancelled"
        if piece := self._text.finish():
            yield piece
        if self._text.stopped:
            self.finish_reason = "stop"  # found once letters that were incomplete became final

    def finish(self) -> "AnswerWriter":
        """Return this answer after all of its steps."""
        for _ in self.pieces():
            pass
        return self


def steps_of(generated: Generated, row: int) -> Iterator[Step]:
    """Yield the steps that give one row of a finished generation, such as the best beam."""
    length = int(generated.lengths[row])
    for index, token in enumerate(generated.ids[row, :length]):
        ended = index + 1 == length and generated.finish_reasons[row] == "stop"
        yield Step(np.array([token]), np.array([not ended]))
