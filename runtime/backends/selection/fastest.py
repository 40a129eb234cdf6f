"""`auto`: of the backends that give what ONNX Runtime gives on the CPU, the one that is the fastest here."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np

from internvl_edge.runtime.backends import open_session
from internvl_edge.runtime.backends.lowering.memory import available_bytes
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
"""Every bundle was verified on it when it was exported."""

COMPARISON_SHARE = 1 / 12
"""Of free memory that the weights may take in a contest, where two sessions are open at once: ONNX Runtime holds them
twice, OpenVINO too (mapped, and packed for its kernels) but fp16, which it widens, four times over; and half of what is
free is left to others."""

_OPTIONAL = ("open_cache", "layer_times", "layer_info", "max_rows")
"""What only some sessions have: `CacheSession`, `LayerTimes`, `LayerInfo`, `RowLimit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one candidate did with the sample."""

    backend: str
    quickest_ms: float = 0.0
    """For all rows of the sample."""
    difference: float = 0.0
    """From the reference."""
    refusal: str = ""
    """Why it is out; empty if it is not."""


class SelectedSession:
    """A session that was chosen: the same in all but its settings, which tell why as ``chosen``."""

    def __init__(self, session: Session, because: str) -> None:
        self._session, self._because = session, because
        self.backend, self.inputs, self.outputs = session.backend, session.inputs, session.outputs
        self.run, self.close = session.run, session.close
        for name in _OPTIONAL:
            if hasattr(session, name):
                setattr(self, name, getattr(session, name))

    @property
    def settings(self) -> Mapping[str, str]:
        """Return what changes the meaning of a time, and why this backend runs the graph."""
        return {**self._session.settings, "chosen": self._because}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """What a session is opened for."""

    bundle: Bundle
    graph: str
    options: SessionOptions

    @property
    def largest_difference(self) -> float:
        """Return how far a backend may be from the reference."""
        largest = PRECISIONS[self.bundle.manifest.precision].largest_difference
        return max(largest, PRECISIONS["bf16"].largest_difference) if self.options.bf16 else largest

    def open(self, backend: str) -> Session:
        """Return a new session of `backend`."""
        return open_session(backend, self.bundle, self.graph, self.options)


def open_fastest(bundle: Bundle, graph: str, options: SessionOptions) -> Session:
    """Open `graph` with the backend that was found to be the fastest here; its settings tell why as ``chosen``.

    The first time the candidates are measured, and the decision is kept for later.

    Raises:
        BundleError: the bundle has no such graph.
        BackendError: no backend is installed, or none opens the graph.
    """
    bundle.require(graph)
    request = OpenRequest(bundle=bundle, graph=graph, options=options)
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
    """Return why nothing is measured; empty if something is."""
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
        BackendError: none does, each with its reason.
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
    """Return a session of the backend that was, or now is, found to be the fastest.

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
    except EdgeError as error:  # of the reference
        return _first(request, candidates, f"the first that opens; nothing to compare with: {error}")
    write_decision(key, decision)
    return session, decision


def _reopened(request: OpenRequest, decision: Decision | None, candidates: Sequence[Candidate]) -> Session | None:
    """Return a session of the backend of an earlier decision; None where there is none, or it does not open."""
    if decision is None or decision.backend not in {candidate.backend for candidate in candidates}:
        return None
    try:
        return request.open(decision.backend)
    except EdgeError as error:
        logger.warning("%s: %s was chosen earlier but does not open now: %s", request.graph, decision.backend, error)
        return None


def _compare(request: OpenRequest, candidates: Sequence[Candidate]) -> tuple[Session, Decision]:
    """Return the fastest session of those that are equal to the reference; at most two are open at once.

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
    return best, Decision(backend=fastest.backend, because=sentence(fastest, trials, row_count(sample)))


def _try(
    request: OpenRequest, backend: str, sample: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[Session | None, Trial]:
    """Return a session that may win and its trial; no session where `backend` refuses or its outputs differ."""
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


def sentence(fastest: Trial, trials: Sequence[Trial], rows: int) -> str:
    """Return the decision in one line: ``openvino 12.3 ms (onnxruntime 20.1 ms; 8 rows; equal within 3e-06)``."""
    others = [trial for trial in trials if trial is not fastest]
    notes = [", ".join(f"{trial.backend} {trial.quickest_ms:.1f} ms" for trial in others if not trial.refusal)]
    notes += [f"{rows} rows"] if rows > 1 else []
    notes += [f"equal within {fastest.difference:.0e}"] if fastest.backend != REFERENCE else []
    notes += [f"{trial.backend} {trial.refusal}" for trial in others if trial.refusal]
    return f"{fastest.backend} {fastest.quickest_ms:.1f} ms ({'; '.join(note for note in notes if note)})"


def _facts(request: OpenRequest, candidates: Sequence[Candidate]) -> dict[str, object]:
    """Return all that a decision depends on."""
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
    """Return the size of the weight files beside the graph, which share them: an upper bound of its own."""
    manifest = request.bundle.manifest
    folder = PurePosixPath(manifest.graphs[request.graph].file).parent
    return sum(
        info.bytes
        for name, info in manifest.files.items()
        if PurePosixPath(name).parent == folder and not name.endswith(".onnx")
    )
