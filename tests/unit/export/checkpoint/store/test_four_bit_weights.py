"""Weights of 4 bits in blocks, by a row that only this test has: from the decision to what ONNX Runtime computes.

Nothing in the way of a tensor knows the format but its row.
"""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from internvl_edge.calib.formats import amax_of, broadcast_scale, encode, fake_quantize, scale_of
from internvl_edge.calib.qdq.insert import quantize_graph
from internvl_edge.calib.quantize import fake_quantizers
from internvl_edge.calib.ranges.observer import Observer, Statistics
from internvl_edge.calib.recipes.decide import Decision, Rules, decide
from internvl_edge.calib.recipes.recipe import LinearWeights, Recipe, save_recipe
from internvl_edge.calib.sites import Site
from internvl_edge.export.blockwise.quantized import quantized_sources
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_sources import ComputedTensor, QuantizedTensor, whole
from internvl_edge.export.checkpoint.store.weight_store import STORE_NAME, attach_weights, plan_weights, write_store
from internvl_edge.runtime.numbers.formats import INT8, PER_ROW, Format, Granularity, Precision
from internvl_edge.runtime.numbers.packing import packed, unpacked
from internvl_edge.runtime.numbers.tensor_types import INT4

BLOCK = 32
WEIGHTS = Format(type=INT4, largest=7.0, lowest=-8.0, granularity=Granularity(axis=1, block=BLOCK))
ONLY_WEIGHTS = Precision(name="w4", weights=WEIGHTS, relative_tolerance=0.1, largest_difference=0.25)
OUT, WIDTH = 6, 96

GRAPH = """<ir_version: 11, opset_import: ["": 23]>
vision (float[b, 96] x, float[6, 96] fc_weight) => (float[b, 6] y) {
  turned = Transpose<perm = [1, 0]>(fc_weight)
  [fc] y = MatMul(x, turned)
}"""


@pytest.fixture
def weight(rng: np.random.Generator) -> torch.Tensor:
    """``[OUT, C]``; one block is fifty times as large as the others."""
    values = rng.normal(size=(OUT, WIDTH)).astype(np.float32)
    values[2, BLOCK : 2 * BLOCK] *= 50
    return torch.from_numpy(values)


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(40, WIDTH)).astype(np.float32)


def by_hand(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and scales ``[OUT, C / BLOCK]`` in NumPy."""
    blocks = weight.reshape(OUT, WIDTH // BLOCK, BLOCK)
    scale = (np.abs(blocks).max(axis=2) / np.float32(7)).astype(np.float32)
    return np.rint(blocks / scale[:, :, None]).clip(-7, 7).reshape(OUT, WIDTH).astype(np.int8), scale


def read_as(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return what packed codes stand for."""
    wide: np.ndarray = unpacked(stored, INT4).astype(np.float32) * np.repeat(scale, BLOCK, axis=1)
    return wide


def decided(rows: np.ndarray, weight: torch.Tensor, precision: Precision) -> Decision:
    site = Site(
        name="fc", linears=("fc",), tower="vision", block=0, kind="fc", channels=WIDTH, fold=None, layer_scale=None
    )
    return decide(site, {"vision": _seen(rows)}, [weight], Rules(precision=precision, dtype="float32"))


def _seen(rows: np.ndarray) -> Statistics:
    observer = Observer("fc", 128)
    observer.observe(torch.from_numpy(rows), 1)
    return observer.statistics()


def test_quantized_packed_and_read_again_it_is_what_the_nodes_would_give(weight: torch.Tensor) -> None:
    scale = scale_of(amax_of(weight, WEIGHTS.granularity), WEIGHTS, "float32")
    codes = encode(weight, broadcast_scale(scale, WEIGHTS.granularity, 2), WEIGHTS)
    wanted, scales = by_hand(weight.numpy())
    np.testing.assert_array_equal(scale, scales)
    np.testing.assert_array_equal(codes, wanted)
    stored = packed(codes.numpy(), INT4)
    assert stored.nbytes == OUT * WIDTH // 2
    read = read_as(stored, scales)
    np.testing.assert_array_equal(read, fake_quantize(weight, broadcast_scale(scale, WEIGHTS.granularity, 2), WEIGHTS))
    assert (np.abs(read - weight.numpy()) <= np.repeat(scales, BLOCK, axis=1) / 2 * (1 + 1e-5)).all()


def test_codes_in_use_are_symmetric_and_a_node_saturates_at_the_lowest() -> None:
    x = torch.tensor([-100.0, -7.6, 100.0])
    np.testing.assert_array_equal(encode(x, torch.tensor(1.0), WEIGHTS), [-7, -7, 7])
    np.testing.assert_array_equal(fake_quantize(x, torch.tensor(1.0), WEIGHTS), [-8, -8, 7])


def test_a_loud_block_leaves_the_others_of_its_row_alone(weight: torch.Tensor) -> None:
    def error(granularity: Granularity) -> float:
        scale = broadcast_scale(scale_of(amax_of(weight, granularity), WEIGHTS, "float32"), granularity, 2)
        return float((fake_quantize(weight, scale, WEIGHTS) - weight)[2, :BLOCK].abs().max())

    assert error(WEIGHTS.granularity) < 0.3 < error(PER_ROW)


def test_weights_alone_leave_the_activation_whole(rows: np.ndarray, weight: torch.Tensor) -> None:
    decision = decided(rows, weight, ONLY_WEIGHTS)
    clip = decision.clips["vision"]
    assert (clip.scale, clip.clipped_share, clip.threshold) == (None, 0.0, np.abs(rows).max())
    both = decided(rows, weight, Precision(name="w4a8", weights=WEIGHTS, activations=INT8, **_TOLERANCES))
    assert 10 < both.sqnr_db < decision.sqnr_db, "8 bits of the activation cost something too"
    neither = decided(rows, weight, Precision(name="none", **_TOLERANCES))
    assert neither.sqnr_db == 200


def test_a_site_whose_columns_do_not_fill_the_blocks_stays_high(rows: np.ndarray, weight: torch.Tensor) -> None:
    decision = decided(rows[:, :90], weight[:, :90], ONLY_WEIGHTS)
    assert not decision.quantized
    assert decision.reason == f"axis 1 of [{OUT}, 90] is no multiple of blocks of {BLOCK}"
    assert decided(rows, weight, ONLY_WEIGHTS).quantized


def test_the_store_holds_two_values_in_a_byte_and_the_graph_computes_with_them(
    rows: np.ndarray, weight: torch.Tensor, tmp_path: Path
) -> None:
    codes, scales = by_hand(weight.numpy())
    decision = decided(rows, weight, ONLY_WEIGHTS)
    recipe = Recipe(
        rules=Rules(precision=ONLY_WEIGHTS, dtype="float32"),
        decisions=(decision,),
        linears={"fc": LinearWeights(scale=torch.from_numpy(scales))},
    )
    sources = quantized_sources(recipe, {"fc.weight": ComputedTensor(name="fc.weight", value=weight)})
    model = _written(recipe, sources, tmp_path)
    assert fake_quantizers(recipe, "vision") == {}
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Transpose", "MatMul"]
    attributes = {name: found.value for name, found in model.graph[0].attributes.items()}
    assert attributes == {"axis": 1, "block_size": BLOCK}

    content = (tmp_path / STORE_NAME).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entry = json.loads(content[8 : 8 + length])["fc.weight"]
    assert (entry["dtype"], entry["shape"]) == ("U8", [OUT, WIDTH // 2])
    first, last = entry["data_offsets"]
    stored = np.frombuffer(content[8 + length + first : 8 + length + last], np.uint8).reshape(OUT, -1)
    np.testing.assert_array_equal(unpacked(stored, INT4), codes)

    held = model.graph.initializers["fc.weight"]
    assert (held.dtype, list(held.shape or ())) == (ir.DataType.INT4, [OUT, WIDTH])
    quantized = sources["fc.weight"]
    assert isinstance(quantized, QuantizedTensor)
    np.testing.assert_array_equal(whole(quantized), read_as(stored, scales))

    session = ort.InferenceSession(tmp_path / "vision.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"x": rows})
    np.testing.assert_allclose(found, rows @ read_as(stored, scales).T, rtol=1e-5, atol=1e-3)

    save_recipe(recipe, tmp_path)
    said = json.loads((tmp_path / "recipe.json").read_text())
    assert (said["precision"], said["weights"], said["activations"]) == ("w4", "int4 per block of 32", None)


_TOLERANCES = {"relative_tolerance": 0.1, "largest_difference": 0.25}


def _written(recipe: Recipe, sources: dict[str, object], folder: Path) -> ir.Model:
    """Write graph and store as an export does, and return the graph."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GRAPH)))
    held = model.graph.inputs.pop(1)
    held.name = "fc.weight"
    held.const_value = ir.ExternalTensor("unplaced", 0, 0, ir.DataType.FLOAT, shape=held.shape, name=held.name)
    model.graph.register_initializer(held)
    quantize_graph(model, recipe)
    plan = plan_weights(list(sources.values()), "float32", frozenset())  # type: ignore[arg-type]
    with SourceScan([]) as scan:
        write_store(plan, folder, scan, lambda done: None)
    attach_weights(model, plan)
    (folder / "vision.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    onnx.checker.check_model(folder / "vision.onnx", full_check=True)
    return model
