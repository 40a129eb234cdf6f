"""The graphs of a bundle, on which every task runs; each is opened when it is first needed."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from internvl_edge.runtime.backends import Session, SessionOptions, open_session, require_backend
from internvl_edge.runtime.backends.session import Opener, RowLimit
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.declared_types import arrays_as_declared
from internvl_edge.runtime.bundle.manifest import ModelInfo, missing_part
from internvl_edge.runtime.bundle.modes import Mode, default_mode
from internvl_edge.runtime.bundle.preprocessor_file import load_preprocessing
from internvl_edge.runtime.bundle.tokenizer import Tokenizer
from internvl_edge.runtime.errors import BundleError, InputError
from internvl_edge.runtime.finite import FiniteOutputs
from internvl_edge.runtime.inputs.pictures.arguments import Pictures
from internvl_edge.runtime.inputs.pictures.preprocess import Geometry, preprocess
from internvl_edge.runtime.monitor import UNMONITORED, Monitor

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import ChatTokenizer

_T = TypeVar("_T")
_Opened = TypeVar("_Opened", bound="OpenedGraphs")
_Kept = TypeVar("_Kept")

BATCH_SIZE = 32
"""Most pictures or texts in one call of a graph. More are split into batches of this size."""
_TOKENIZER_FILE = "tokenizer.model"
_PAST = "past_key_values."
"""Prefix of inputs that may be empty, since a cache may hold nothing yet."""


@runtime_checkable
class Closes(Protocol):
    """A value that a task keeps with the model and that holds memory of a library until it is closed."""

    def close(self) -> None:
        """Free it."""
        ...


class OpenedGraphs:
    """An opened bundle: each graph is loaded when it is first needed. Threads may share it; `with` closes it."""

    def __init__(
        self, bundle: Bundle, backend: str | Opener, batch_size: int, options: SessionOptions | None = None
    ) -> None:
        self.bundle = bundle
        """The bundle that was opened."""
        self.preprocessing = load_preprocessing(bundle)
        """Settings of the preprocessing of pictures."""
        self.options = options or SessionOptions()
        self.batch_size = batch_size
        self._backend = backend
        self._sessions: dict[str, Session] = {}
        self._tokenizer: Tokenizer | None = None
        self._chat_tokenizer: ChatTokenizer | None = None
        self._opening = threading.Lock()
        self._outputs = FiniteOutputs()
        self._kept: dict[object, object] = {}
        self._keeping = threading.RLock()

    @classmethod
    def open(
        cls: type[_Opened],
        bundle: str | Path,
        backend: str = "auto",
        *,
        verify: bool = True,
        batch_size: int = BATCH_SIZE,
        options: SessionOptions | None = None,
    ) -> _Opened:
        """Open a bundle; with `verify` the digest of every file is compared first.

        Raises:
            BundleError: the bundle is absent, changed, or of another schema.
            BackendError: there is no such backend.
            InputError: a batch size below 1.
        """
        require_backend(backend)
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size} rows; give 1 or more")
        return cls(Bundle.open(Path(bundle), verify=verify), backend, batch_size, options)

    def __enter__(self: _Opened) -> _Opened:
        """Return the model; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free all graphs."""
        self.close()

    @property
    def info(self) -> ModelInfo:
        """Return the record of the model in the bundle's manifest."""
        return self.bundle.manifest.model

    @property
    def default_mode(self) -> Mode:
        """Return the mode of calls that name none: InternVL-G if the bundle has its graphs, else InternVL-C."""
        return default_mode(self.bundle.manifest.roles)

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the bundle's tokenizer, which is loaded when it is first needed.

        Raises:
            BundleError: it has none.
        """
        if self._tokenizer is None:
            if _TOKENIZER_FILE not in self.bundle.manifest.files:
                where = self.bundle.path
                raise BundleError(f"{where}: has no {_TOKENIZER_FILE}; export from a folder that has one, or pass ids")
            self._tokenizer = Tokenizer(self.bundle.path / _TOKENIZER_FILE)
        return self._tokenizer

    @property
    def chat_tokenizer(self) -> "ChatTokenizer":
        """Return the tokenizer of the bundle's language model, which is loaded when it is first needed.

        Raises:
            BundleError: it has none, or its files cannot be used.
        """
        if self._chat_tokenizer is None:
            from internvl_edge.runtime.bundle.chat_tokenizer.tokenizer import CHAT_TOKENIZER, open_chat_tokenizer

            if not any(name.startswith(f"{CHAT_TOKENIZER}/") for name in self.bundle.manifest.files):
                raise BundleError(
                    f"{self.bundle.path}: has no {CHAT_TOKENIZER}; export from a folder with the tokenizer of its"
                    " language model, or pass ids"
                )
            self._chat_tokenizer = open_chat_tokenizer(self.bundle.path / CHAT_TOKENIZER)
        return self._chat_tokenizer

    def required(self, value: _T | None, part: str) -> _T:
        """Return `value`, a part of the model that a task needs.

        Raises:
            BundleError: `value` is None, since the model has no such part.
        """
        if value is None:
            raise BundleError(f"{self.bundle.path}: {missing_part(self.info.layout, part)}")
        return value

    def preprocess(
        self, images: Pictures, geometry: Geometry | None = None, monitor: Monitor = UNMONITORED
    ) -> np.ndarray:
        """Return `pixel_values` ``[B, 3, S, S]`` of pictures; without a geometry they are those of `encode_image`."""
        return preprocess(images, self.preprocessing, geometry, monitor.stages)

    def session(self, graph: str) -> Session:
        """Return the opened graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        session = self._sessions.get(graph)
        if session is None:
            with self._opening:  # only one thread opens a graph
                session = self._sessions.get(graph)
                if session is None:
                    session = self._opened(graph)
                    self._sessions[graph] = session
        return session

    def run(
        self, graph: str, inputs: Mapping[str, np.ndarray], monitor: Monitor = UNMONITORED
    ) -> dict[str, np.ndarray]:
        """Run one of several graphs of a task. Its outputs keep the type that the backend computes in."""
        outputs = self.session(graph).run(inputs, stages=monitor.stages)
        self._outputs.watch(graph, outputs)
        return outputs

    def run_graph(
        self,
        graph: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
        monitor: Monitor = UNMONITORED,
    ) -> dict[str, np.ndarray]:
        """Run one graph on named arrays and return the named outputs (default: all).

        Outputs have the types that the manifest declares, also where a backend computes in wider ones. Input floats and
        integers of another width are cast. bfloat16, which NumPy lacks, is held as fp32 numbers rounded to it.

        Raises:
            BundleError: the bundle has no such graph.
            InputError: arrays that the graph does not take.
        """
        require_elements(graph, inputs)
        session = self.session(graph)
        declared = self.bundle.manifest.graphs[graph]
        given = session.run(arrays_as_declared(inputs, declared.inputs), outputs, monitor.stages)
        results = arrays_as_declared(given, declared.outputs)
        self._outputs.watch(graph, results)
        return results

    def rows(self, *graphs: str, each: int = 1) -> int:
        """Return how many pictures or texts all of `graphs` take in one call; each has `each` rows, its beams."""
        size = self.batch_size
        for graph in graphs:
            session = self.session(graph)
            if isinstance(session, RowLimit) and session.max_rows is not None:
                size = min(size, max(session.max_rows // each, 1))
        return size

    def kept(self, make: Callable[["OpenedGraphs"], _Kept]) -> _Kept:
        """Return this model's one result of `make`, which a task keeps between its calls; threads may share it.

        It is made when it is first asked for, and closed with the model.
        """
        with self._keeping:
            if make not in self._kept:
                self._kept[make] = make(self)
            found: Any = self._kept[make]
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free all graphs, and what tasks keep between calls; the next call opens them again."""
        with self._keeping:
            for each in self._kept.values():
                if isinstance(each, Closes):
                    each.close()
            self._kept.clear()
        with self._opening:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def _opened(self, graph: str) -> Session:
        if isinstance(self._backend, str):
            return open_session(self._backend, self.bundle, graph, self.options)
        return self._backend(self.bundle, graph, self.options)


def require_elements(graph: str, inputs: Mapping[str, np.ndarray]) -> None:
    """Check that no input of a graph is empty, since each backend fails in another way on inputs without rows.

    Raises:
        InputError: arrays without elements, all of them named.
    """
    empty = [
        f"{name} {list(np.shape(values))}"
        for name, values in inputs.items()
        if np.size(values) == 0 and not name.startswith(_PAST)
    ]
    if empty:
        raise InputError(f"graph {graph}: {', '.join(empty)} without elements; give one row or more")
