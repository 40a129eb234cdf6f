"""A chat model whose graphs are NumPy functions: it answers the text of its prompt with the text of a script."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.graph_roles import LANGUAGE_MODEL, TILE_ENCODER, GraphUse
from internvl_edge.runtime.bundle.manifest import GraphInfo, ModelInfo, TilingInfo
from internvl_edge.runtime.stages import UNMEASURED, Stages
from tests.unit.runtime.chat_bundles import open_chat

START, END, CONTEXT = 259, 260, 263
HEADER = len("assistant\n")
LIKELY = 10.0
"""Logit of the token that comes next; all others have 0."""
Script = Callable[[str], str]


class Tower:
    """Two tokens for each tile, of its mean; `ran` holds the tiles of each call."""

    backend = "fake"

    def __init__(self) -> None:
        self.ran: list[int] = []

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        values = inputs["pixel_values"]
        self.ran.append(len(values))
        return {"vit_embeds": np.tile(values.mean(axis=(1, 2, 3))[:, None, None], (1, 2, 2)).astype(np.float32)}

    def close(self) -> None:
        pass


class ScriptedLlm:
    """Gives the letters of `script(prompt)` one by one and then the end; keys hold the ids that were fed."""

    backend = "fake"
    settings: Mapping[str, str] = {}

    def __init__(self, script: Script, model: "InternVL | None" = None) -> None:
        self.script = script
        self.model = model
        self.columns: list[int] = []
        floats = {"inputs_embeds": (None, None, 2), "past_key_values.0.key": (None, 1, None, 2)}
        floats["past_key_values.0.value"] = floats["past_key_values.0.key"]
        self.inputs = {name: TensorInfo(name, np.dtype(np.float32), shape) for name, shape in floats.items()}
        self.outputs = {"logits": TensorInfo("logits", np.dtype(np.float32), (None, 300))}

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        embeds = inputs["inputs_embeds"]
        self.columns.append(embeds.shape[1])
        keys = np.concatenate([inputs["past_key_values.0.key"], embeds[:, None]], axis=2)
        logits = np.stack([self._logits(row[0, :, 0]) for row in keys])
        return {"logits": logits, "present.0.key": keys, "present.0.value": keys}

    def _logits(self, fed: np.ndarray) -> np.ndarray:
        ids = [int(value) if value == round(float(value)) and value > 0 else CONTEXT for value in fed]
        logits = np.zeros(300, np.float32)
        if START not in ids:  # a chunk in the middle of a prompt
            return logits
        begin = len(ids) - ids[::-1].index(START) + HEADER
        if begin > len(ids):
            return logits
        assert self.model is not None
        tokenizer = self.model.chat_tokenizer
        answer = tokenizer.encode(self.script(tokenizer.decode(ids[:begin], skip_special=False)), whole=False)
        logits[[*answer, END][min(len(ids) - begin, len(answer))]] = LIKELY
        return logits

    def close(self) -> None:
        pass


def scripted_chat(
    folder: Path, script: Script, max_context: int = 4000, jinja: str | None = None
) -> tuple[InternVL, Tower, ScriptedLlm]:
    """Return a model that answers by a script, with pictures of up to six tiles of 4 pixels, and its two graphs."""
    bundle = open_chat(folder, jinja).bundle
    np.repeat(np.arange(300, dtype=np.float32), 2).tofile(folder / "weights")
    model = _model(bundle.manifest.model, max_context)
    uses = {"vision": GraphUse(role=TILE_ENCODER, rows="pictures"), "llm": GraphUse(role=LANGUAGE_MODEL)}
    graphs = {name: GraphInfo(file=f"{name}.onnx", inputs=(), outputs=(), use=use) for name, use in uses.items()}
    manifest = dataclasses.replace(bundle.manifest, model=model, graphs=graphs)
    tower, llm = Tower(), ScriptedLlm(script)

    def opened(bundle: Bundle, graph: str, options: SessionOptions) -> Tower | ScriptedLlm:
        bundle.require(graph)
        return {"vision": tower, "llm": llm}[graph]

    llm.model = InternVL(Bundle(bundle.path, manifest), opened, 8)  # type: ignore[arg-type]
    return llm.model, tower, llm


def _model(model: ModelInfo, max_context: int) -> ModelInfo:
    assert model.language is not None
    return dataclasses.replace(
        model,
        vision=dataclasses.replace(model.vision, image_size=4),
        tiling=TilingInfo(fewest=1, most=6, thumbnail=True),
        language=dataclasses.replace(model.language, max_context=max_context, max_positions=max_context),
    )
