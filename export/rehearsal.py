"""Verification inputs for each graph: pictures and texts for the first, torch's outputs of those for the rest."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from internvl_edge.calib.recipe import Recipe
from internvl_edge.export.config import ModelConfig
from internvl_edge.export.numerics.reach import Reach
from internvl_edge.export.quantize import fake_quantizers
from internvl_edge.export.samples import Samples, random_ids
from internvl_edge.export.sources import fetch_from
from internvl_edge.export.streamed import Change
from internvl_edge.export.verify import OutputError, torch_outputs, verify_graph
from internvl_edge.export.weights import Source
from internvl_edge.runtime.tokenizer import Tokenizer

PROMPT = "English caption:"
_FEEDS = {"query": "vision", "itm": "vision", "connector": "vision", "decoder": "query"}
"""Graph -> the graph whose outputs it takes."""


class Rehearsal:
    """Verifies the graphs of one export, running torch for a graph's inputs only when they are needed.

    Quantized graphs are held against torch with the same codes and scales.
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

    def verify(
        self, name: str, onnx_file: Path, precision: str, atol: float | None
    ) -> tuple[list[OutputError], list[Reach]]:
        """Return the error of every output of graph `name`, and how far its values reach."""
        expected = self._expected(name)
        return verify_graph(name, onnx_file, self.inputs(name), expected, precision=precision, atol=atol)

    def _expected(self, name: str) -> dict[str, np.ndarray]:
        if name not in self._outputs:
            layers = self._layers if name == "vision" else ()
            self._outputs[name] = torch_outputs(
                name, self._config, self.inputs(name), self._fetch, layers, self._changed(name)
            )
        return self._outputs[name]

    def _changed(self, name: str) -> dict[str, Change] | None:
        return fake_quantizers(self._recipe, name) if self._recipe is not None else None

    def inputs(self, name: str) -> dict[str, np.ndarray]:
        """Return the inputs that graph `name` is tried on."""
        feeder = self._expected(_FEEDS[name]) if name in _FEEDS else {}
        if name == "vision":
            return {"pixel_values": self._samples.pixel_values}
        if name == "text":
            return {"input_ids": self._ids(prefix="summarize:")}
        if name == "decoder":
            return self._decoder_inputs(feeder)
        inputs = {"vision_states": feeder["vision_states"]}
        return inputs if name != "itm" else inputs | {"input_ids": self._ids(prefix="")}

    def _decoder_inputs(self, query: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self._config.qllama is not None
        past = self._config.qllama.num_queries
        prompt = self._prompt()
        batch, length = self._samples.pixel_values.shape[0], prompt.shape[1]
        cache = {k.replace("present", "past_key_values"): v for k, v in query.items() if k.startswith("present")}
        return {
            "input_ids": np.repeat(prompt, batch, axis=0),
            "attention_mask": np.ones((batch, past + length), np.int64),
            "position_ids": np.broadcast_to(past + np.arange(length), (batch, length)),
            **cache,
        }

    def _ids(self, prefix: str) -> np.ndarray:
        if self._tokenizer is not None:
            return self._tokenizer.encode_texts(list(self._samples.texts), prefix=prefix)
        return self._random_ids(len(self._samples.texts), 12)

    def _prompt(self) -> np.ndarray:
        if self._tokenizer is not None:
            return self._tokenizer.encode_prompt(PROMPT)
        return self._random_ids(1, 5)

    def _random_ids(self, rows: int, length: int) -> np.ndarray:
        """Return ids without a tokenizer to give them: seeded, bos first, rows of falling length padded with 0."""
        assert self._config.qllama is not None
        ids = random_ids(rows, length, self._config.qllama.vocab_size)
        for row in range(rows):
            ids[row, max(2, length - 3 * row) :] = 0
        return ids
