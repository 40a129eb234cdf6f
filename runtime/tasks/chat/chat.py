"""Answer a question about pictures, as a whole or piece by piece."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from internvl_edge.runtime.errors import InputError, TooLongError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import TOKENIZE
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.decoder import ChatDecoder, LanguageModel
from internvl_edge.runtime.tasks.chat.pictured_history import PicturedHistory, pictures_of
from internvl_edge.runtime.tasks.chat.pictures import MaxTiles, TiledPicture, picture_embeds, tile_pictures
from internvl_edge.runtime.tasks.chat.prompts import ChatPrompt, Prompts, described_chat, request_prompt
from internvl_edge.runtime.tasks.generation.answer import AnswerWriter, steps_of
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.generated import FinishReason, LogProbabilities, Step
from internvl_edge.runtime.tasks.generation.search import generate, never, next_tokens
from internvl_edge.runtime.tasks.generation.stops import check_stops
from internvl_edge.runtime.tasks.opened import OpenedGraphs

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer

Turns = Sequence[tuple[str, str]]
"""Earlier questions and answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """An answer, and what it took."""

    text: str
    """The answer without white space around it."""
    ids: list[int]
    """Its tokens, with the one that stopped it."""
    history: PicturedHistory
    """All turns up to this one, to be given with the next question."""
    finish_reason: FinishReason
    """``stop``: the model ended, or a stop string came; ``length``: no token was left; ``cancelled``: its caller."""
    prompt_tokens: int
    completion_tokens: int
    log_probabilities: list[LogProbabilities]
    """One for each token, where they were asked for."""


class ChatStream(Iterator[str]):
    """The pieces of an answer: text that later tokens do not change. Joined, they are the text of `reply`.

    A token is computed when the next piece is requested. `close` ends the answer before its end.
    """

    def __init__(self, request: "Request") -> None:
        self._request = request
        self._writer: AnswerWriter | None = None
        self._pieces = self._written()

    def __next__(self) -> str:
        """Return the next piece."""
        return next(self._pieces)

    def close(self) -> None:
        """End the answer and free its memory."""
        self._pieces.close()

    @property
    def reply(self) -> ChatReply:
        """Return the answer so far; ``cancelled`` is the reason of its end until it has come."""
        return self._request.reply(self._writer)

    def _written(self) -> Generator[str, None, None]:
        request = self._request
        with request.decoder() as decoder:
            steps = next_tokens(
                decoder,
                request.config,
                request.monitor.stages,
                repeated=request.repeated,
                cancelled=request.cancelled,
            )
            self._writer = request.writer(steps)
            yield from self._writer.pieces()


def chat(
    model: OpenedGraphs,
    question: str,
    images: Pictures = (),
    history: Turns | None = None,
    system: str | None = None,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    max_tiles: MaxTiles = None,
    stop: Sequence[str] = (),
    min_p: float = 0.0,
    log_probabilities: int | None = None,
    cancelled: Callable[[], bool] = never,
    monitor: Monitor = UNMONITORED,
) -> ChatReply:
    """Return the answer to a question about pictures.

    Args:
        model: an opened bundle of a chat model.
        question: the question; ``<image>`` marks the place of a picture, and without marks pictures come first.
        images: pictures of this question, or of the whole conversation in order.
        history: turns before, as `ChatReply.history`, which knows its pictures, or a list of (question, answer).
        system: system text in place of the checkpoint's own.
        max_new_tokens: most tokens of the answer; it has less where the bundle's context ends before.
        num_beams: beams of the search; 1 takes the most likely token, or a drawn one with `do_sample`.
        do_sample: whether tokens are drawn at random, by `temperature`, `top_k`, `top_p` and `min_p`.
        temperature: divisor of the logits before tokens are drawn.
        top_k: number of most likely tokens that are drawn from; 0 means all.
        top_p: probability of the most likely tokens that are drawn from.
        repetition_penalty: factor by which tokens that have come get less likely.
        seed: seed of the drawing, which makes an answer repeatable.
        max_tiles: most tiles of each picture, one number for all or one for each; None is the checkpoint's.
        stop: texts before which the answer ends.
        min_p: least probability of a token that is drawn, relative to the most likely one.
        log_probabilities: number of alternatives that are returned with each token and its log-probability.
        cancelled: function that is asked between tokens and ends the answer once it returns True.
        monitor: receiver of times.

    Raises:
        InputError: texts, pictures or settings that do not fit, or a prompt beyond the bundle's context.
        BundleError: the bundle has no language model.
    """
    request = Request.of(
        model,
        question,
        images,
        history,
        system,
        max_tiles,
        stop,
        cancelled,
        monitor,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=do_sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        log_probabilities=log_probabilities,
    )
    if num_beams == 1:
        stream = ChatStream(request)
        for _ in stream:
            pass
        return stream.reply
    with request.decoder() as decoder:
        found = generate(decoder, request.config, monitor.stages, repeated=request.repeated, cancelled=cancelled)
    return request.reply(request.writer(steps_of(found, 0)).finish())


def chat_stream(
    model: OpenedGraphs,
    question: str,
    images: Pictures = (),
    history: Turns | None = None,
    system: str | None = None,
    max_new_tokens: int = 256,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    max_tiles: MaxTiles = None,
    stop: Sequence[str] = (),
    min_p: float = 0.0,
    log_probabilities: int | None = None,
    cancelled: Callable[[], bool] = never,
    monitor: Monitor = UNMONITORED,
) -> ChatStream:
    """Return an iterator over the pieces of an answer, which is that of `chat` with the same settings.

    No graph runs before the first piece is requested. Once the pieces have ended, `ChatStream.reply` is the answer.

    Raises:
        InputError: as for `chat`.
        BundleError: as for `chat`.
    """
    return ChatStream(
        Request.of(
            model,
            question,
            images,
            history,
            system,
            max_tiles,
            stop,
            cancelled,
            monitor,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            log_probabilities=log_probabilities,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked question to a model, with the settings of its answer."""

    model: OpenedGraphs
    prompt: ChatPrompt
    pictures: list[TiledPicture]
    turns: list[tuple[str, str]]
    config: GenerationConfig
    stops: tuple[str, ...]
    cancelled: Callable[[], bool]
    monitor: Monitor

    @classmethod
    def of(
        cls,
        model: OpenedGraphs,
        question: str,
        images: Pictures,
        history: Turns | None,
        system: str | None,
        max_tiles: MaxTiles,
        stop: Sequence[str],
        cancelled: Callable[[], bool],
        monitor: Monitor,
        **settings: Any,
    ) -> "Request":
        """Check a question, cut its pictures into tiles and make its prompt; no graph runs.

        Raises:
            InputError: as for `chat`.
            BundleError: as for `chat`.
        """
        info, _ = described_chat(model.bundle)
        template = Prompts.of(model.bundle, model.chat_tokenizer).template
        stops = (*check_stops(stop), *filter(None, [template.stop]))
        config = GenerationConfig(
            eos_token_ids=(*info.stop_token_ids, *_control_ids(model.chat_tokenizer, stops)),
            pad_token_id=info.pad_token_id,
            forbidden_ids=model.kept(unknown_ids),
            **settings,
        )
        pictures = pictures_of(history, question, tile_pictures(model, images, max_tiles, monitor))
        side = model.info.vision.image_size
        if other := [picture.name for picture in pictures if picture.tiles.shape[1] != side]:
            raise InputError(
                f"history: {', '.join(other)} in tiles of another model; give a list of (question, answer)"
            )
        with monitor.stages.stage(TOKENIZE):
            prompt = request_prompt(model, question, [len(each.tiles) for each in pictures], history, system)
        room = _room(model, prompt, pictures)
        return cls(
            model=model,
            prompt=prompt,
            pictures=pictures,
            turns=[(asked, answer) for asked, answer in history or ()],
            config=replace(config, max_new_tokens=min(config.max_new_tokens, room)),
            stops=stops,
            cancelled=cancelled,
            monitor=monitor,
        )

    def with_new_tokens(self, count: int) -> "Request":
        """Return the request for exactly `count` new tokens.

        Raises:
            InputError: the bundle's context has no room for them.
        """
        return replace(self, config=replace(self.config, max_new_tokens=count))

    @property
    def repeated(self) -> np.ndarray | None:
        """Return the ids that the penalty for repetition counts beside new ones: the prompt's in the native layout.

        The official model gets embeddings, of which its penalty knows no ids.
        """
        official = self.model.info.chat is not None and self.model.info.chat.layout == "official"
        return None if official else np.array([self.prompt.input_ids], np.int64)

    @contextmanager
    def decoder(self) -> Iterator[ChatDecoder]:
        """Return the decoder of the answer for a block; the pictures pass their graph first."""
        info, _ = described_chat(self.model.bundle)
        batch = PromptBatch(
            input_ids=np.array([self.prompt.input_ids], np.int64),
            vit_embeds=picture_embeds(self.model, self.pictures, self.monitor),
            context_token_id=info.context_token_id,
        )
        config = self.config
        language = self.model.kept(LanguageModel.of)
        with language.decoder(
            batch, config.max_new_tokens, beams=config.num_beams, stages=self.monitor.stages
        ) as decoder:
            yield decoder

    def writer(self, steps: Iterable[Step]) -> AnswerWriter:
        """Return the writer of the answer from its tokens."""
        return AnswerWriter(steps, self.model.chat_tokenizer.decode, self.config, self.stops)

    def reply(self, writer: AnswerWriter | None) -> ChatReply:
        """Return what a writer has written; None: it has not begun."""
        text = writer.text if writer is not None else ""
        return ChatReply(
            text=text,
            ids=list(writer.ids) if writer is not None else [],
            history=PicturedHistory([*self.turns, (self.prompt.question, text)], self.pictures),
            finish_reason=writer.finish_reason if writer is not None else "cancelled",
            prompt_tokens=len(self.prompt.input_ids),
            completion_tokens=len(writer.ids) if writer is not None else 0,
            log_probabilities=list(writer.log_probabilities) if writer is not None else [],
        )


def unknown_ids(model: OpenedGraphs) -> tuple[int, ...]:
    """Return the ids for which a model has logits and its tokenizer no token."""
    _, language = described_chat(model.bundle)
    tokenizer = model.chat_tokenizer
    return tuple(key for key in range(language.vocab_size) if not tokenizer.knows(key))


def _control_ids(tokenizer: "ChatTokenizer", stops: Sequence[str]) -> list[int]:
    """Return the ids of stop strings that are control tokens, which have no text in an answer."""
    return [token for stop in stops if (token := tokenizer.token_id(stop)) in tokenizer.special_ids]


def _room(model: OpenedGraphs, prompt: ChatPrompt, pictures: Sequence[TiledPicture]) -> int:
    """Return the number of tokens that the bundle's context leaves for the answer.

    Raises:
        InputError: it leaves none.
    """
    _, language = described_chat(model.bundle)
    room = language.max_context - len(prompt.input_ids)
    if room < 1:
        tiles = sum(len(picture.tiles) for picture in pictures)
        of_tiles = f", {tiles * language.tokens_per_tile} of them for {tiles} tiles" if tiles else ""
        raise TooLongError(
            f"chat: the prompt has {len(prompt.input_ids)} tokens{of_tiles}, and this bundle's context is"
            f" {language.max_context} with the answer; give fewer tiles (max_tiles) or a shorter history, or export"
            " with a larger --max-context"
        )
    return room
