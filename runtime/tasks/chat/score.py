"""The probability that a chat model gives to an answer."""

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.tasks.chat.chat import Request, Turns
from internvl_edge.runtime.tasks.chat.pictures import MaxTiles
from internvl_edge.runtime.tasks.chat.prompts import request_prompt
from internvl_edge.runtime.tasks.generation.scoring import answer_log_probabilities
from internvl_edge.runtime.tasks.generation.search import never
from internvl_edge.runtime.tasks.opened import OpenedGraphs


def score(
    model: OpenedGraphs,
    question: str,
    answer: str,
    images: Pictures = (),
    history: Turns | None = None,
    system: str | None = None,
    max_tiles: MaxTiles = None,
    monitor: Monitor = UNMONITORED,
) -> float:
    """Return the mean natural log-probability of the tokens of an answer, the token that stops it included.

    Raises:
        InputError: as for `chat`, or an empty answer.
        BundleError: as for `chat`.
    """
    return float(token_log_probabilities(model, question, answer, images, history, system, max_tiles, monitor).mean())


def token_log_probabilities(
    model: OpenedGraphs,
    question: str,
    answer: str,
    images: Pictures = (),
    history: Turns | None = None,
    system: str | None = None,
    max_tiles: MaxTiles = None,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return the log-probability of each token of an answer, and of the token that stops it last.

    Raises:
        InputError: as for `score`.
        BundleError: as for `score`.
    """
    request = Request.of(model, question, images, history, system, max_tiles, (), never, monitor)
    ids = _answer_ids(request, answer, system)
    with request.with_new_tokens(len(ids)).decoder() as decoder:
        return answer_log_probabilities(decoder, [ids])[0]


def _answer_ids(request: Request, answer: str, system: str | None) -> list[int]:
    """Return the ids of an answer with its stop token: those that it has in a history.

    Raises:
        InputError: there is no text, or the next turn does not begin as the prompt does.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise InputError("answer: is empty; give a text to score")
    tiles = [len(picture.tiles) for picture in request.pictures]
    turns = [*request.turns, (request.prompt.question, answer)]
    begun = request.prompt.input_ids
    whole = request_prompt(request.model, "?", tiles, turns, system).input_ids
    chat = request.model.info.chat
    stops = chat.stop_token_ids if chat is not None else ()
    end = next((place for place in range(len(begun), len(whole)) if whole[place] in stops), None)
    if end is None or whole[: len(begun)] != begun:
        raise InputError("answer: this bundle's template writes a finished answer in another way than an open one")
    return whole[len(begun) : end + 1]
