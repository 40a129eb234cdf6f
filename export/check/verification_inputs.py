"""Make inputs and expected outputs of each graph for verification, from samples and from torch."""

from collections.abc import Mapping

import numpy as np

from internvl_edge.calib.data.synthetic import synthetic_ids
from internvl_edge.calib.quantize import fake_quantizers
from internvl_edge.calib.recipes.recipe import Recipe
from internvl_edge.export.blockwise.sources import fetch_from
from internvl_edge.export.blockwise.streamed import Change
from internvl_edge.export.blockwise.torch_outputs import torch_outputs
from internvl_edge.export.check.graph_inputs import inputs_of
from internvl_edge.export.checkpoint.store.weight_sources import Source
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graphs import graph_row
from internvl_edge.export.run.samples import Samples
from internvl_edge.runtime.bundle.graph_roles import Ids
from internvl_edge.runtime.bundle.tokenizer import TEXT_PREFIX, Tokenizer
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT


class VerificationInputs:
    """Inputs and expected outputs of the graphs of one export; torch runs a graph when its outputs are first needed.

    With a recipe, torch computes with the same codes and scales as the quantized graphs.
    """

    def __init__(
        self,
        config: ModelConfig,
        sources: Mapping[str, Source],
        samples: Samples,
        tokenizer: Tokenizer | None,
        feature_layers: tuple[int, ...],
        recipe: Recipe | None = None,
    ) -> None:
        self._config = config
        self._fetch = fetch_from(sources)
        self._samples = samples
        self._tokenizer = tokenizer
        self._layers = feature_layers
        self._recipe = recipe
        self._outputs: dict[str, dict[str, np.ndarray]] = {}

    def expected(self, name: str) -> dict[str, np.ndarray]:
        """Return the outputs of graph `name` from torch."""
        if name not in self._outputs:
            self._outputs[name] = torch_outputs(
                name, self._config, self.inputs(name), self._fetch, self._layers, self._changed(name)
            )
        return self._outputs[name]

    def _changed(self, name: str) -> dict[str, Change] | None:
        return fake_quantizers(self._recipe, name) if self._recipe is not None else None

    def inputs(self, name: str) -> dict[str, np.ndarray]:
        """Return the inputs of graph `name`."""
        row = graph_row(name)
        fed = self.expected(row.fed_by) if row.fed_by is not None else {}
        ids = self._ids(row.use.ids) if row.use.ids is not None else None
        return inputs_of(name, self._samples.pixel_values, ids, fed)

    def _ids(self, kind: Ids) -> np.ndarray:
        """Return token ids of one kind; a prompt ``[1, n]`` is for all pictures."""
        if self._tokenizer is None:
            return self._random_ids(1, 5) if kind == "prompts" else self._random_ids(len(self._samples.texts), 12)
        if kind == "prompts":
            return self._tokenizer.encode_prompt(DEFAULT_PROMPT)
        prefix = TEXT_PREFIX if kind == "texts" else ""
        return self._tokenizer.encode_texts(list(self._samples.texts), prefix=prefix)

    def _random_ids(self, rows: int, length: int) -> np.ndarray:
        """Return seeded random ids ``[rows, length]`` that begin with bos; later rows are shorter and padded with 0."""
        vocabulary = self._config.vocabulary
        assert vocabulary is not None
        ids = synthetic_ids(rows, length, vocabulary)
        for row in range(rows):
            ids[row, max(2, length - 3 * row) :] = 0
        return ids
