"""The cases of a bundle that can be measured: each graph alone, and whole requests over several graphs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from internvl_edge.runtime.backends.graph_inputs import Sizes, graph_inputs, sizes_of
from internvl_edge.runtime.backends.session import Session
from internvl_edge.runtime.bundle.graph_roles import ROW_WORDS, TEXT_ENCODER
from internvl_edge.runtime.bundle.manifest import GraphInfo, ModelInfo
from internvl_edge.runtime.bundle.modes import MODE_ROLES
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.measure.measure import Case, Opened
from internvl_edge.runtime.latency.measure.streams import Workload
from internvl_edge.runtime.latency.samples import HEIGHT, WIDTH, texts, write_pictures
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import Stages
from internvl_edge.runtime.tasks.captions import ROLES as CAPTION_ROLES

SEED = 20231222
"""Seed of all sampled inputs."""
CAPTION_IDS = 16
"""Number of tokens of every measured caption, so that all calls do equal work."""
_TRANSFERS = {"copies to and from the device": "in each call"}
"""Setting of sessions on a device: they take and return arrays in host memory, as trtexec without --noDataTransfers."""
ON_PROCESSOR = ("onnxruntime", "openvino")
"""Backends on the processor, which need no copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One kind of whole requests."""

    roles: Callable[[InternVL], tuple[str, ...]]
    """Function that returns the roles of the graphs that the request uses."""
    takes: str
    """Description of inputs and outputs of one call; the number of rows is written before it."""
    call: Callable[[InternVL, Sequence[Path], Sequence[str], Monitor], object]
    """Function that runs the request on pictures or on texts."""
    rows: str = "pictures"
    """Name of the rows of a batch."""
    tokenizer: bool = True
    """Whether it needs the bundle's tokenizer."""


def _encode_image(model: InternVL, pictures: Sequence[Path], sentences: Sequence[str], monitor: Monitor) -> object:
    return model.encode_image(pictures, model.default_mode, monitor)


def _encode_text(model: InternVL, pictures: Sequence[Path], sentences: Sequence[str], monitor: Monitor) -> object:
    return model.encode_text(sentences, monitor)


def _caption(model: InternVL, pictures: Sequence[Path], sentences: Sequence[str], monitor: Monitor) -> object:
    return model.caption(pictures, min_new_tokens=CAPTION_IDS, max_new_tokens=CAPTION_IDS, monitor=monitor)


_REQUESTS = {
    "image": _Request(
        roles=lambda model: MODE_ROLES[model.default_mode],
        takes=f"JPEG of {WIDTH} x {HEIGHT} to features",
        call=_encode_image,
        tokenizer=False,
    ),
    "text": _Request(
        roles=lambda model: (TEXT_ENCODER,), takes="texts of 10 words to features", call=_encode_text, rows="texts"
    ),
    "caption": _Request(
        roles=lambda model: CAPTION_ROLES,
        takes=f"JPEG of {WIDTH} x {HEIGHT} to captions of {CAPTION_IDS} ids",
        call=_caption,
    ),
}
TASKS = tuple(_REQUESTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSelection:
    """Selection of cases by the user; with both `graphs` and `tasks` None: all cases of the bundle."""

    graphs: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    batches: Sequence[int] = (1,)
    streams: int = 1


def cases_of(model: InternVL, chosen: CaseSelection, folder: Path) -> list[Case]:
    """Return the cases in the order of the bundle's graphs, requests last; pictures are written into `folder`.

    Raises:
        InputError: A task is not known.
        BundleError: The bundle lacks a selected graph.
    """
    if unknown := [task for task in chosen.tasks or () if task not in TASKS]:
        raise InputError(f"task {', '.join(unknown)}: unknown; choose from {', '.join(TASKS)}")
    everything = chosen.graphs is None and chosen.tasks is None
    graphs = tuple(model.bundle.manifest.graphs) if everything else tuple(chosen.graphs or ())
    model.bundle.require(*graphs)
    tasks = possible_tasks(model) if everything else tuple(chosen.tasks or ())
    for task in tasks:
        model.bundle.graphs_of(*_REQUESTS[task].roles(model))
    return [
        *(
            _graph_case(model, graph, phase, batch, chosen.streams)
            for batch in chosen.batches
            for graph in graphs
            for phase in model.bundle.manifest.graphs[graph].use.phases or ("",)
        ),
        *(_task_case(model, task, batch, chosen.streams, folder) for batch in chosen.batches for task in tasks),
    ]


def possible_tasks(model: InternVL) -> tuple[str, ...]:
    """Return the tasks for which the bundle has all graphs and, if needed, a tokenizer."""
    manifest = model.bundle.manifest
    tokenizer = any(name.startswith("tokenizer.") for name in manifest.files)
    return tuple(
        task
        for task in TASKS
        if manifest.roles.issuperset(_REQUESTS[task].roles(model))
        and (tokenizer or not _REQUESTS[task].tokenizer)
        and (task != "image" or manifest.model.embed_dim is not None)
    )


def layer_inputs(model: InternVL, graph: str, phase: str, batch: int) -> dict[str, np.ndarray]:
    """Return the inputs with which the case of this graph is measured."""
    manifest = model.bundle.manifest
    return graph_inputs(
        graph,
        model.session(graph).inputs,
        manifest.graphs[graph].inputs,
        manifest.model,
        sizes_of(graph, phase, manifest.model, batch),
        np.random.default_rng(SEED),
    )


def _graph_case(model: InternVL, graph: str, phase: str, batch: int, streams: int) -> Case:
    def open_graph() -> Opened:
        _close(model, batch)
        session = model.session(graph)
        inputs = layer_inputs(model, graph, phase, batch)

        def call(stages: Stages) -> None:
            session.run(inputs, stages=stages)

        return Opened(workloads=[call] * streams, settings=_settings([session]))

    info = model.bundle.manifest.graphs[graph]
    return Case(
        name=f"{graph} {phase}".strip(),
        graph=graph,
        phase=phase,
        batch=batch,
        shape=f"{batch} {_shape(info, model.info, sizes_of(graph, phase, model.info, batch))}",
        rows=ROW_WORDS[info.use.rows],
        open=open_graph,
    )


def _shape(info: GraphInfo, model: ModelInfo, sizes: Sizes) -> str:
    """Return a description of one row of a graph's inputs."""
    side = model.vision.image_size
    words = {
        "pixel_values": f"3 x {side} x {side}",
        "vision_states": f"{model.vision.tokens} vision tokens",
        "input_ids": f"{sizes.length} ids",
    }
    found = [words[spec.name] for spec in info.inputs if spec.name in words]
    if not found:
        return "rows"
    row = found[0] if len(found) == 1 else f"({', '.join(found)})"
    return f"x {row} on a cache of {sizes.past}" if info.use.phases else f"x {row}"


def _close(model: InternVL, batch: int) -> None:
    """Close all graphs; the next ones are opened for calls of `batch` rows."""
    model.close()
    model.options = replace(model.options, rows=batch)


def _task_case(model: InternVL, task: str, batch: int, streams: int, folder: Path) -> Case:
    request = _REQUESTS[task]

    def open_task() -> Opened:
        _close(model, batch)
        sessions = [model.session(graph) for graph in model.bundle.graphs_of(*request.roles(model))]
        return Opened(workloads=list(_workloads(model, request, batch, streams, folder)), settings=_settings(sessions))

    return Case(
        name=f"request {task}",
        graph="",
        phase="",
        batch=batch,
        shape=f"{batch} {request.takes}",
        rows=request.rows,
        open=open_task,
    )


def _workloads(model: InternVL, request: _Request, batch: int, streams: int, folder: Path) -> Iterator[Workload]:
    """Yield one workload for each stream; they share the opened graphs, and each records stages of its own."""
    rng = np.random.default_rng(SEED)
    sentences = texts(batch, rng)
    pictures = write_pictures(folder, batch, rng) if request.rows == "pictures" else []

    def call(stages: Stages) -> None:
        request.call(model, pictures, sentences, Monitor(stages=stages))

    for _ in range(streams):
        yield call


def _settings(sessions: Sequence[Session]) -> dict[str, str]:
    """Return the settings of all sessions; different values of one setting are joined, each once."""
    found: dict[str, list[str]] = {}
    for session in sessions:
        for name, value in {"backend": session.backend, **session.settings}.items():
            found.setdefault(name, []).append(value)
    copied = _TRANSFERS if any(session.backend not in ON_PROCESSOR for session in sessions) else {}
    return {name: " and ".join(dict.fromkeys(values)) for name, values in found.items()} | copied
