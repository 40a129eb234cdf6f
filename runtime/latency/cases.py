"""What can be measured of a bundle: each graph alone, and whole requests over several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from internvl_edge.runtime.backends.graph_inputs import graph_inputs, sizes_of
from internvl_edge.runtime.backends.session import Session
from internvl_edge.runtime.bundle.modes import MODE_GRAPHS
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.measure.measure import Case, Opened
from internvl_edge.runtime.latency.measure.streams import Work
from internvl_edge.runtime.latency.samples import HEIGHT, WIDTH, texts, write_pictures
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import Stages

TASKS = ("image", "text", "caption")
SEED = 20231222
CAPTION_IDS = 16
"""Every caption is made to have as many, so that calls do equal work."""
_TRANSFERS = {"copies to and from the device": "in each call"}
ON_PROCESSOR = ("onnxruntime", "openvino")
"""Backends on the processor, where nothing is copied."""
"""As in trtexec without --noDataTransfers: a session takes and gives arrays of the host."""
_PHASES = {"decoder": ("prompt", "step")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the user wants to have measured; both None: all that the bundle can."""

    graphs: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    batches: Sequence[int] = (1,)
    streams: int = 1


def cases_of(model: InternVL, chosen: Chosen, folder: Path) -> list[Case]:
    """Return the cases in the order of the bundle's graphs, requests last; pictures are written into `folder`.

    Raises:
        InputError: an unknown task.
        BundleError: the bundle lacks a graph that was asked for.
    """
    if unknown := [task for task in chosen.tasks or () if task not in TASKS]:
        raise InputError(f"task {', '.join(unknown)}: unknown; choose from {', '.join(TASKS)}")
    everything = chosen.graphs is None and chosen.tasks is None
    graphs = tuple(model.bundle.manifest.graphs) if everything else tuple(chosen.graphs or ())
    model.bundle.require(*graphs)
    tasks = possible_tasks(model) if everything else tuple(chosen.tasks or ())
    for task in tasks:
        model.bundle.require(*_graphs_of(model, task))
    return [
        *(
            _graph_case(model, graph, phase, batch, chosen.streams)
            for batch in chosen.batches
            for graph in graphs
            for phase in _PHASES.get(graph, ("",))
        ),
        *(_task_case(model, task, batch, chosen.streams, folder) for batch in chosen.batches for task in tasks),
    ]


def possible_tasks(model: InternVL) -> tuple[str, ...]:
    """Return the tasks for which the bundle has graphs and, where they need one, a tokenizer."""
    manifest = model.bundle.manifest
    tokenizer = any(name.startswith("tokenizer.") for name in manifest.files)
    return tuple(
        task
        for task in TASKS
        if set(_graphs_of(model, task)) <= set(manifest.graphs)
        and (task == "image" or tokenizer)
        and (task != "image" or manifest.model.embed_dim is not None)
    )


def layer_inputs(model: InternVL, graph: str, phase: str, batch: int) -> dict[str, np.ndarray]:
    """Return the arrays that the case of this graph is measured with."""
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

        return Opened(works=[call] * streams, settings=_settings([session]))

    info = model.info
    sizes = sizes_of(graph, phase, info, batch)
    shape = {
        "vision": f"{batch} x 3 x {info.vision.image_size} x {info.vision.image_size}",
        "query": f"{batch} x {info.vision.tokens} vision tokens",
        "text": f"{batch} x {sizes.length} ids",
        "itm": f"{batch} x ({info.vision.tokens} vision tokens, {sizes.length} ids)",
        "decoder": f"{batch} x {sizes.length} ids on a cache of {sizes.past}",
    }.get(graph, f"{batch} rows")
    return Case(name=f"{graph} {phase}".strip(), graph=graph, phase=phase, batch=batch, shape=shape, open=open_graph)


def _close(model: InternVL, batch: int) -> None:
    """Free the graphs; the next ones are opened for calls of `batch`."""
    model.close()
    model.options = replace(model.options, rows=batch)


def _task_case(model: InternVL, task: str, batch: int, streams: int, folder: Path) -> Case:
    def open_task() -> Opened:
        _close(model, batch)
        sessions = [model.session(graph) for graph in _graphs_of(model, task)]
        return Opened(works=list(_task_works(model, task, batch, streams, folder)), settings=_settings(sessions))

    shape = {
        "image": f"{batch} JPEG of {WIDTH} x {HEIGHT} to features",
        "text": f"{batch} texts of 10 words to features",
        "caption": f"{batch} JPEG of {WIDTH} x {HEIGHT} to captions of {CAPTION_IDS} ids",
    }[task]
    return Case(name=f"request {task}", graph="", phase="", batch=batch, shape=shape, open=open_task)


def _task_works(model: InternVL, task: str, batch: int, streams: int, folder: Path) -> Iterator[Work]:
    """Yield one request for each stream; they share the opened graphs and have stages of their own."""
    rng = np.random.default_rng(SEED)
    sentences = texts(batch, rng)
    pictures = [] if task == "text" else write_pictures(folder, batch, rng)
    for _ in range(streams):
        yield _request(model, task, pictures, sentences)


def _request(model: InternVL, task: str, pictures: Sequence[Path], sentences: Sequence[str]) -> Work:
    def call(stages: Stages) -> None:
        monitor = Monitor(stages=stages)
        if task == "image":
            model.encode_image(pictures, model.default_mode, monitor)
        elif task == "text":
            model.encode_text(sentences, monitor)
        else:
            model.caption(pictures, min_new_tokens=CAPTION_IDS, max_new_tokens=CAPTION_IDS, monitor=monitor)

    return call


def _settings(sessions: Sequence[Session]) -> dict[str, str]:
    """Return the settings of all sessions; where they differ, each value once."""
    found: dict[str, list[str]] = {}
    for session in sessions:
        for name, value in {"backend": session.backend, **session.settings}.items():
            found.setdefault(name, []).append(value)
    copied = _TRANSFERS if any(session.backend not in ON_PROCESSOR for session in sessions) else {}
    return {name: " and ".join(dict.fromkeys(values)) for name, values in found.items()} | copied


def _graphs_of(model: InternVL, task: str) -> tuple[str, ...]:
    if task == "image":
        return MODE_GRAPHS[model.default_mode]
    return ("text",) if task == "text" else ("vision", "query", "decoder")
