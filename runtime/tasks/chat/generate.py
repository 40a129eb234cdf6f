"""Generate ids after prompts that are ids already, as the reference's `generate` does."""

from collections.abc import Sequence

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.tasks.chat.batch import PromptBatch
from internvl_edge.runtime.tasks.chat.decoder import LanguageModel
from internvl_edge.runtime.tasks.chat.pictures import pixel_embeds
from internvl_edge.runtime.tasks.chat.prompts import described_chat
from internvl_edge.runtime.tasks.generation.config import GenerationConfig
from internvl_edge.runtime.tasks.generation.search import generate
from internvl_edge.runtime.tasks.opened import OpenedGraphs


def generate_chat(
    model: OpenedGraphs,
    pixel_values: np.ndarray | None,
    input_ids: np.ndarray | Sequence[int] | Sequence[Sequence[int]],
    attention_mask: np.ndarray | None = None,
    num_beams: int = 1,
    max_new_tokens: int = 24,
    eos_token_id: int | Sequence[int] | None = None,
    monitor: Monitor = UNMONITORED,
) -> np.ndarray:
    """Return new ids ``[B, new tokens]``, up to the end of the longest row; ended rows are filled with the pad id.

    `pixel_values` fp32 ``[tiles, 3, S, S]`` are the tiles of all prompts in order; None means that there are none.
    `input_ids` are ``[B, n]``, or ``[n]`` for one prompt, with padding in front where `attention_mask` is 0.
    `eos_token_id` is an id, several, ``()`` for none, or None for those of the model; the one that came is included.

    Raises:
        InputError: arrays that do not fit each other, or more positions than the bundle's context.
        BundleError: the bundle has no language model.
    """
    info, _ = described_chat(model.bundle)
    if eos_token_id is None:
        ends = info.stop_token_ids
    else:
        ends = tuple(map(int, np.atleast_1d(np.asarray(eos_token_id, np.int64))))
    config = GenerationConfig(
        num_beams=num_beams, max_new_tokens=max_new_tokens, eos_token_ids=ends, pad_token_id=info.pad_token_id
    )
    batch = PromptBatch(
        input_ids=_ids(input_ids),
        attention_mask=None if attention_mask is None else np.atleast_2d(np.asarray(attention_mask)),
        vit_embeds=None if pixel_values is None else pixel_embeds(model, pixel_values, monitor),
        context_token_id=info.context_token_id,
    )
    with model.kept(LanguageModel.of).decoder(batch, max_new_tokens, beams=num_beams, stages=monitor.stages) as decoder:
        return generate(decoder, config, monitor.stages).ids


def _ids(given: object) -> np.ndarray:
    """Return prompts as an array ``[B, n]``.

    Raises:
        InputError: rows of different lengths.
    """
    try:
        return np.atleast_2d(np.asarray(given))
    except ValueError as error:
        raise InputError(
            "prompt: rows of different lengths; pad them on the left and give an attention_mask"
        ) from error
