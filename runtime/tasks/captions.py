"""Generate captions of pictures: vision, queries, and then the decoder token by token (MODEL.md 3.6)."""

from collections.abc import Iterator, Mapping
from contextlib import closing

import numpy as np

from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.session import KeyValueCache
from internvl_edge.runtime.bundle.graph_roles import CAPTION_DECODER, IMAGE_ENCODER, QUERY_ENCODER
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, picture_count
from internvl_edge.runtime.inputs.pictures.preprocess import pixel_batches, require_readable
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import POSTPROCESS
from internvl_edge.runtime.tasks.caption_decoder import CaptionDecoder
from internvl_edge.runtime.tasks.generation.caption_pieces import CaptionPiece, streamed_captions
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate as search
from internvl_edge.runtime.tasks.generation.search import next_tokens
from internvl_edge.runtime.tasks.opened import OpenedGraphs
from internvl_edge.runtime.tasks.texts import check_ids, encoded_prompt, id_batches

DEFAULT_PROMPT = "English caption:"
ROLES = (IMAGE_ENCODER, QUERY_ENCODER, CAPTION_DECODER)
"""Roles of the graphs that a picture goes through, in this order."""
_NO_PICTURE = "no picture given; give at least one"


def caption(
    model: OpenedGraphs,
    images: Pictures,
    prompt: str = DEFAULT_PROMPT,
    num_beams: int = 1,
    max_new_tokens: int = 30,
    min_new_tokens: int = 0,
    monitor: Monitor = UNMONITORED,
) -> list[str]:
    """Return one caption for each picture."""
    model.bundle.graphs_of(*ROLES)
    ids = generate(
        model,
        images,
        encoded_prompt(model, prompt, monitor),
        num_beams=num_beams,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        monitor=monitor,
    )
    with monitor.stages.stage(POSTPROCESS):
        return [model.tokenizer.decode(row) for row in ids]


def stream(
    model: OpenedGraphs,
    images: Pictures,
    prompt: str = DEFAULT_PROMPT,
    max_new_tokens: int = 30,
    min_new_tokens: int = 0,
    monitor: Monitor = UNMONITORED,
) -> Iterator[CaptionPiece]:
    """Return an iterator over pieces of greedy captions as they are generated; joined, they equal those of `caption`.

    The captions of a batch are generated together. A step is computed only when the next piece is requested, so that
    work ends with the iteration.

    Raises:
        InputError: as for `caption`, before any graph runs.
    """
    model.bundle.graphs_of(*ROLES)
    config = _config(model, 1, min_new_tokens, max_new_tokens, None)
    if not (count := picture_count(images)):
        raise InputError(_NO_PICTURE)
    prompts = _prompts(model, encoded_prompt(model, prompt, monitor), count, config)
    return _streamed(model, images, prompts, config, monitor)


def generate(
    model: OpenedGraphs,
    images: Pictures,
    prompt_ids: np.ndarray,
    num_beams: int = 1,
    min_new_tokens: int = 0,
    max_new_tokens: int = 30,
    eos_token_id: int | None = None,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return new ids ``[B, new tokens]``; finished rows are padded with the checkpoint's padding id, officially 0.

    `prompt_ids` is ``[B, n]``, left-padded with 0, or ``[1, n]`` for all pictures. The vision and query graphs run once
    for each picture, and its beams share the keys and values of the queries.

    Raises:
        InputError: prompts that do not match the pictures, or more positions than the model has.
    """
    model.bundle.graphs_of(*ROLES)
    config = _config(model, num_beams, min_new_tokens, max_new_tokens, eos_token_id)
    prompts = _prompts(model, np.atleast_2d(prompt_ids), picture_count(images), config)
    parts = [
        continue_from(model, _query(model, pixels, monitor), prompt, config, monitor)
        for pixels, prompt in _batches(model, images, prompts, config, monitor)
    ]
    return _padded(parts, config.pad_token_id)


def continue_from(
    model: OpenedGraphs,
    query: Mapping[str, np.ndarray],
    prompt_ids: np.ndarray,
    config: GenerationConfig,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return the ids ``[B, n]`` that follow `prompt_ids` ``[B, p]``; `query` holds the outputs of the query graph.

    With it several prompts can be continued for the same pictures, while vision and queries run once.
    """
    with closing(_open_cache(model, query, prompt_ids, config)) as cache:
        decoder = CaptionDecoder(cache, _past_length(model), prompt_ids, monitor.stages)
        return search(decoder, config, monitor.stages).ids


def _batches(
    model: OpenedGraphs, images: Pictures, prompts: np.ndarray, config: GenerationConfig, monitor: Monitor
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `pixel_values` and prompts of as many pictures as all graphs take; the decoder has a row for each beam."""
    require_readable(images, model.batch_size)
    *once, decoder = model.bundle.graphs_of(*ROLES)
    size = min(model.rows(*once), model.rows(decoder, each=config.num_beams))
    pixels = pixel_batches(images, model.preprocessing, "squash", size, monitor)
    yield from zip(pixels, id_batches(prompts, size), strict=True)


def _streamed(
    model: OpenedGraphs, images: Pictures, prompts: np.ndarray, config: GenerationConfig, monitor: Monitor
) -> Iterator[CaptionPiece]:
    first = 0
    for pixels, prompt in _batches(model, images, prompts, config, monitor):
        rows = range(first, first + len(prompt))
        with closing(_open_cache(model, _query(model, pixels, monitor), prompt, config)) as cache:
            decoder = CaptionDecoder(cache, _past_length(model), prompt, monitor.stages)
            columns = (step.tokens for step in next_tokens(decoder, config, monitor.stages))
            (eos,) = config.eos_token_ids
            yield from streamed_captions(columns, model.tokenizer, rows, eos)
        first += len(prompt)


def _query(model: OpenedGraphs, pixels: np.ndarray, monitor: Monitor) -> dict[str, np.ndarray]:
    vision, query = model.bundle.graphs_of(IMAGE_ENCODER, QUERY_ENCODER)
    states = model.run(vision, {"pixel_values": pixels}, monitor)["vision_states"]
    return model.run(query, {"vision_states": states}, monitor)


def _open_cache(
    model: OpenedGraphs, query: Mapping[str, np.ndarray], prompts: np.ndarray, config: GenerationConfig
) -> KeyValueCache:
    """Return the decoder's cache, which begins with the queries' positions and has room for all that will be fed."""
    present = {name: values for name, values in query.items() if name.startswith("present.")}
    length = _past_length(model) + prompts.shape[1] + config.max_new_tokens - 1  # the last token is not fed again
    (decoder,) = model.bundle.graphs_of(CAPTION_DECODER)
    return open_cache(model.session(decoder), present, len(prompts) * config.num_beams, length)


def _past_length(model: OpenedGraphs) -> int:
    return model.info.require_text().num_query_tokens


def _config(
    model: OpenedGraphs, num_beams: int, min_new_tokens: int, max_new_tokens: int, eos_token_id: int | None
) -> GenerationConfig:
    text = model.info.require_text()
    return GenerationConfig(
        num_beams=num_beams,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        eos_token_ids=(text.eos_token_id if eos_token_id is None else eos_token_id,),
        pad_token_id=text.pad_token_id,
    )


def _prompts(model: OpenedGraphs, prompt_ids: np.ndarray, pictures: int, config: GenerationConfig) -> np.ndarray:
    check_ids(model.info, np.array([config.eos_token_ids]), other_positions=0)
    count, length = prompt_ids.shape
    if count not in (1, pictures) or length == 0:
        raise InputError(f"generate: {pictures} pictures but prompts {[count, length]}; give one, or one a picture")
    fed = config.max_new_tokens - 1  # the last token is not fed again
    check_ids(model.info, prompt_ids, other_positions=model.info.num_query_tokens + fed)
    return np.broadcast_to(prompt_ids, (pictures, length)).astype(np.int64)


def _padded(parts: list[np.ndarray], fill: int) -> np.ndarray:
    """Return the rows of all batches, padded on the right with id `fill` to the width of the widest."""
    if not parts:
        raise InputError(_NO_PICTURE)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts])
