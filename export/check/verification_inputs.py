"""Make inputs and expected outputs of each graph for verification, from samples and from torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from internvl_edge.calib.data.synthetic import synthetic_ids
from internvl_edge.calib.quantize import fake_quantizers
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.export.blockwise.sources import fetch_from, table_rows
from internvl_edge.export.blockwise.streamed import Change
from internvl_edge.export.blockwise.torch_outputs import module_parts, torch_outputs
from internvl_edge.export.check.fp16_room import LargestValues
from internvl_edge.export.check.graph_inputs import GraphInputs, Questions
from internvl_edge.export.check.questions import asked_questions, seeded_questions
from internvl_edge.export.checkpoint.config.conversation import Conversation
from internvl_edge.export.checkpoint.store.weight_sources import Source
from internvl_edge.export.models.config import LanguageConfig, ModelConfig
from internvl_edge.export.models.families.language_model import EMBEDDING
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.run.samples import Samples
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX, Tokenizer
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizers:
    """What texts become ids with; None where a checkpoint has none of a kind."""

    texts: Tokenizer | None = None
    conversation: Conversation | None = None
    """How a chat checkpoint converses."""


class VerificationInputs:
    """Inputs and expected outputs of the graphs of one export; torch runs a graph when its outputs are first needed.

    With a recipe, torch computes with the same codes and scales as the quantized graphs.
    """

    def __init__(
        self,
        config: ModelConfig,
        sources: Mapping[str, Source],
        samples: Samples,
        tokenizers: Tokenizers,
        feature_layers: tuple[int, ...],
        recipe: Recipe | None = None,
    ) -> None:
        self._config = config
        self._sources = sources
        self._fetch = fetch_from(sources)
        self._samples = samples
        self._tokenizer = tokenizers.texts
        self._conversation = tokenizers.conversation
        self._layers = feature_layers
        self._recipe = recipe
        self._outputs: dict[str, dict[str, np.ndarray]] = {}
        self._largest: dict[str, LargestValues] = {}

    def expected(self, name: str) -> dict[str, np.ndarray]:
        """Return the outputs of graph `name` from torch."""
        if name not in self._outputs:
            self._outputs[name] = torch_outputs(
                name, self._config, self.inputs(name), self._fetch, self._layers, self._changed(name)
            )
        return self._outputs[name]

    def largest(self, name: str) -> dict[str, float]:
        """Return the largest magnitude that enters each norm and linear of a language model's graph, by path."""
        self.expected(name)
        return self._largest[name].of

    def _changed(self, name: str) -> dict[str, Change] | None:
        if self._recipe is not None:
            return fake_quantizers(self._recipe, name)
        if graph_rows(self._config)[name].embeds is None:
            return None
        recorder = self._largest[name] = LargestValues()
        return recorder.recorders(module_parts(name, self._config))

    def inputs(self, name: str) -> dict[str, np.ndarray]:
        """Return the inputs of graph `name`."""
        rows = graph_rows(self._config)
        row, feeder = rows[name], rows[name].feeder(rows)
        fed = self.expected(feeder) if feeder is not None else {}
        return self._samples_of_graphs.of(row, row.input_shapes(self._config), fed)

    @cached_property
    def _samples_of_graphs(self) -> GraphInputs:
        """Pictures, and token ids of each kind that the model takes; a prompt ``[1, n]`` is for all pictures."""
        pixels = self._samples.pixel_values
        if self._config.find(LanguageConfig) is not None:
            return GraphInputs(pixel_values=pixels, questions=self._questions())
        if self._config.vocabulary is None:
            return GraphInputs(pixel_values=pixels)
        texts = list(self._samples.texts)
        if self._tokenizer is None:
            ids, prompt = self._random_ids(len(texts), 12), self._random_ids(1, 5)
            return GraphInputs(pixel_values=pixels, text_ids=ids, match_ids=ids, prompt_ids=prompt)
        return GraphInputs(
            pixel_values=pixels,
            text_ids=self._tokenizer.encode_texts(texts, prefix=TEXT_PREFIX),
            match_ids=self._tokenizer.encode_texts(texts, prefix=""),
            prompt_ids=self._tokenizer.encode_prompt(DEFAULT_PROMPT),
        )

    def _questions(self) -> Questions:
        table, tokens = self._sources[EMBEDDING], self._config.tokens_per_tile

        def rows(ids: np.ndarray) -> np.ndarray:
            return table_rows(table, ids)

        if self._conversation is not None and self._conversation.tokenizer is not None:
            return asked_questions(self._samples.texts, self._conversation, tokens, rows)
        vocabulary = self._config.need(LanguageConfig).vocab_size
        return seeded_questions(len(self._samples.pixel_values), tokens, vocabulary, rows)

    def _random_ids(self, rows: int, length: int) -> np.ndarray:
        """Return seeded random ids ``[rows, length]`` that begin with bos; later rows are shorter and padded with 0."""
        vocabulary = self._config.vocabulary
        assert vocabulary is not None
        ids = synthetic_ids(rows, length, vocabulary)
        for row in range(rows):
            ids[row, max(2, length - 3 * row) :] = 0
        return ids
