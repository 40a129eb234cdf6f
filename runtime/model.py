"""InternVL as users see it: features, similarity, zero-shot classes, captions and matching over the graphs of a bundle."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from internvl_edge.runtime.backends import Session, open_session
from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.features import (
    CLASSIFICATION_SCALE,
    similarity_logits,
    softmax,
    unit,
    zero_shot_classifier,
)
from internvl_edge.runtime.generation import Cache, GenerationConfig, generate
from internvl_edge.runtime.manifest import ModelInfo
from internvl_edge.runtime.preprocess import Geometry, preprocess
from internvl_edge.runtime.tokenizer import Tokenizer

_T = TypeVar("_T")

Mode = Literal["c", "g"]
Images = Sequence[object] | np.ndarray
"""Paths, PIL pictures or uint8 arrays; or `pixel_values` fp32 ``[B, 3, S, S]``."""
Texts = Sequence[str] | np.ndarray
"""Strings; or `input_ids` int64 ``[T, L]``."""

DEFAULT_PROMPT = "English caption:"
DEFAULT_TEMPLATES = ("{}",)
BATCH_SIZE = 32
"""Pictures or texts that go through a graph at once; more are cut into such batches."""


class InternVL:
    """An opened bundle. Each graph is loaded when it is first needed."""

    def __init__(self, bundle: Bundle, backend: str, batch_size: int) -> None:
        self._bundle = bundle
        self._backend = backend
        self._batch_size = batch_size
        self._sessions: dict[str, Session] = {}
        self._tokenizer: Tokenizer | None = None

    @classmethod
    def open(
        cls, bundle: str | Path, backend: str = "auto", *, verify: bool = True, batch_size: int = BATCH_SIZE
    ) -> "InternVL":
        """Open a bundle; `verify` compares the digest of every file first.

        Raises:
            BundleError: the bundle is absent, changed, or of a newer schema.
        """
        return cls(Bundle.open(Path(bundle), verify=verify), backend, batch_size)

    @property
    def info(self) -> ModelInfo:
        """What the bundle says of its model."""
        return self._bundle.manifest.model

    def encode_image(self, images: Images, mode: Mode = "c") -> np.ndarray:
        """Return raw features ``[B, D]``: InternVL-C's pooled feature, or InternVL-G's sum of two unit vectors."""
        _check_mode(mode)
        return _stacked([self._image_features(pixels, mode) for pixels in self._picture_batches(images)])

    def encode_text(self, texts: Texts) -> np.ndarray:
        """Return raw features ``[T, D]``."""
        ids = self.tokenize(texts) if not isinstance(texts, np.ndarray) else texts
        return _stacked([self.run_graph("text", {"input_ids": part})["text_embeds"] for part in self._parts(ids)])

    def similarity(self, images: Images, texts: Texts, mode: Mode = "g") -> np.ndarray:
        """Return logits ``[B, T]`` as the reference's forward: scaled cosines."""
        scale = self._required(self.info.logit_scale, "similarity")
        return similarity_logits(self.encode_image(images, mode), self.encode_text(texts), scale)

    def classify(
        self, images: Images, labels: Sequence[str], templates: Sequence[str] | None = None, mode: Mode = "g"
    ) -> np.ndarray:
        """Return zero-shot probabilities ``[B, labels]``; each template has ``{}`` where the label goes.

        Raises:
            InputError: no label, or a template without a place for one.
        """
        chosen = tuple(templates or DEFAULT_TEMPLATES)
        lacking = [template for template in chosen if "{}" not in template]
        if lacking or not labels:
            finding = f"templates without {{}}: {', '.join(lacking)}" if lacking else "no label"
            raise InputError(f"classify: {finding}; give labels, and templates as 'a photo of {{}}'")
        classifier = self.classifier(labels, chosen)
        features = self.encode_image(self._as_pixels(images, "crop"), mode)
        return softmax(CLASSIFICATION_SCALE * (unit(features) @ classifier))

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
        ids = self.generate(
            images,
            self._tokens().encode_prompt(prompt),
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
        )
        return [self._tokens().decode(row) for row in ids]

    def generate(
        self,
        images: Images,
        prompt_ids: np.ndarray,
        num_beams: int = 1,
        min_new_tokens: int = 0,
        max_new_tokens: int = 30,
        eos_token_id: int | None = None,
    ) -> np.ndarray:
        """Return new ids ``[B, new tokens]``; finished rows are filled with 0.

        `prompt_ids` is ``[B, n]``, left-padded with 0, or ``[1, n]`` for all pictures. The vision and query graphs run
        once a picture; beams share the queries' keys and values.

        Raises:
            InputError: prompts that do not match the pictures, or more positions than the model has.
        """
        config = GenerationConfig(
            num_beams=num_beams,
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.info.eos_token_id if eos_token_id is None else eos_token_id,
        )
        pixels = self._as_pixels(images, "squash")
        prompts = self._prompts(np.atleast_2d(prompt_ids), len(pixels), config)
        parts = zip(self._parts(pixels), self._parts(prompts), strict=True)
        return _padded([self._generate_batch(part, prompt, config) for part, prompt in parts])

    def match(self, images: Images, texts: Texts) -> np.ndarray:
        """Return image-text matching logits ``[B, 2]`` of picture i with text i; column 1 says match.

        Raises:
            InputError: another number of texts than pictures.
        """
        ids = self._tokens().encode_texts(texts, prefix="") if not isinstance(texts, np.ndarray) else texts
        pixels = self._as_pixels(images, "squash")
        if len(ids) != len(pixels):
            raise InputError(f"match: {len(pixels)} pictures but {len(ids)} texts; give one text a picture")
        logits = [
            self.run_graph("itm", {"vision_states": self._vision_states(part), "input_ids": rows})["itm_logits"]
            for part, rows in zip(self._parts(pixels), self._parts(ids), strict=True)
        ]
        return _stacked(logits)

    def preprocess(self, images: Sequence[object], geometry: Geometry = "squash") -> np.ndarray:
        """Return `pixel_values` ``[B, 3, S, S]`` of pictures."""
        return preprocess(images, self.info.image_size, geometry)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids ``[T, L]`` that `encode_text` takes."""
        return self._tokens().encode_texts(list(texts), max_length=self.info.max_text_length)

    def run_graph(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one graph: named arrays in, named arrays out.

        Raises:
            BundleError: the bundle has no such graph.
            InputError: arrays that the graph does not take.
        """
        if graph not in self._sessions:
            self._sessions[graph] = open_session(self._backend, self._bundle.graph_file(graph))
        return self._sessions[graph].run(inputs)

    def _image_features(self, pixels: np.ndarray, mode: Mode) -> np.ndarray:
        vision = self.run_graph("vision", {"pixel_values": pixels})
        self._required(vision.get("image_embeds"), "encode_image")
        if mode == "c":
            return vision["image_embeds"]
        query = self.run_graph("query", {"vision_states": vision["vision_states"]})
        features: np.ndarray = unit(vision["image_embeds"]) + unit(query["query_embeds"])
        return features

    def _vision_states(self, pixels: np.ndarray) -> np.ndarray:
        return self.run_graph("vision", {"pixel_values": pixels})["vision_states"]

    def _generate_batch(self, pixels: np.ndarray, prompts: np.ndarray, config: GenerationConfig) -> np.ndarray:
        query = self.run_graph("query", {"vision_states": self._vision_states(pixels)})
        cache = {name: values for name, values in query.items() if name.startswith("present.")}
        held = self._required(self.info.num_query_tokens, "generate")
        return generate(self._decode, cache, held, prompts, config).ids

    def _decode(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, position_ids: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, Cache]:
        past = {name.replace("present", "past_key_values", 1): values for name, values in cache.items()}
        state = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        outputs = self.run_graph("decoder", {**state, **past})
        logits = outputs.pop("logits")
        return logits, outputs

    def _prompts(self, prompt_ids: np.ndarray, pictures: int, config: GenerationConfig) -> np.ndarray:
        if prompt_ids.shape[0] not in (1, pictures):
            raise InputError(f"generate: {pictures} pictures but {prompt_ids.shape[0]} prompts; give one, or one a picture")
        held, most = self.info.num_query_tokens or 0, self.info.max_positions or 0
        wanted = held + prompt_ids.shape[1] + config.max_new_tokens
        if wanted > most:
            raise InputError(f"generate: {wanted} positions but the model has {most}; lower max_new_tokens")
        return np.broadcast_to(prompt_ids, (pictures, prompt_ids.shape[1])).astype(np.int64)

    def _as_pixels(self, images: Images, geometry: Geometry) -> np.ndarray:
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f":
            return images
        return self.preprocess(images, geometry)

    def _picture_batches(self, images: Images) -> Iterator[np.ndarray]:
        if isinstance(images, np.ndarray) and images.dtype.kind == "f":
            yield from self._parts(images)
            return
        for start in range(0, len(images), self._batch_size):
            yield self.preprocess(images[start : start + self._batch_size])

    def _parts(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), self._batch_size):
            yield rows[start : start + self._batch_size]

    def _tokens(self) -> Tokenizer:
        if self._tokenizer is None:
            path = self._bundle.path / "tokenizer.model"
            if not path.exists():
                raise BundleError(f"{self._bundle.path}: has no tokenizer.model; export from a folder that has one, or pass ids")
            self._tokenizer = Tokenizer(path)
        return self._tokenizer

    def _required(self, value: _T | None, use: str) -> _T:
        if value is None:
            raise BundleError(f"{self._bundle.path}: {self.info.family} has no {use}; use a bundle of InternVL-14B for it")
        return value


def _check_mode(mode: str) -> None:
    if mode not in ("c", "g"):
        raise InputError(f"mode {mode!r}: unknown; choose c (InternVL-C) or g (InternVL-G)")


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    if not parts:
        raise InputError("no input given; give at least one picture or text")
    return np.concatenate(parts)


def _padded(parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all batches, as wide as the widest, filled with 0."""
    if not parts:
        raise InputError("no picture given; give at least one")
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])
