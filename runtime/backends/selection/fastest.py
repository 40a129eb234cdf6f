"""Open the fastest backend for a graph on this machine among those whose outputs equal ONNX Runtime's on the CPU."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from internvl_edge.runtime.backends.lowering.memory import available_bytes
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.selection.candidates import Candidate, find_candidates
from internvl_edge.runtime.backends.selection.decisions import Decision, decision_key, read_decision, write_decision
from internvl_edge.runtime.backends.selection.trials import (
    affordable_inputs,
    difference,
    fitting_inputs,
    quickest_ms,
    row_count,
)
from internvl_edge.runtime.backends.session import Session, SessionOptions
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.engines import weight_digests
from internvl_edge.runtime.errors import BackendError, EdgeError
from internvl_edge.runtime.numbers.formats import PRECISIONS

logger = logging.getLogger(__name__)

REFERENCE = "onnxruntime"
"""Backend that outputs are compared with, since every bundle was verified on it when it was exported."""

COMPARISON_SHARE = 1 / 12
"""Largest share of free memory that the weights may have for a comparison, in which two sessions are open at once. ONNX
Runtime holds weights twice. OpenVINO holds them twice too (mapped, and packed for its kernels), but fp16 weights, which
it widens, four times. Half of the free memory is left to others."""

OpenSession = Callable[[str, Bundle, str, SessionOptions], Session]
"""Function that opens a graph of a bundle with the backend of a name."""

_OPTIONAL = ("open_cache", "layer_times", "layer_info", "max_rows")
"""Members that only some sessions have, those of `CacheSession`, `LayerTimes`, `LayerInfo` and `RowLimit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Result of one candidate on the sample inputs."""

    backend: str
    quickest_ms: float = 0.0
    """Shortest time of a call with all rows of the sample, in milliseconds."""
    difference: float = 0.0
    """Difference of the outputs from the reference's."""
    refusal: str = ""
    """Reason why the candidate is excluded; empty if it is not."""


class SelectedSession:
    """A session that `auto` selected, whose settings contain the reason as ``chosen``."""

    def __init__(self, session: Session, because: str) -> None:
        self._session, self._because = session, because
        self.backend, self.inputs, self.outputs = session.backend, session.inputs, session.outputs
        self.run, self.close = session.run, session.close
        for name in _OPTIONAL:
            if hasattr(session, name):
                setattr(self, name, getattr(session, name))

    @property
    def settings(self) -> Mapping[str, str]:
        """Return the settings of the session, and why its backend was selected."""
        return {**self._session.settings, "chosen": self._because}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A graph to open, with its bundle and options."""

    bundle: Bundle
    graph: str
    options: SessionOptions
    open_session: OpenSession

    @property
    def largest_difference(self) -> float:
        """Return the largest difference from the reference that a backend's outputs may have."""
        largest = PRECISIONS[self.bundle.manifest.precision].largest_difference
        return max(largest, PRECISIONS["bf16"].largest_difference) if self.options.bf16 else largest

    def open(self, backend: str) -> Session:
        """Return a new session of `backend`."""
        return self.open_session(backend, self.bundle, self.graph, self.options)


def open_fastest(bundle: Bundle, graph: str, options: SessionOptions, open_session: OpenSession) -> Session:
    """Open `graph` with the backend that was measured to be the fastest; its settings give the reason as ``chosen``.

    The candidates are opened by `open_session` and measured the first time, and the decision is stored.

    Raises:
        BundleError: the bundle has no such graph.
        BackendError: no backend is installed, or none opens the graph.
    """
    bundle.require(graph)
    request = OpenRequest(bundle=bundle, graph=graph, options=options, open_session=open_session)
    candidates = find_candidates(bundle, options)
    if not candidates:
        raise BackendError("backend auto: no library that runs graphs is installed; pip install 'internvl-edge[cpu]'")
    if reason := _why_not_compared(request, candidates):
        session, decision = _first(request, candidates, reason)
    else:
        session, decision = _fastest(request, candidates)
    logger.info("%s: %s", graph, decision.because)
    return SelectedSession(session, decision.because)


def _why_not_compared(request: OpenRequest, candidates: Sequence[Candidate]) -> str:
    """Return the reason why no candidates are compared; empty if they are."""
    if len(candidates) == 1:
        return "the only one here"
    if REFERENCE not in {candidate.backend for candidate in candidates}:
        return f"the first that opens; without {REFERENCE} nothing is compared"
    weights, free = _weight_bytes(request), available_bytes()
    if free is not None and weights > COMPARISON_SHARE * free:
        return f"the first that opens; {weights / 1e9:.1f} GB of weights leave no memory for a comparison"
    return ""


def _first(request: OpenRequest, candidates: Sequence[Candidate], reason: str) -> tuple[Session, Decision]:
    """Return a session of the first candidate that opens the graph.

    Raises:
        BackendError: none does; the message has the reason of each.
    """
    refusals = []
    for candidate in candidates:
        try:
            session = request.open(candidate.backend)
        except EdgeError as error:
            logger.info("%s: %s is out: %s", request.graph, candidate.backend, error)
            refusals.append(error)
        else:
            return session, Decision(backend=candidate.backend, because=f"{candidate.backend} ({reason})")
    raise BackendError("; ".join(map(str, refusals))) from refusals[0]


def _fastest(request: OpenRequest, candidates: Sequence[Candidate]) -> tuple[Session, Decision]:
    """Return a session of the fastest backend, by a stored decision or by a comparison.

    Raises:
        BackendError: no candidate opens the graph.
    """
    key = decision_key(_facts(request, candidates))
    decision = read_decision(key)
    session = _reopened(request, decision, candidates)
    if decision is not None and session is not None:
        return session, decision
    try:
        session, decision = _compare(request, candidates)
    except EdgeError as error:  # the reference failed
        return _first(request, candidates, f"the first that opens; nothing to compare with: {error}")
    write_decision(key, decision)
    return session, decision


def _reopened(request: OpenRequest, decision: Decision | None, candidates: Sequence[Candidate]) -> Session | None:
    """Return a session of the backend of a stored decision; None where there is none, or it does not open."""
    if decision is None or decision.backend not in {candidate.backend for candidate in candidates}:
        return None
    try:
        return request.open(decision.backend)
    except EdgeError as error:
        logger.warning("%s: %s was chosen earlier but does not open now: %s", request.graph, decision.backend, error)
        return None


def _compare(request: OpenRequest, candidates: Sequence[Candidate]) -> tuple[Session, Decision]:
    """Return the fastest session among those with the reference's outputs; at most two are open at once.

    Raises:
        EdgeError: the reference does not open the graph, or does not run it.
    """
    best = request.open(REFERENCE)
    sample = affordable_inputs(request.bundle, request.graph, best, request.options.rows)
    expected = best.run(sample)
    fastest = Trial(backend=REFERENCE, quickest_ms=quickest_ms(best, sample, request.bundle.manifest.model))
    trials = [fastest]
    for candidate in candidates:
        if candidate.backend == REFERENCE:
            continue
        session, trial = _try(request, candidate.backend, sample, expected)
        trials.append(trial)
        if session is not None and trial.quickest_ms < fastest.quickest_ms:
            best, fastest, session = session, trial, best
        if session is not None:
            session.close()
    return best, Decision(backend=fastest.backend, because=decision_text(fastest, trials, row_count(sample)))


def _try(
    request: OpenRequest, backend: str, sample: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[Session | None, Trial]:
    """Return a session and its trial; None for a session where `backend` refuses or its outputs differ."""
    session = None
    try:
        session = request.open(backend)
        fitting = fitting_inputs(session, sample)
        rows = row_count(fitting)
        found = difference(session.run(fitting), {name: values[:rows] for name, values in expected.items()})
        if found <= request.largest_difference:
            taken_ms = quickest_ms(session, fitting, request.bundle.manifest.model) * row_count(sample) / rows
            return session, Trial(backend=backend, quickest_ms=taken_ms, difference=found)
        refusal = f"differs by {found:.0e}"
    except EdgeError as error:
        logger.info("%s: %s is out: %s", request.graph, backend, error)
        refusal = "does not run it"
    if session is not None:
        session.close()
    return None, Trial(backend=backend, refusal=refusal)


def decision_text(fastest: Trial, trials: Sequence[Trial], rows: int) -> str:
    """Return the decision in one line: ``openvino 12.3 ms (onnxruntime 20.1 ms; 8 rows; equal within 3e-06)``."""
    others = [trial for trial in trials if trial is not fastest]
    notes = [", ".join(f"{trial.backend} {trial.quickest_ms:.1f} ms" for trial in others if not trial.refusal)]
    notes += [f"{rows} rows"] if rows > 1 else []
    notes += [f"equal within {fastest.difference:.0e}"] if fastest.backend != REFERENCE else []
    notes += [f"{trial.backend} {trial.refusal}" for trial in others if trial.refusal]
    return f"{fastest.backend} {fastest.quickest_ms:.1f} ms ({'; '.join(note for note in notes if note)})"


def _facts(request: OpenRequest, candidates: Sequence[Candidate]) -> dict[str, object]:
    """Return all facts that a decision depends on."""
    manifest = request.bundle.manifest
    return {
        "graph": manifest.files[manifest.graphs[request.graph].file].sha256,
        "weights": weight_digests(request.bundle),
        "precision": manifest.precision,
        "candidates": [asdict(candidate) for candidate in candidates],
        "options": asdict(request.options),
        "machine": _machine(),
    }


@cache
def _machine() -> Mapping[str, str]:
    from internvl_edge.runtime.backends.selection.conditions import host_conditions

    return host_conditions()


def _weight_bytes(request: OpenRequest) -> int:
    """Return the bytes of the graph's own weights; those of other graphs may lie in the same files."""
    path = request.bundle.graph_file(request.graph)
    return OnnxModel(path.read_bytes(), path.parent).weight_bytes()
