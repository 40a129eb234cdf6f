"""What quantization costs on a task: recall of a data set's captions, or nearness of features where it has none."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from internvl_edge.calib.dataset import DataSet, Row
from internvl_edge.calib.metrics import clear_first
from internvl_edge.calib.verdict import Measure, Verdict
from internvl_edge.export.config import ModelConfig
from internvl_edge.runtime.features import unit
from internvl_edge.runtime.preprocess import preprocess
from internvl_edge.runtime.progress import Advance, Progress, Silent
from internvl_edge.runtime.tokenizer import Tokenizer

Run = Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a graph by name on named inputs."""

_WIDEST_VALUES = 128 << 20
"""Values of the widest activation of one batch of pictures: 512 MiB in fp32."""


class Judge:
    """Compares models on the same pictures and captions; the reference runs once."""

    def __init__(
        self,
        data: DataSet,
        config: ModelConfig,
        graphs: Sequence[str],
        tokenizer: Tokenizer | None,
        reference: Run,
    ) -> None:
        self._data = data
        self._config = config
        self._graphs = graphs
        self._languages: tuple[str, ...] = ()
        if tokenizer is not None and "text" in graphs:
            self._languages = self._captioned()
        if tokenizer is not None and self._languages:
            texts = [row.texts[language] for language in self._languages for row in data.rows]
            self._ids = tokenizer.encode_texts(texts)
        self._reference = reference
        self._expected: dict[str, np.ndarray] | None = None

    def verdict(self, run: Run, progress: Progress | None = None) -> Verdict:
        """Return what is lost when `run` computes the graphs instead of the reference."""
        runs = 2 if self._expected is None else 1
        with (progress or Silent()).task("Judging", runs * len(self._data.rows), "pictures") as advance:
            if self._expected is None:
                self._expected = self._features(self._reference, advance)
            found = self._features(run, advance)
        texts = [name for name in found if name.startswith("text ")]
        pictures = [name for name in found if not name.startswith("text ")]
        measures = []
        for picture in pictures:
            for text in texts:
                measures += _recalls(f"{picture}, {text}", self._expected, found, picture, text)
        if not texts:
            measures = [_cosine(name, self._expected[name], found[name]) for name in pictures]
        return Verdict(measures=tuple(measures), pictures=len(self._data.rows), source=str(self._data.source))

    def _features(self, run: Run, advance: Advance) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {}
        for rows in self._batches():
            pixels = preprocess([self._data.picture(row) for row in rows], self._config.pictures)
            for name, values in self._pictures(run, pixels).items():
                parts.setdefault(name, []).append(values)
            advance(len(rows))
        found = {name: np.concatenate(values) for name, values in parts.items()}
        if self._languages:
            embeds = unit(run("text", {"input_ids": self._ids})["text_embeds"])
            parts_of = np.split(embeds, len(self._languages))
            found |= {f"text {lang}".strip(): part for lang, part in zip(self._languages, parts_of, strict=True)}
        return found

    def _pictures(self, run: Run, pixels: np.ndarray) -> dict[str, np.ndarray]:
        vision = run("vision", {"pixel_values": pixels})
        if "image_embeds" not in vision:
            return {"vision states": unit(vision["vision_states"].astype(np.float32).mean(axis=1))}
        embeds = {"C": unit(vision["image_embeds"])}
        if "query" in self._graphs:
            query = run("query", {"vision_states": vision["vision_states"]})
            embeds["G"] = unit(embeds["C"] + unit(query["query_embeds"]))
        return embeds

    def _batches(self) -> list[Sequence[Row]]:
        vision = self._config.vision
        size = max(1, _WIDEST_VALUES // (vision.tokens * vision.intermediate_size))
        rows = self._data.rows
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _captioned(self) -> tuple[str, ...]:
        """Return the languages in which all pictures have a caption."""
        rows = self._data.rows
        return tuple(lang for lang in self._data.languages if all(row.texts.get(lang, "").strip() for row in rows))


def held_out(data: DataSet, calibrated: int, count: int) -> DataSet:
    """Return `count` rows that calibration on `calibrated` rows does not see, or of all rows if those are too few."""
    used = {row.file for row in data.spread(calibrated).rows}
    rest = tuple(row for row in data.rows if row.file not in used)
    return DataSet(data.source, rest if len(rest) >= count else data.rows, data.prompts).spread(count)


def _recalls(
    what: str, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], picture: str, text: str
) -> list[Measure]:
    before, after = expected[picture] @ expected[text].T, found[picture] @ found[text].T
    return [
        Measure(metric=f"R@1 {what}, to text", reference=clear_first(before), quantized=clear_first(after)),
        Measure(metric=f"R@1 {what}, to image", reference=clear_first(before.T), quantized=clear_first(after.T)),
    ]


def _cosine(name: str, expected: np.ndarray, found: np.ndarray) -> Measure:
    return Measure(
        metric=f"cosine of {name}", reference=100.0, quantized=100.0 * float((expected * found).sum(axis=1).mean())
    )
