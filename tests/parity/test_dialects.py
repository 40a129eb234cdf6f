"""Every graph in every dialect against the canonical one on ONNX Runtime, and through TensorRT-RTX's parser."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from internvl_edge.export.dialects import FEWEST_LAUNCHES_8_BITS, PORTABLE, Dialect, lower
from internvl_edge.runtime.bundle.bundle import Bundle
from tests.exports import Exports

SAME_GRAPH_RELATIVE = 1e-5
"""Of the largest value of an output in fp32: the same operations in another order left 2e-6 at most when measured."""
NO_FURTHER = 1.1
"""Distance to fp32: a quantized graph in a dialect over the canonical one. Where last bits differ, a value on
the border of two codes falls to the other one, and the next layers follow: the noise is another, but not more."""

DIALECTS = {
    "op": Dialect(),
    "pattern": Dialect(attention="pattern"),
    "together": Dialect(attention="pattern", heads="together"),
    "joined": Dialect(attention="pattern", heads="joined"),
    "joined op": Dialect(heads="joined"),
    "joined 8 bits": Dialect(attention="pattern", heads="joined", values="with keys"),
    "keys": Dialect(attention="pattern", scale="keys"),
    "gain": Dialect(attention="pattern", scale="gain", keys="twice", qkv="slices"),
    "plugin": replace(FEWEST_LAUNCHES_8_BITS, attention="plugin"),
    "portable": PORTABLE,
}
SHIPPED = ("joined 8 bits", "plugin", "portable")
"""What `dialect_for` gives: these are tried on 8-bit graphs, too."""
GRAPHS = ("vision", "query", "text", "decoder", "itm")
EXAMPLE_SIZES = {"batch": 2, "texts": 2, "length": 5, "past": 11, "total": 16}
"""total = past + length."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Sequence[str]], dict[str, Path]]:
    """Copy a bundle, since graphs are written beside its own, and return the files of some graphs."""

    def copied(folder: Path, graphs: Sequence[str]) -> dict[str, Path]:
        bundle = Bundle.open(shutil.copytree(folder, tmp_path_factory.mktemp("own") / "bundle"))
        return {name: bundle.graph_file(name) for name in graphs}

    return copied


@pytest.fixture(scope="module")
def demo(
    own: Callable[[Path, Sequence[str]], dict[str, Path]], exports: Exports, emoji: Path
) -> Callable[[str], dict[str, Path]]:
    """The demo's graphs; ranges of few samples do, since both sides read the same scales."""

    @cache
    def graphs(precision: str) -> dict[str, Path]:
        checkpoint, data = emoji / "checkpoint", emoji / "data"
        if precision == "fp32":
            return own(exports.bundle(checkpoint, dtype="fp32", samples=data / "test.jsonl"), GRAPHS)
        ranges = exports.ranges(checkpoint, data=str(data / "calibration.jsonl"), sample_count=16)
        settings = {"dtype": "fp32", "gate_samples": 0, "method": "max", "smooth": "off"}
        return own(exports.bundle(checkpoint, precision=precision, ranges=ranges, **settings), GRAPHS)

    return graphs


@pytest.fixture(scope="module")
def chat_graphs(
    own: Callable[[Path, Sequence[str]], dict[str, Path]], exports: Exports, golden_b: Path
) -> dict[str, Path]:
    return own(
        exports.bundle(golden_b / "checkpoint_chat", dtype="fp32", graphs=("vision", "connector")),
        ("vision", "connector"),
    )


def feeds(model: ir.Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random inputs; one row of a text ends early, and one cached row does not count."""
    found: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else EXAMPLE_SIZES[str(dim.value)] for dim in value.shape]
        if value.name == "input_ids":
            array: np.ndarray = rng.integers(3, 60, shape)
            array[0, -1:] = 0
        elif value.name == "attention_mask":
            array = np.ones(shape)
            array[0, 2] = 0
        elif value.name == "position_ids":
            array = np.tile(np.arange(shape[1]) + EXAMPLE_SIZES["past"], (shape[0], 1))
        else:
            array = rng.standard_normal(shape)
        found[str(value.name)] = array.astype(value.dtype.numpy())
    return found


def run(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of the graph as it is written: ONNX Runtime would fuse both sides to the same kernels."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)  # type: ignore[no-any-return]


def lowered(path: Path, name: str) -> Path:
    """Write the graph at `path` in dialect `name` beside it, where its weights are."""
    model = lower(ir.load(path), DIALECTS[name])
    written = path.with_name(f"{path.stem}.{name}.onnx")
    ir.save(model, written)
    return written


def compared(path: Path, dialect: str, inputs: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return every output of the canonical graph and of the one in `dialect`."""
    names = output_names(path)
    pairs = zip(run(path, inputs), run(lowered(path, dialect), inputs), strict=True)
    return dict(zip(names, pairs, strict=True))


def require_same(path: Path, dialect: str, rng: np.random.Generator) -> None:
    for output, (expected, found) in compared(path, dialect, feeds(ir.load(path), rng)).items():
        difference = np.abs(found - expected)
        place = np.unravel_index(difference.argmax(), difference.shape)
        bound = SAME_GRAPH_RELATIVE * np.abs(expected).max()
        assert difference.max() <= bound, f"{output}{list(place)}: {found[place]}, not {expected[place]}"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_demo_in_every_dialect(
    demo: Callable[[str], dict[str, Path]], trt: Any, graph: str, dialect: str, rng: np.random.Generator
) -> None:
    require_same(demo("fp32")[graph], dialect, rng)
    require_parsed(trt, demo("fp32")[graph], dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("graph", ["vision", "connector"])
def test_a_layer_norm_tower_in_every_dialect(
    chat_graphs: dict[str, Path], trt: Any, graph: str, dialect: str, rng: np.random.Generator
) -> None:
    require_same(chat_graphs[graph], dialect, rng)
    require_parsed(trt, chat_graphs[graph], dialect)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("dialect", SHIPPED)
@pytest.mark.parametrize("graph", GRAPHS)
def test_8_bits_lose_no_more_in_a_dialect(
    demo: Callable[[str], dict[str, Path]], trt: Any, graph: str, dialect: str, precision: str, rng: np.random.Generator
) -> None:
    path = demo(precision)[graph]
    inputs = feeds(ir.load(path), rng)
    exact = dict(zip(output_names(path), run(demo("fp32")[graph], inputs), strict=True))
    for output, (canonical, found) in compared(path, dialect, inputs).items():
        noise, distance = (np.abs(values - exact[output]).mean() for values in (canonical, found))
        assert noise > 0, "nothing is quantized"
        assert distance <= NO_FURTHER * noise, output
    if dialect != "plugin":  # written out twice, its parser gives two Quantize layers one name; a builder takes plugins
        require_parsed(trt, path, dialect)


def output_names(path: Path) -> list[str]:
    return [str(value.name) for value in ir.load(path).graph.outputs]


@pytest.fixture(scope="module")
def trt() -> Any:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    return pytest.importorskip("tensorrt_rtx_bindings")


def require_parsed(trt: Any, path: Path, dialect: str) -> None:
    """TensorRT-RTX's parser takes the graph that `compared` has written beside `path`."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    written = path.with_name(f"{path.stem}.{dialect}.onnx")
    assert parser.parse_from_file(str(written)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert network.num_layers > 0


def test_the_portable_dialect_has_only_what_was_there_at_its_opset(demo: Callable[[str], dict[str, Path]]) -> None:
    for name, path in demo("fp32").items():
        model = ir.load(lowered(path, "portable"))
        assert model.opset_imports[""] == PORTABLE.opset
        newer = {node.op_type for node in model.graph} & {"Attention", "RMSNormalization", "RotaryEmbedding", "Gelu"}
        assert not newer, name
