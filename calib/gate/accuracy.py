"""The accuracy gate: the loss of recall on a data set with captions, or of cosine similarity on one without."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from internvl_edge.calib.data.dataset import DataSet
from internvl_edge.calib.gate.result import AccuracyMetric, GateResult
from internvl_edge.calib.metrics import caption_owners, strict_recall_at_1
from internvl_edge.calib.model import CalibrationModel
from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS, IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.inputs.pictures.preprocess import preprocess
from internvl_edge.runtime.inputs.read import Record
from internvl_edge.runtime.progress import Advance, Progress, Silent
from internvl_edge.runtime.tasks.features import unit

RunGraph = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Function that runs a graph, by its name, on named inputs and returns its named outputs."""

_VISION, _QUERY, _TEXT = (EXPORTED_AS[role] for role in (IMAGE_ENCODER, QUERY_ENCODER, TEXT_ENCODER))
_WIDEST_VALUES = 128 << 20
"""Largest number of values in the widest activation of one batch of pictures: 512 MiB in fp32."""


class AccuracyGate:
    """Measures the accuracy of models on the same pictures and captions; the reference model runs only once."""

    def __init__(
        self,
        data: DataSet,
        model: CalibrationModel,
        graphs: Sequence[str],
        reference: RunGraph,
    ) -> None:
        tokenizer = model.tokenizer
        self._data = data
        self._model = model
        self._graphs = graphs
        self._languages: tuple[str, ...] = ()
        if tokenizer is not None and _TEXT in graphs:
            self._languages = self._captioned()
        if tokenizer is not None and self._languages:
            texts = [text for language in self._languages for row in data.rows for text in row.texts[language]]
            self._ids = tokenizer.encode_texts(texts)
        self._right = {
            _text_name(language): caption_owners([len(row.texts[language]) for row in data.rows])
            for language in self._languages
        }
        self._reference = reference
        self._expected: dict[str, np.ndarray] | None = None

    def measure(self, run: RunGraph, progress: Progress | None = None) -> GateResult:
        """Return the accuracy with the graphs that `run` computes, beside that of the reference."""
        runs = 2 if self._expected is None else 1
        with (progress or Silent()).task("Measuring accuracy", runs * len(self._data.rows), "pictures") as advance:
            if self._expected is None:
                self._expected = self._features(self._reference, advance)
            found = self._features(run, advance)
        texts = [name for name in found if name in self._right]
        pictures = [name for name in found if name not in self._right]
        metrics = []
        for picture in pictures:
            for text in texts:
                before, after = (features[picture] @ features[text].T for features in (self._expected, found))
                metrics += _recalls(f"{picture}, {text}", before, after, self._right[text])
        if not texts:
            metrics = [_cosine(name, self._expected[name], found[name]) for name in pictures]
        return GateResult(metrics=tuple(metrics), pictures=len(self._data.rows), source=str(self._data.source))

    def _features(self, run: RunGraph, advance: Advance) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {}
        for rows in self._batches():
            pixels = preprocess([self._data.picture(row) for row in rows], self._model.pictures)
            for name, values in self._pictures(run, pixels).items():
                parts.setdefault(name, []).append(values)
            advance(len(rows))
        found = {name: np.concatenate(values) for name, values in parts.items()}
        if self._languages:
            embeds = unit(run(_TEXT, {"input_ids": self._ids})["text_embeds"])
            ends = np.cumsum([right.shape[1] for right in self._right.values()])
            found |= dict(zip(self._right, np.split(embeds, ends[:-1]), strict=True))
        return found

    def _pictures(self, run: RunGraph, pixels: np.ndarray) -> dict[str, np.ndarray]:
        vision = run(_VISION, {"pixel_values": pixels})
        if "image_embeds" not in vision:
            return {"vision states": unit(vision["vision_states"].astype(np.float32).mean(axis=1))}
        embeds = {"C": unit(vision["image_embeds"])}
        if _QUERY in self._graphs:
            query = run(_QUERY, {"vision_states": vision["vision_states"]})
            embeds["G"] = unit(embeds["C"] + unit(query["query_embeds"]))
        return embeds

    def _batches(self) -> list[Sequence[Record]]:
        size = max(1, _WIDEST_VALUES // self._model.values_per_picture)
        rows = self._data.rows
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _captioned(self) -> tuple[str, ...]:
        """Return the languages in which every picture has a caption."""
        rows = self._data.rows
        return tuple(language for language in self._data.languages if all(language in row.texts for row in rows))


def held_out(data: DataSet, calibrated: int, count: int) -> DataSet:
    """Return `count` rows, evenly spaced, that are not among the `calibrated` rows of calibration.

    If fewer than `count` such rows are left, the rows are taken from the whole data set.
    """
    used = {row.file for row in data.subsample(calibrated).rows}
    rest = tuple(row for row in data.rows if row.file not in used)
    return DataSet(data.source, rest if len(rest) >= count else data.rows, data.prompts).subsample(count)


def _text_name(language: str) -> str:
    return f"text {language}".strip()


def _recalls(what: str, before: np.ndarray, after: np.ndarray, right: np.ndarray) -> list[AccuracyMetric]:
    """Return R@1 of scores ``[pictures, captions]`` in both directions; `right` marks the captions of each picture."""
    directions = {"to text": (before, after, right), "to image": (before.T, after.T, right.T)}
    return [
        AccuracyMetric(
            name=f"R@1 {what}, {name}", reference=strict_recall_at_1(a, own), quantized=strict_recall_at_1(b, own)
        )
        for name, (a, b, own) in directions.items()
    ]


def _cosine(name: str, expected: np.ndarray, found: np.ndarray) -> AccuracyMetric:
    return AccuracyMetric(
        name=f"cosine of {name}", reference=100.0, quantized=100.0 * float((expected * found).sum(axis=1).mean())
    )
