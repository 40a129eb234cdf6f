"""Run a worker's model on a batch: decode pictures in threads, join the parts, compute, and split the results."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.declared_types import arrays_from_bits, arrays_with_bits
from internvl_edge.runtime.errors import (
    BackendError,
    BundleError,
    EdgeError,
    InputError,
    TooLongError,
    TooManyPixelsError,
)
from internvl_edge.runtime.inputs.pictures.decode import decode, limit_pixels
from internvl_edge.runtime.inputs.pictures.findings import reason
from internvl_edge.runtime.inputs.pictures.preprocess import Geometry, write_pixel_values
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.serve.models import CAPTION, CHAT, CLASSIFY, ENCODE_IMAGE, ENCODE_TEXT
from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.refusals import (
    CONTEXT_CODE,
    BadRequestError,
    FailedError,
    RefusalError,
    TooLargeError,
)
from internvl_edge.runtime.serve.workers.chat_runner import chat_steps
from internvl_edge.runtime.serve.workers.messages import Arrays, Job, Piece
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, Stages
from internvl_edge.runtime.tasks.captions import DEFAULT_PROMPT
from internvl_edge.runtime.tasks.classification import DEFAULT_TEMPLATES
from internvl_edge.runtime.tasks.features import class_probabilities
from internvl_edge.runtime.tasks.generation.search import never

logger = logging.getLogger(__name__)

_GEOMETRY: Mapping[str, Geometry] = {ENCODE_IMAGE: "squash", CLASSIFY: "crop", CAPTION: "squash"}
"""Task with pictures -> how the pictures are scaled."""
_CLASSIFIERS = 32
"""Number of sets of labels whose features are cached."""
_DECODERS = 4
"""Threads that decode pictures; they decode the next batch while one is computed."""


@dataclass(slots=True)
class Prepared:
    """A job whose pictures are being decoded."""

    job: Job
    pixels: "list[list[Future[np.ndarray]]]"
    """Pixel values ``[3, S, S]`` of the pictures of each part; empty if the model takes no pictures."""
    stages: Stages = field(default_factory=Stages)
    cancelled: Callable[[], bool] = never
    """Function that says, between two tokens of an answer, whether nobody waits for the job any more."""

    @property
    def monitor(self) -> Monitor:
        """Return a monitor that adds the model's stages to those of the job."""
        return Monitor(stages=self.stages)


class ModelRunner:
    """A model with the tasks of its jobs; `prepare` may be called in any thread, all other methods in one thread."""

    def __init__(self, model: InternVL, options: ServeOptions) -> None:
        self._model = model
        self._options = options
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="pictures")
        self._classifiers: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = OrderedDict()
        limit_pixels(options.max_pixels)

    def prepare(self, job: Job) -> Prepared:
        """Start to decode a job's pictures."""
        prepared = Prepared(job, [])
        if job.model in _GEOMETRY:
            prepared.pixels = [
                [self._decoders.submit(self._pixels, content, job.model, prepared.stages) for content in part["image"]]
                for part in job.parts
            ]
        return prepared

    def answer(self, prepared: Prepared) -> tuple[Arrays | RefusalError, ...]:
        """Return the outputs of each part, or the reason why it has none; a bad part does not fail the others."""
        inputs = self._inputs(prepared)
        good = [index for index, part in enumerate(inputs) if not isinstance(part, RefusalError)]
        results: list[Arrays | RefusalError] = [part if isinstance(part, RefusalError) else {} for part in inputs]
        for index, result in zip(good, self._computed(prepared, [inputs[index] for index in good]), strict=True):
            results[index] = result
        return tuple(results)

    def stream(self, prepared: Prepared) -> "Generator[Piece | tuple[Arrays | RefusalError, ...], None, None]":
        """Yield the pieces of texts as they are generated, and at last the result of each part."""
        if prepared.job.model == CHAT:
            yield from self._chat(prepared)
        else:
            yield from self._captions(prepared)

    def _chat(self, prepared: Prepared) -> "Generator[Piece | tuple[Arrays | RefusalError, ...], None, None]":
        try:
            for step in chat_steps(self._model, prepared.job, prepared.cancelled, prepared.monitor):
                yield step if isinstance(step, Piece) else (step,)
        except Exception as error:
            yield (_refusal(prepared.job, error),)

    def _captions(self, prepared: Prepared) -> "Generator[Piece | tuple[Arrays | RefusalError, ...], None, None]":
        job, inputs = prepared.job, self._inputs(prepared)
        results: list[Arrays | RefusalError] = [part if isinstance(part, RefusalError) else {} for part in inputs]
        good = [index for index, part in enumerate(inputs) if not isinstance(part, RefusalError)]
        owners = [(index, row) for index in good for row in range(_rows(inputs[index]))]
        try:
            if good:
                pixels = np.concatenate([inputs[index]["image"] for index in good])
                for piece in self._model.stream(
                    pixels, **_caption_settings(job, beams=False), monitor=prepared.monitor
                ):
                    part, row = owners[piece.picture]
                    yield Piece(job.id, part, row, piece.text)
        except Exception as error:
            refusal = _refusal(job, error)
            for index in good:
                results[index] = refusal
        yield tuple(results)

    def close(self) -> None:
        """Stop the threads and close the model."""
        self._decoders.shutdown(cancel_futures=True)
        self._model.close()

    def _inputs(self, prepared: Prepared) -> "list[Any]":
        """Return each part's inputs with pictures as pixel values, or the reason why these cannot be read."""
        if prepared.job.model not in _GEOMETRY:
            return list(prepared.job.parts)
        return [_read(prepared.job, pictures) for pictures in prepared.pixels]

    def _computed(self, prepared: Prepared, parts: "list[Arrays]") -> list[Arrays | RefusalError]:
        if not parts:
            return []
        try:
            return _cut(self._outputs(prepared, _joined(parts)), [_rows(part) for part in parts])
        except Exception as error:
            if len(parts) > 1:
                return [result for part in parts for result in self._computed(prepared, [part])]
            return [_refusal(prepared.job, error)]

    def _outputs(self, prepared: Prepared, inputs: Arrays) -> dict[str, np.ndarray]:
        job, monitor = prepared.job, prepared.monitor
        task = _TASKS.get(job.model)
        if task is None:
            graph = self._model.bundle.manifest.graphs[job.model]
            outputs = self._model.run_graph(job.model, arrays_from_bits(inputs, graph.inputs), job.outputs, monitor)
            return arrays_with_bits(outputs, graph.outputs)
        return task(self, job, inputs, monitor)

    def _encode_image(self, job: Job, inputs: Arrays, monitor: Monitor) -> dict[str, np.ndarray]:
        mode: Any = job.parameters["mode"]
        return {"embedding": np.asarray(self._model.encode_image(inputs["image"], mode, monitor), np.float32)}

    def _encode_text(self, job: Job, inputs: Arrays, monitor: Monitor) -> dict[str, np.ndarray]:
        return {"embedding": np.asarray(self._model.encode_text(_texts(inputs["text"]), monitor), np.float32)}

    def _classify(self, job: Job, inputs: Arrays, monitor: Monitor) -> dict[str, np.ndarray]:
        mode: Any = job.parameters["mode"]
        templates = job.shared.get("templates")
        classifier = self._classifier(
            tuple(_texts(job.shared["labels"])),
            DEFAULT_TEMPLATES if templates is None else tuple(_texts(templates)),
            monitor,
        )
        features = self._model.encode_image(inputs["image"], mode, monitor)
        return {"probabilities": class_probabilities(features, classifier)}

    def _classifier(self, labels: tuple[str, ...], templates: tuple[str, ...], monitor: Monitor) -> np.ndarray:
        key = (labels, templates)
        if key not in self._classifiers:
            self._classifiers[key] = self._model.classifier(labels, templates, monitor)
        self._classifiers.move_to_end(key)
        if len(self._classifiers) > _CLASSIFIERS:
            self._classifiers.popitem(last=False)
        return self._classifiers[key]

    def _caption(self, job: Job, inputs: Arrays, monitor: Monitor) -> dict[str, np.ndarray]:
        captions = self._model.caption(inputs["image"], **_caption_settings(job, beams=True), monitor=monitor)
        return {"text": np.array([caption.encode() for caption in captions], np.object_)}

    def _pixels(self, content: bytes, task: str, stages: Stages) -> np.ndarray:
        """Return the pixel values ``[3, S, S]`` of an encoded picture.

        Only `bytes` are decoded: a string would be opened as the path of a file on the server.
        """
        if not isinstance(content, bytes):
            raise TypeError(f"{type(content).__name__} is no encoded picture")
        settings = self._model.preprocessing
        size = settings.image_size
        values = np.empty((3, size, size), np.float32)
        with stages.stage(DECODE_IMAGE):
            try:
                picture = decode(content)
            except TooManyPixelsError as error:
                raise TooLargeError(f"more than {self._options.max_pixels} pixels") from error
        with stages.stage(PREPROCESS):
            write_pixel_values(picture, settings, settings.geometry_of(_GEOMETRY[task]), values)
        return values


_TASKS = {
    ENCODE_IMAGE: ModelRunner._encode_image,
    ENCODE_TEXT: ModelRunner._encode_text,
    CLASSIFY: ModelRunner._classify,
    CAPTION: ModelRunner._caption,
}


def _caption_settings(job: Job, beams: bool) -> dict[str, Any]:
    prompt = job.shared.get("prompt")
    settings = {name: value for name, value in job.parameters.items() if beams or name != "num_beams"}
    return {"prompt": DEFAULT_PROMPT if prompt is None else _texts(prompt)[0], **settings}


def _read(job: Job, pictures: "list[Future[np.ndarray]]") -> Arrays | RefusalError:
    """Wait until the pictures of one part are decoded, and return them or the reason why one cannot be read."""
    errors = [error for picture in pictures if (error := picture.exception()) is not None]
    if not errors:
        return {"image": np.stack([picture.result() for picture in pictures])}
    if isinstance(errors[0], TooLargeError):
        return TooLargeError(f"{job.model}: image has {errors[0]}")
    why = reason(errors[0]) if isinstance(errors[0], Exception) else type(errors[0]).__name__
    return BadRequestError(f"{job.model}: image cannot be read ({why})")


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(outputs: Arrays, rows: Sequence[int]) -> list[Arrays | RefusalError]:
    """Return the outputs of each part; a single part gets all rows."""
    if len(rows) == 1:
        return [outputs]
    ends = np.cumsum(rows)
    return [
        {name: values[end - count : end] for name, values in outputs.items()}
        for count, end in zip(rows, ends, strict=True)
    ]


def _rows(part: Arrays) -> int:
    return len(next(iter(part.values())))


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values]


def _refusal(job: Job, error: Exception) -> RefusalError:
    """Return the error as its client may see it; the full error is logged on the server."""
    if isinstance(error, InputError):
        return BadRequestError(
            f"{job.model}: {str(error).removeprefix(f'{job.model}: ')}",
            param="messages" if job.model == CHAT else None,
            code=CONTEXT_CODE if isinstance(error, TooLongError) else None,
        )
    if isinstance(error, BackendError) and job.model not in (*_TASKS, CHAT):
        logger.warning("%s: %s", job.model, error)
        return BadRequestError(f"{job.model}: the graph fails on these values")
    if isinstance(error, EdgeError):
        logger.error("%s: %s", job.model, error)
        if isinstance(error, BundleError):
            return FailedError(f"{job.model}: the bundle does not suffice for it")
        return FailedError(f"{job.model}: the model fails on this input")
    logger.error("%s: failed", job.model, exc_info=error)
    return FailedError(f"{job.model}: failed inside the server")
