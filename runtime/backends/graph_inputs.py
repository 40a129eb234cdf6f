"""Random inputs of a graph: ids of its vocabulary, full masks, consecutive positions, a cache of fitting size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.bundle.manifest import ModelInfo, TensorSpec
from internvl_edge.runtime.errors import InputError

PROMPT_IDS = 5
"""Number of ids in the first call of a caption: bos and "English caption:", rounded up."""
WRITTEN_IDS = 15
"""Number of generated ids in the cache of a mean step: half of a caption of 30 ids."""
QUESTION_ROWS = 48
"""Rows of a question without its picture: a system text and a sentence."""
_FIRST_WORD = 3
"""First id of a word. Lower ids are bos, eos, padding and unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Lengths of the named axes."""

    batch: int
    length: int
    past: int

    def of(self, axis: str) -> int | None:
        """Return the length of an axis, or None for a name that no exported graph has."""
        return {
            "batch": self.batch,
            "texts": self.batch,
            "length": self.length,
            "past": self.past,
            "total": self.past + self.length,
        }.get(axis)


def sizes_of(graph: str, phase: str, model: ModelInfo, batch: int) -> Sizes:
    """Return the lengths of one call of `graph`; `phase` is ``prompt`` or ``step`` of a decoder, otherwise empty."""
    text = model.text
    if model.language is not None and phase:
        question = min(model.language.tokens_per_tile + QUESTION_ROWS, model.language.max_context - 1)
        return Sizes(
            batch=batch, length=question if phase == "prompt" else 1, past=0 if phase == "prompt" else question
        )
    if text is None:
        return Sizes(batch=batch, length=QUESTION_ROWS, past=0)
    queries = text.num_query_tokens
    if phase == "prompt":
        return Sizes(batch=batch, length=PROMPT_IDS, past=queries)
    if phase == "step":
        return Sizes(batch=batch, length=1, past=queries + PROMPT_IDS + WRITTEN_IDS)
    length = min(text.max_text_length, text.max_positions - queries)
    return Sizes(batch=batch, length=length, past=queries)


def graph_inputs(
    graph: str,
    takes: Mapping[str, TensorInfo],
    declared: Sequence[TensorSpec],
    model: ModelInfo,
    sizes: Sizes,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return inputs of `graph`; `declared` is the manifest's signature, which names axes that sessions do not.

    Raises:
        InputError: the graph has a fixed axis of another size, or an axis of unknown meaning. The message names all.
    """
    axes = {spec.name: spec.shape for spec in declared}
    arrays, wrong = {}, []
    for name, info in takes.items():
        shape, findings = _shape(name, info, axes.get(name, info.shape), sizes)
        wrong += findings
        if not findings:
            arrays[name] = _values(name, shape, model, sizes, rng).astype(info.dtype)
    if wrong:
        raise InputError(f"graph {graph}: {'; '.join(wrong)}; give the batch that it was exported or built for")
    return arrays


def random_ids(shape: tuple[int, ...], vocabulary: int, rng: np.random.Generator) -> np.ndarray:
    """Return random ids of words in a vocabulary of that size, without special ids."""
    return rng.integers(_FIRST_WORD, max(vocabulary, _FIRST_WORD + 1), shape)


def _shape(
    name: str, info: TensorInfo, declared: Sequence[int | str | None], sizes: Sizes
) -> tuple[tuple[int, ...], list[str]]:
    shape: list[int] = []
    wrong: list[str] = []
    for own, named in zip(info.shape, declared, strict=True):
        wanted = sizes.of(named) if isinstance(named, str) else named
        if wanted is None:
            wrong.append(f"{name} has an axis {named!r} whose length is not known")
        elif isinstance(own, int) and own != wanted:
            wrong.append(f"{name} has a fixed axis of {own} instead of {wanted}")
        else:
            shape.append(wanted)
    return tuple(shape), wrong


def _values(name: str, shape: tuple[int, ...], model: ModelInfo, sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    if name == "input_ids":
        if model.text is None:
            return random_ids(shape, model.require_language().vocab_size, rng)
        ids = random_ids(shape, model.text.vocab_size, rng)
        if sizes.length > 1:
            ids[:, 0] = model.text.bos_token_id
        return ids
    if name == "attention_mask":
        return np.ones(shape, np.int64)
    if name == "position_ids":
        return np.broadcast_to(np.arange(sizes.past, sizes.past + shape[-1]), shape)
    if name == "rope_length":
        return np.array([sizes.past + sizes.length])
    return rng.standard_normal(shape)
