"""InternVL as users see it: features, similarity, zero-shot classes, captions and matching over a bundle's graphs."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from internvl_edge.runtime.backends import Session, SessionOptions, open_session, require_backend
from internvl_edge.runtime.backends.array_cache import open_cache
from internvl_edge.runtime.backends.session import KeyValueCache, Opener, RowLimit
from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.captions import CaptionPiece, growing_captions
from internvl_edge.runtime.declared import arrays_as_declared
from internvl_edge.runtime.decode import Pictures, check_pictures, picture_count
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.features import (
    CLASSIFICATION_SCALE,
    directed,
    similarity_logits,
    softmax,
    unit,
    zero_shot_classifier,
)
from internvl_edge.runtime.finite import FiniteOutputs, require_finite
from internvl_edge.runtime.generation import GenerationConfig, generate, greedy_tokens
from internvl_edge.runtime.manifest import ModelInfo
from internvl_edge.runtime.model_inputs import require_elements, require_finite_pixels, require_read_ids, text_list
from internvl_edge.runtime.modes import MODE_GRAPHS, Mode, default_mode, mode_of
from internvl_edge.runtime.preprocess import Geometry, preprocess
from internvl_edge.runtime.preprocessor_file import load_preprocessing
from internvl_edge.runtime.progress import Advance, no_advance
from internvl_edge.runtime.stages import POSTPROCESS, TOKENIZE, UNMEASURED, Stages
from internvl_edge.runtime.tokenizer import TEXT_PREFIX, Tokenizer

_T = TypeVar("_T")

Images = Pictures
"""Paths, PIL pictures or uint8 arrays; or `pixel_values` as floats ``[B, 3, S, S]``."""
Texts = Sequence[str] | np.ndarray
"""Strings; or `input_ids` int64 ``[T, L]``."""

DEFAULT_PROMPT = "English caption:"
DEFAULT_TEMPLATES = ("{}",)
_TOKENIZER_FILE = "tokenizer.model"
_NO_PICTURE = "no picture given; give at least one"
_SHOWN = 80
"""Characters of a user's text that an error shows."""
BATCH_SIZE = 32
"""Pictures or texts that go through a graph at once; more are cut into such batches."""


class InternVL:
    """An opened bundle: each graph is loaded when it is first needed. Threads may share it; `with` closes it."""

    def __init__(
        self, bundle: Bundle, backend: str | Opener, batch_size: int, options: SessionOptions | None = None
    ) -> None:
        self.stages: Stages = UNMEASURED
        """Where the time of what is asked goes; set one to measure."""
        self.advance: Advance = no_advance
        """Is told how many more pictures are done; set one to show how far a long list is."""
        self.preprocessing = load_preprocessing(bundle)
        """What becomes of pictures before the first graph."""
        self._bundle = bundle
        self._backend = backend
        self.options = options or SessionOptions()
        self._batch_size = batch_size
        self._sessions: dict[str, Session] = {}
        self._tokenizer: Tokenizer | None = None
        self._opening = threading.Lock()
        self._outputs = FiniteOutputs()

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        backend: str = "auto",
        *,
        verify: bool = True,
        batch_size: int = BATCH_SIZE,
        options: SessionOptions | None = None,
    ) -> "InternVL":
        """Open a bundle; `verify` compares the digest of every file first.

        Raises:
            BundleError: the bundle is absent, changed, or of a newer schema.
            BackendError: there is no such backend.
            InputError: a batch of no rows.
        """
        require_backend(backend)
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size} rows; give 1 or more")
        return cls(Bundle.open(Path(bundle), verify=verify), backend, batch_size, options)

    def __enter__(self) -> "InternVL":
        """Return the model; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free all graphs."""
        self.close()

    @property
    def bundle(self) -> Bundle:
        """The bundle that was opened."""
        return self._bundle

    @property
    def info(self) -> ModelInfo:
        """What the bundle says of its model."""
        return self._bundle.manifest.model

    @property
    def default_mode(self) -> Mode:
        """Whose picture features are meant where no mode is named: InternVL-G's if the bundle has them, else -C's."""
        return default_mode(self._bundle.manifest.graphs)

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, loaded when it is first needed.

        Raises:
            BundleError: it has none.
        """
        if self._tokenizer is None:
            if _TOKENIZER_FILE not in self._bundle.manifest.files:
                where = self._bundle.path
                raise BundleError(f"{where}: has no {_TOKENIZER_FILE}; export from a folder that has one, or pass ids")
            self._tokenizer = Tokenizer(self._bundle.path / _TOKENIZER_FILE)
        return self._tokenizer

    def encode_image(self, images: Images, mode: Mode = "c") -> np.ndarray:
        """Return raw features ``[B, D]``: InternVL-C's pooled feature, or InternVL-G's sum of two unit vectors."""
        return self._image_features(images, mode, "squash")

    def encode_text(self, texts: Texts) -> np.ndarray:
        """Return raw features ``[T, D]``."""
        self._bundle.require("text")
        ids = self._ids(texts, TEXT_PREFIX)
        parts = self._parts(ids, self._rows("text"))
        features = _stacked([self._run("text", {"input_ids": part})["text_embeds"] for part in parts])
        return require_finite(features, "texts")

    def encode_video(self, frames: Images, mode: Mode = "c") -> np.ndarray:
        """Return the raw feature ``[D]`` of a video: the mean of its frames' raw features."""
        from internvl_edge.runtime.video import encode_video

        return encode_video(self, frames, mode)

    def similarity(self, images: Images, texts: Texts, mode: Mode | None = None) -> np.ndarray:
        """Return logits ``[B, T]`` as the reference's forward: scaled cosines; `mode` None: `default_mode`."""
        scale = self._required(self.info.logit_scale, "logit scale")
        image_embeds, text_embeds = self.encode_image(images, mode_of(self._bundle, mode)), self.encode_text(texts)
        with self.stages.stage(POSTPROCESS):
            return similarity_logits(image_embeds, text_embeds, scale)

    def classify(
        self, images: Images, labels: Sequence[str], templates: Sequence[str] | None = None, mode: Mode | None = None
    ) -> np.ndarray:
        """Return zero-shot probabilities ``[B, labels]``; each template has ``{}`` where the label goes.

        Columns follow the labels by position: one that is given twice has two, which share its probability.

        `mode` None is `default_mode`.

        Raises:
            InputError: no label, or a template without a place for one.
        """
        labels = text_list(labels, "labels")
        chosen = text_list(DEFAULT_TEMPLATES if templates is None else templates, "templates")
        lacking = [template for template in chosen if "{}" not in template]
        if lacking or not labels or not chosen:
            finding = f"templates without {{}}: {', '.join(lacking)[:_SHOWN]}" if lacking else "no label or no template"
            raise InputError(f"classify: {finding}; give labels, and templates as 'a photo of {{}}'")
        features = self._image_features(images, mode_of(self._bundle, mode), "crop")
        classifier = self.classifier(labels, chosen)
        with self.stages.stage(POSTPROCESS):
            return softmax(CLASSIFICATION_SCALE * (unit(directed(features, "pictures")) @ classifier))

    def classifier(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """Return the zero-shot classifier ``[D, labels]``."""
        texts = [template.replace("{}", label) for label in labels for template in templates]
        features = self.encode_text(texts).reshape(len(labels), len(templates), -1)
        return zero_shot_classifier(list(features))

    def caption(
        self,
        images: Images,
        prompt: str = DEFAULT_PROMPT,
        num_beams: int = 1,
        max_new_tokens: int = 30,
        min_new_tokens: int = 0,
    ) -> list[str]:
        """Return one caption a picture."""
        self._bundle.require("vision", "query", "decoder")
        ids = self.generate(
            images,
            self._encoded_prompt(prompt),
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
        )
        with self.stages.stage(POSTPROCESS):
            return [self.tokenizer.decode(row) for row in ids]

    def stream(
        self, images: Images, prompt: str = DEFAULT_PROMPT, max_new_tokens: int = 30, min_new_tokens: int = 0
    ) -> Iterator[CaptionPiece]:
        """Return an iterator of pieces of greedy captions, as they are written; joined, they are what `caption` gives.

        Pictures of one batch are written side by side. A step is computed when a piece is asked for that needs it: who
        stops asking stops the work.

        Raises:
            InputError: as `caption`, before anything runs.
        """
        self._bundle.require("vision", "query", "decoder")
        config = self._config(1, min_new_tokens, max_new_tokens, None)
        if not (count := picture_count(images)):
            raise InputError(_NO_PICTURE)
        prompts = self._prompts(self._encoded_prompt(prompt), count, config)
        return self._streamed(images, prompts, config)

    def generate(
        self,
        images: Images,
        prompt_ids: np.ndarray,
        num_beams: int = 1,
        min_new_tokens: int = 0,
        max_new_tokens: int = 30,
        eos_token_id: int | None = None,
    ) -> np.ndarray:
        """Return new ids ``[B, new tokens]``; finished rows are filled with the checkpoint's padding id, officially 0.

        `prompt_ids` is ``[B, n]``, left-padded with 0, or ``[1, n]`` for all pictures. The vision and query graphs run
        once a picture; beams share the queries' keys and values.

        Raises:
            InputError: prompts that do not match the pictures, or more positions than the model has.
        """
        self._bundle.require("vision", "query", "decoder")
        config = self._config(num_beams, min_new_tokens, max_new_tokens, eos_token_id)
        prompts = self._prompts(np.atleast_2d(prompt_ids), picture_count(images), config)
        self._require_readable(images)
        rows = self._rows("vision", "query", "decoder", beams=num_beams)
        parts = zip(self._batches(images, "squash", rows), self._parts(prompts, rows), strict=True)
        return _padded([self._generate_batch(pixels, prompt, config) for pixels, prompt in parts], config.pad_token_id)

    def match(self, images: Images, texts: Texts) -> np.ndarray:
        """Return image-text matching logits ``[B, 2]`` of picture i with text i; column 1 says match.

        Raises:
            InputError: another number of texts than pictures.
        """
        self._bundle.require("vision", "itm")
        ids = self._ids(texts, prefix="", held=self.info.num_query_tokens)
        pictures = picture_count(images)
        if len(ids) != pictures:
            raise InputError(f"match: {pictures} pictures but {len(ids)} texts; give one text a picture")
        self._require_readable(images)
        size = self._rows("vision", "itm")
        logits = [
            self._run("itm", {"vision_states": self._vision_states(pixels), "input_ids": rows})["itm_logits"]
            for pixels, rows in zip(self._batches(images, "squash", size), self._parts(ids, size), strict=True)
        ]
        return require_finite(_stacked(logits), "pairs")

    def preprocess(self, images: Images, geometry: Geometry | None = None) -> np.ndarray:
        """Return `pixel_values` ``[B, 3, S, S]`` of pictures; without a geometry as `encode_image` prepares them."""
        return preprocess(images, self.preprocessing, geometry, self.stages)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids ``[T, L]`` that `encode_text` takes; of no texts, none."""
        return self._encoded(text_list(texts, "texts"), TEXT_PREFIX)

    def run_graph(
        self, graph: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Run one graph: named arrays in, the named outputs (default: all) out.

        Arrays have the types that the manifest declares, also where a backend computes in wider ones: floats and
        integers of another width are cast on the way in. bfloat16, which NumPy lacks, is fp32 rounded to it.

        Raises:
            BundleError: the bundle has no such graph.
            InputError: arrays that the graph does not take.
        """
        require_elements(graph, inputs)
        session = self.session(graph)
        declared = self._bundle.manifest.graphs[graph]
        given = session.run(arrays_as_declared(inputs, declared.inputs), outputs, self.stages)
        results = arrays_as_declared(given, declared.outputs)
        self._outputs.watch(graph, results)
        return results

    def session(self, graph: str) -> Session:
        """Return the opened graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        session = self._sessions.get(graph)
        if session is None:
            with self._opening:  # of threads that ask at once, one opens
                session = self._sessions.get(graph)
                if session is None:
                    session = self._opened(graph)
                    self._sessions[graph] = session
        return session

    def close(self) -> None:
        """Free all graphs; what is asked next opens them again."""
        with self._opening:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def continue_from(
        self, query: Mapping[str, np.ndarray], prompt_ids: np.ndarray, config: GenerationConfig
    ) -> np.ndarray:
        """Return the ids ``[B, n]`` that follow `prompt_ids` ``[B, p]``; `query` is what that graph returned.

        For several prompts on one set of pictures: vision and queries run once.
        """
        with closing(self._open_cache(query, prompt_ids, config)) as cache:
            return generate(cache, self._held(), prompt_ids, config, self.stages).ids

    def _run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one of several graphs in a row: what is handed on keeps the width that the backend computes in."""
        outputs = self.session(graph).run(inputs, stages=self.stages)
        self._outputs.watch(graph, outputs)
        return outputs

    def _opened(self, graph: str) -> Session:
        if isinstance(self._backend, str):
            return open_session(self._backend, self._bundle, graph, self.options)
        return self._backend(self._bundle, graph, self.options)

    def _image_features(self, images: Images, mode: Mode, geometry: Geometry) -> np.ndarray:
        graphs = MODE_GRAPHS[mode_of(self._bundle, mode)]
        self._require_readable(images)
        rows = self._rows(*graphs)
        return _stacked([self._batch_features(pixels, mode) for pixels in self._batches(images, geometry, rows)])

    def _batch_features(self, pixels: np.ndarray, mode: Mode) -> np.ndarray:
        vision = self._run("vision", {"pixel_values": pixels})
        pooled = self._required(vision.get("image_embeds"), "image embedding")
        if mode == "c":
            return require_finite(pooled, "pictures")
        query = self._run("query", {"vision_states": vision["vision_states"]})
        with self.stages.stage(POSTPROCESS):
            features: np.ndarray = unit(pooled) + unit(query["query_embeds"])
            return require_finite(features, "pictures")

    def _vision_states(self, pixels: np.ndarray) -> np.ndarray:
        return self._run("vision", {"pixel_values": pixels})["vision_states"]

    def _generate_batch(self, pixels: np.ndarray, prompts: np.ndarray, config: GenerationConfig) -> np.ndarray:
        return self.continue_from(self._query(pixels), prompts, config)

    def _streamed(self, images: Images, prompts: np.ndarray, config: GenerationConfig) -> Iterator[CaptionPiece]:
        self._require_readable(images)
        first, size = 0, self._rows("vision", "query", "decoder")
        for pixels, prompt in zip(self._batches(images, "squash", size), self._parts(prompts, size), strict=True):
            rows = range(first, first + len(prompt))
            with closing(self._open_cache(self._query(pixels), prompt, config)) as cache:
                columns = greedy_tokens(cache, self._held(), prompt, config, self.stages)
                yield from growing_captions(columns, self.tokenizer, rows, config.eos_token_id)
            first += len(prompt)

    def _query(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return self._run("query", {"vision_states": self._vision_states(pixels)})

    def _open_cache(
        self, query: Mapping[str, np.ndarray], prompts: np.ndarray, config: GenerationConfig
    ) -> KeyValueCache:
        """Return the decoder's cache, which begins with the queries' rows, with room for all that will be fed."""
        present = {name: values for name, values in query.items() if name.startswith("present.")}
        length = self._held() + prompts.shape[1] + config.max_new_tokens - 1  # the last token is not fed again
        return open_cache(self.session("decoder"), present, len(prompts) * config.num_beams, length)

    def _held(self) -> int:
        return self.info.require_text().num_query_tokens

    def _config(
        self, num_beams: int, min_new_tokens: int, max_new_tokens: int, eos_token_id: int | None
    ) -> GenerationConfig:
        return GenerationConfig(
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.info.require_text().eos_token_id if eos_token_id is None else eos_token_id,
            pad_token_id=self.info.require_text().pad_token_id,
        )

    def _prompts(self, prompt_ids: np.ndarray, pictures: int, config: GenerationConfig) -> np.ndarray:
        self._check_ids(np.array([[config.eos_token_id]]), held=0)
        count, length = prompt_ids.shape
        if count not in (1, pictures) or length == 0:
            raise InputError(f"generate: {pictures} pictures but prompts {[count, length]}; give one, or one a picture")
        fed = config.max_new_tokens - 1  # the last token is not fed again
        self._check_ids(prompt_ids, held=self.info.num_query_tokens + fed)
        return np.broadcast_to(prompt_ids, (pictures, length)).astype(np.int64)

    def _ids(self, texts: Texts, prefix: str, held: int = 0) -> np.ndarray:
        """Return the ids ``[T, L]`` of texts; those given as ids are checked against the model's tables."""
        if isinstance(texts, np.ndarray) and (texts.ndim != 1 or texts.dtype.kind not in "OU"):
            self._check_ids(texts, held)
            return require_read_ids(texts)
        return self._encoded(text_list(texts, "texts"), prefix)

    def _encoded(self, texts: Sequence[str], prefix: str) -> np.ndarray:
        tokenizer = self.tokenizer
        with self.stages.stage(TOKENIZE):
            return tokenizer.encode_texts(texts, prefix=prefix, max_length=self.info.require_text().max_text_length)

    def _encoded_prompt(self, prompt: str) -> np.ndarray:
        tokenizer = self.tokenizer
        with self.stages.stage(TOKENIZE):
            return tokenizer.encode_prompt(prompt)

    def _check_ids(self, ids: np.ndarray, held: int) -> None:
        """Check ids that follow, or are followed by, `held` other positions."""
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise InputError(f"ids: found {ids.dtype} {list(ids.shape)}; give integers [rows, length]")
        if self.info.text is None:
            return
        known, places = self.info.text.vocab_size, self.info.text.max_positions
        if ids.size and not 0 <= ids.min() <= ids.max() < known:
            raise InputError(f"ids: found {ids.min()} to {ids.max()}; the model knows 0 to {known - 1}")
        if ids.shape[1] + held > places:
            raise InputError(f"ids: {ids.shape[1] + held} positions, the model has {places}; shorten them")

    def _batches(self, images: Images, geometry: Geometry, size: int) -> Iterator[np.ndarray]:
        """Yield `pixel_values` batch by batch, so that a long list of files never lies in memory as a whole."""
        if isinstance(images, np.ndarray) and images.dtype.kind == "f":
            batches: Iterator[np.ndarray] = map(require_finite_pixels, self._parts(images, size))
        else:
            starts = range(0, picture_count(images), size)
            path = self.preprocessing.geometry_of(geometry)
            batches = (self.preprocess(images[start : start + size], path) for start in starts)
        for pixels in batches:
            yield pixels
            self.advance(len(pixels))

    def _require_readable(self, images: Images) -> None:
        """Check a long list before any graph is opened; a short one is read at once.

        Raises:
            InputError: pictures that cannot be read, all of them named.
        """
        if not isinstance(images, np.ndarray) and picture_count(images) > self._batch_size:
            check_pictures(images)

    def _parts(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _rows(self, *graphs: str, beams: int = 1) -> int:
        """Return how many pictures or texts may go through all of `graphs` at once; the decoder has a row per beam."""
        size = self._batch_size
        for graph in graphs:
            session = self.session(graph)
            if isinstance(session, RowLimit) and session.max_rows is not None:
                size = min(size, max(session.max_rows // (beams if graph == "decoder" else 1), 1))
        return size

    def _required(self, value: _T | None, part: str) -> _T:
        if value is None:
            layout = self.info.layout
            raise BundleError(f"{self._bundle.path}: {layout} has no {part}; use a bundle of InternVL-14B for this")
        return value


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    if not parts:
        raise InputError("no input given; give at least one picture or text")
    return np.concatenate(parts)


def _padded(parts: list[np.ndarray], fill: int) -> np.ndarray:
    """Return the rows of all batches, as wide as the widest, filled with id `fill`."""
    if not parts:
        raise InputError(_NO_PICTURE)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts])
