"""Computation of features in batches, by this process or, as another `Engine`, by a cluster."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import IMAGE_ENCODER, TEXT_ENCODER
from internvl_edge.runtime.embed.batches import Batch, BatchOptions, batches
from internvl_edge.runtime.embed.options import EmbedOptions
from internvl_edge.runtime.embed.outputs import Kind
from internvl_edge.runtime.embed.shards import Compute, Part
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.inputs.files.names import is_unicode
from internvl_edge.runtime.inputs.pictures.decode import check_header
from internvl_edge.runtime.inputs.pictures.findings import NAMED, listed, reason
from internvl_edge.runtime.inputs.pictures.source import SourcePicture
from internvl_edge.runtime.inputs.read import UnusableText
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import UNMEASURED, Stages

if TYPE_CHECKING:
    from internvl_edge.runtime.model import InternVL


class Engine(Protocol):
    """Computation of features, in this process or on a cluster."""

    def backend(self, kind: Kind) -> str:
        """Return a description of the backend; rows of two different backends are not written to one file."""
        ...

    def pictures(self, pictures: Sequence[SourcePicture], options: EmbedOptions) -> Compute:
        """Return a function that computes the features of pictures by their indices."""
        ...

    def texts(self, texts: Sequence[str | UnusableText], options: EmbedOptions) -> Compute:
        """Return a function that computes the features of texts by their indices."""
        ...


def described(backend: str, bf16: bool) -> str:
    """Return the name of a backend with the allowed precision."""
    return f"{backend} in bf16" if bf16 else backend


class LocalEngine:
    """An engine that computes features in this process."""

    def __init__(self, model: "InternVL", stages: Stages = UNMEASURED) -> None:
        self._model = model
        self._stages = stages

    def backend(self, kind: Kind) -> str:
        """Return the backend that the model chose."""
        (graph,) = self._model.bundle.graphs_of(IMAGE_ENCODER if kind == "image" else TEXT_ENCODER)
        return described(self._model.session(graph).backend, self._model.options.bf16)

    def pictures(self, pictures: Sequence[SourcePicture], options: EmbedOptions) -> Compute:
        """Return a function that decodes pictures in threads while the graph runs."""
        return PictureFeatures(self._model, pictures, options, self._stages)

    def texts(self, texts: Sequence[str | UnusableText], options: EmbedOptions) -> Compute:
        """Return a function that encodes texts in batches."""
        return TextFeatures(self._model, texts, options, self._stages)


class PictureFeatures:
    """The function that computes features of pictures, which threads decode and scale while the graph runs."""

    def __init__(
        self, model: "InternVL", pictures: Sequence[SourcePicture], options: EmbedOptions, stages: Stages
    ) -> None:
        self._model = model
        self._pictures = pictures
        self._options = options
        self._stages = stages

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        """Yield the features of each batch."""
        todo = [self._pictures[index] for index in inputs]
        settings = BatchOptions(
            preprocessing=self._model.preprocessing,
            geometry=self._model.preprocessing.geometry_of("squash"),
            batch_size=self._options.batch_size,
            workers=self._options.workers,
        )
        with closing(batches(todo, settings, self._stages)) as stream:
            for batch in stream:
                bad = tuple((todo[index].name, why) for index, why in batch.bad)
                if bad and self._options.on_error == "fail":
                    ahead = _bad_headers(todo[batch.start + batch.count :], NAMED - len(bad))
                    raise InputError(unreadable([*bad, *ahead]))
                yield Part(self._rows(batch), _names(todo, batch), bad)

    def _rows(self, batch: Batch) -> np.ndarray:
        if not len(batch.pixel_values):
            return np.empty((0, 0))
        mode = self._options.mode or self._model.default_mode
        features = self._model.encode_image(batch.pixel_values, mode, Monitor(stages=self._stages))
        return cast(features, "pictures", self._options)


class TextFeatures:
    """The function that computes features of texts in batches; each text is checked on its own."""

    def __init__(
        self, model: "InternVL", texts: Sequence[str | UnusableText], options: EmbedOptions, stages: Stages
    ) -> None:
        self._model = model
        self._texts = texts
        self._options = options
        self._stages = stages

    def __call__(self, inputs: Sequence[int]) -> Generator[Part, None, None]:
        """Yield the features of each batch."""
        wrong = {index: found for index in inputs if (found := _text_fault(self._texts[index], index)) is not None}
        if wrong and self._options.on_error == "fail":
            raise InputError(unreadable(list(wrong.values())))
        for start in range(0, len(inputs), self._options.batch_size):
            batch = inputs[start : start + self._options.batch_size]
            texts = [str(self._texts[index]) for index in batch if index not in wrong]
            bad = tuple(wrong[index] for index in batch if index in wrong)
            yield Part(self._rows(texts), tuple(texts), bad)

    def _rows(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, 0))
        return cast(self._model.encode_text(texts, Monitor(stages=self._stages)), "texts", self._options)


def cast(features: np.ndarray, what: str, options: EmbedOptions) -> np.ndarray:
    """Return features in the type of the output file; `what` names the inputs in errors.

    Raises:
        BackendError: Features are NaN or infinite, or overflow float16.
    """
    require_finite(features, what)
    with np.errstate(over="ignore"):  # the error below reports an overflow
        rows = features.astype(options.dtype, copy=False)
    if not np.isfinite(rows).all():
        raise BackendError(
            f"embed: features of {what} up to {np.abs(features).max():.4g}, too large for float16; write float32"
        )
    return rows


def unreadable(findings: Sequence[tuple[str, str]]) -> str:
    """Return an error message that names the inputs that cannot be read."""
    return (
        f"embed: unreadable: {listed(findings)}; repair them, or run again with --on-error skip:"
        " what is finished is kept"
    )


def _text_fault(text: str | UnusableText, index: int) -> tuple[str, str] | None:
    """Return name and reason of a text that cannot be encoded; None if it can."""
    if isinstance(text, UnusableText):
        return text.name, text.why
    if not text.strip():
        return f"text {index}", "empty"
    return None if is_unicode(text) else (f"text {index}", "no valid Unicode")


def _names(todo: Sequence[SourcePicture], batch: Batch) -> tuple[str, ...]:
    bad = {index for index, _ in batch.bad}
    return tuple(todo[index].name for index in range(batch.start, batch.start + batch.count) if index not in bad)


def _bad_headers(pictures: Sequence[SourcePicture], most: int) -> Iterator[tuple[str, str]]:
    """Yield name and reason of the first `most` pictures whose headers cannot be read."""
    for picture in pictures:
        if most <= 0:
            return
        try:
            check_header(picture.content())
        except Exception as error:  # as in the batches
            most -= 1
            yield picture.name, reason(error)
