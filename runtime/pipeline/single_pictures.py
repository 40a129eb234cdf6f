"""Features of pictures that come one by one from many threads: decoded there, computed together."""

from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from internvl_edge.runtime.pipeline.micro_batcher import MicroBatcher, MicroBatchOptions

if TYPE_CHECKING:
    from internvl_edge.runtime.model import InternVL, Mode


class SinglePictures:
    """Answers each picture's request by its own future; `with` or `close` waits for those still open."""

    def __init__(self, model: "InternVL", mode: "Mode" = "c", options: MicroBatchOptions | None = None) -> None:
        self._model = model
        self._mode = mode
        self._batcher: MicroBatcher[np.ndarray, np.ndarray] = MicroBatcher(self._features, options)

    def submit(self, image: object) -> "Future[np.ndarray]":
        """Return the future raw feature ``[D]`` of one picture, which is decoded before this returns.

        Raises:
            InputError: the picture cannot be read.
            QueueFullError: as many wait as may.
        """
        return self._batcher.submit(self._model.preprocess([image])[0])

    def close(self) -> None:
        """Answer what waits, and take nothing more."""
        self._batcher.close()

    def __enter__(self) -> "SinglePictures":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _features(self, pixels: list[np.ndarray]) -> Sequence[np.ndarray]:
        return list(self._model.encode_image(np.stack(pixels), self._mode))
