"""Graphs of InternVL-14B that are NumPy functions, and a session that records its calls."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from internvl_edge.runtime.stages import UNMEASURED, Stages

Arrays = Mapping[str, np.ndarray]


def vision(inputs: Arrays) -> dict[str, np.ndarray]:
    means = inputs["pixel_values"].mean(axis=(2, 3))
    return {"vision_states": means[:, None], "image_embeds": means + 2}


def query(inputs: Arrays) -> dict[str, np.ndarray]:
    states = inputs["vision_states"]
    key = np.repeat(states[:, None, :, :2], 2, axis=2)  # [B, 1 head, 2 queries, 2]
    return {
        "query_embeds": states[:, 0] * [1, 2, 3],
        "query_states": states,
        "present.0.key": key,
        "present.0.value": key,
    }


def text(inputs: Arrays) -> dict[str, np.ndarray]:
    ids = inputs["input_ids"]
    return {
        "text_embeds": np.stack([(ids > 0).sum(axis=1), ids.sum(axis=1), ids.max(axis=1)], axis=1).astype(np.float32)
    }


def decoder(inputs: Arrays) -> dict[str, np.ndarray]:
    """Count up from the last id; end behind token 263."""
    last, past = inputs["input_ids"][:, -1], inputs["past_key_values.0.key"]
    assert inputs["attention_mask"].shape[1] == past.shape[2] + inputs["input_ids"].shape[1]
    new = np.zeros((*past.shape[:2], inputs["input_ids"].shape[1], past.shape[3]))
    logits = np.eye(320)[np.where(last == 263, 2, last + 1)]
    grown = np.concatenate([past, new], axis=2)
    return {"logits": logits, "present.0.key": grown, "present.0.value": grown}


def itm(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"itm_logits": np.stack([inputs["vision_states"].sum(axis=(1, 2)), inputs["input_ids"].sum(axis=1)], axis=1)}


GRAPHS: dict[str, Callable[[Arrays], dict[str, np.ndarray]]] = {
    "vision": vision,
    "query": query,
    "text": text,
    "decoder": decoder,
    "itm": itm,
}


class FakeSession:
    def __init__(self, graph: str, calls: list[tuple[str, int]]) -> None:
        self.graph, self.calls = graph, calls
        self.closed = 0

    def run(
        self, inputs: Arrays, outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        self.calls.append((self.graph, len(next(iter(inputs.values())))))
        return GRAPHS[self.graph](inputs)

    def close(self) -> None:
        self.closed += 1


def unit(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / np.sqrt((x * x).sum(axis=-1, keepdims=True))
    return result
