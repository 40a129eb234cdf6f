"""Block by block, all graphs side by side, samples get the values that each graph gives them on its own."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from internvl_edge.calib.data.inputs import CalibrationInputs
from internvl_edge.export.blockwise.block_outputs import run_torch_blocks
from internvl_edge.export.blockwise.forward import TorchBlockwiseForward
from internvl_edge.export.check.graph_inputs import GraphInputs
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.models.internvl import InternVLModel
from tests.unit.export.models.test_graphs import CONFIG, QLLAMA, TOWER

TEXTS = np.array([[1, 5, 9, 2], [1, 8, 2, 0], [1, 2, 0, 0]])
PAIRS, CAPTIONS = np.array([[1, 7, 2], [1, 2, 0]]), np.array([[1, 4, 6, 2], [1, 9, 3, 2]])
MEASURED = tuple(name for name, row in graph_rows(CONFIG).items() if row.quantized)


class Weights:
    """Seeded weights for every parameter and table, by official name."""

    def __init__(self) -> None:
        with torch.device("meta"):
            model = InternVLModel(CONFIG)
        generator = torch.Generator().manual_seed(0)
        named = sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0])
        self._values = {name: 0.2 * torch.randn(value.shape, generator=generator) for name, value in named}

    def __call__(self, name: str, target: Tensor) -> None:
        target.copy_(self._values[name])


class Recorder:
    """Keeps what leaves each block, graph by graph."""

    def __init__(self) -> None:
        self.left: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self.linears: dict[str, set[str]] = defaultdict(set)
        self.valid: dict[str, Tensor | None] = {}
        self._graph = ""

    def enter(self, graph: str, samples: int, valid: Tensor | None) -> None:
        self._graph = graph
        self.valid[graph] = valid

    def linear(self, path: str, x: Tensor) -> None:
        self.linears[self._graph].add(path)

    def attention(self, path: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None: ...

    def leave(self, path: str, x: Tensor) -> None:
        self.left[self._graph][path].append(x.clone())


def run_all(graphs: tuple[str, ...], inputs: CalibrationInputs) -> tuple[TorchBlockwiseForward, Recorder]:
    """Return a forward that is done, and what was seen."""
    forward, seen = TorchBlockwiseForward(CONFIG, Weights(), inputs, graphs, torch.float32), Recorder()
    while forward.position < len(forward.blocks):
        forward.step(seen)
    return forward, seen


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 56, 56)).astype(np.float32)


def alone(graph: str, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what leaves the blocks of a graph that runs on its own, and its outputs."""
    row = graph_rows(CONFIG)[graph]
    feeder = row.fed_by
    fed = alone(feeder, pixels)[1] if feeder is not None else {}
    samples = GraphInputs(pixel_values=pixels, text_ids=TEXTS, match_ids=PAIRS, prompt_ids=CAPTIONS)
    found: dict[str, np.ndarray] = {}
    run_torch_blocks(graph, CONFIG, samples.of(row, row.input_shapes(CONFIG), fed), Weights(), (), found.__setitem__)
    blocks = {path: value for path, value in found.items() if "layers." in path}
    return blocks, {name: value for name, value in found.items() if name not in blocks}


def test_every_graph_gets_the_values_that_it_has_alone(pixels: np.ndarray) -> None:
    inputs = CalibrationInputs(pixel_values=pixels, text_ids=TEXTS, caption_ids=CAPTIONS, match_ids=PAIRS)
    forward, seen = run_all(MEASURED, inputs)
    assert len(forward.blocks) == TOWER.num_layers + QLLAMA.num_layers + 1
    for graph in MEASURED:
        expected, _ = alone(graph, pixels)
        assert list(seen.left[graph]) == list(expected)
        kept = seen.valid[graph]
        rows = kept.numpy() if kept is not None else np.ones(expected[next(iter(expected))].shape[:2], bool)
        for path, value in expected.items():
            (found,) = seen.left[graph][path]
            np.testing.assert_allclose(
                found.numpy()[rows], value[rows], rtol=1e-4, atol=1e-4, err_msg=f"{graph} {path}"
            )


def test_padding_is_told_and_queries_count(pixels: np.ndarray) -> None:
    inputs = CalibrationInputs(pixel_values=pixels, text_ids=TEXTS, caption_ids=CAPTIONS, match_ids=PAIRS)
    _, seen = run_all(MEASURED, inputs)
    sums = {name: None if valid is None else valid.sum(dim=1).tolist() for name, valid in seen.valid.items()}
    queries = QLLAMA.num_queries
    assert sums == {
        "vision": None,
        "query": None,
        "text": [4, 3, 2],
        "decoder": [4, 4],
        "itm": [queries + 3, queries + 2],
    }


def test_the_head_is_heard_of_the_decoder_alone(pixels: np.ndarray) -> None:
    inputs = CalibrationInputs(pixel_values=pixels, text_ids=TEXTS, caption_ids=CAPTIONS, match_ids=PAIRS)
    _, seen = run_all(MEASURED, inputs)
    assert [graph for graph, paths in seen.linears.items() if "qllama.lm_head" in paths] == ["decoder"]


def test_a_graph_alone_brings_the_one_whose_cache_it_reads(pixels: np.ndarray) -> None:
    _, seen = run_all(("decoder",), CalibrationInputs(pixel_values=pixels, caption_ids=CAPTIONS))
    assert sorted(seen.left) == ["decoder", "query", "vision"]


def test_without_ids_only_pictures_pass(pixels: np.ndarray) -> None:
    forward, seen = run_all(("vision", "text"), CalibrationInputs(pixel_values=pixels))
    assert sorted(seen.left) == ["vision"]
    assert len(forward.blocks) == TOWER.num_layers


def test_a_walk_goes_on_where_another_was_stopped(pixels: np.ndarray) -> None:
    inputs = CalibrationInputs(pixel_values=pixels, text_ids=TEXTS)
    whole, _ = run_all(("vision", "text"), inputs)
    first, second = (
        TorchBlockwiseForward(CONFIG, Weights(), inputs, ("vision", "text"), torch.float32) for _ in range(2)
    )
    for _ in range(TOWER.num_layers + 1):
        first.step(Recorder())
    second.resume(first.position, {name: value.clone() for name, value in first.states.items()})
    while second.position < len(second.blocks):
        second.step(Recorder())
    assert second.states.keys() == whole.states.keys()
    assert all(torch.equal(second.states[name], whole.states[name]) for name in whole.states)
