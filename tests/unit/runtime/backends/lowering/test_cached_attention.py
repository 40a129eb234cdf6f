"""Attention over a cache: the kernel that appends in place, and only where it computes the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends.lowering.cached_attention import cached_attention
from internvl_edge.runtime.backends.lowering.cpu import lower
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from tests.unit.runtime import language_graphs
from tests.unit.runtime.language_graphs import HEADS, KV_HEADS, LAYERS, write_language_model
from tests.unit.runtime.lowered_graphs import lowered_model, op_types


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_language_model(tmp_path)


def test_every_layer_appends_in_place_and_no_copy_of_the_cache_is_left(path: Path) -> None:
    model = lowered_model(path)
    kinds = op_types(model)
    assert kinds.count("GroupQueryAttention") == LAYERS
    assert not {"Attention", "Concat"}.intersection(kinds)
    assert lower(path).appends


def test_keys_keep_their_heads_and_the_rotation_reads_packed_heads(path: Path) -> None:
    nodes = lowered_model(path).graph.node
    attends = [node for node in nodes if node.op_type == "GroupQueryAttention"]
    numbers = [{each.name: each.i for each in node.attribute if each.name.endswith("heads")} for node in attends]
    assert numbers == LAYERS * [{"num_heads": HEADS, "kv_num_heads": KV_HEADS}]
    rotations = {node.output[0]: node for node in nodes if node.op_type == "RotaryEmbedding"}
    assert {node.input[0] for node in attends} | {node.input[1] for node in attends} == set(rotations)


def test_heads_are_not_moved_to_an_axis_of_their_own_and_back(path: Path) -> None:
    transposes = [node for node in lowered_model(path).graph.node if node.op_type == "Transpose"]
    assert all(node.attribute[0].ints == [1, 0] for node in transposes)


def test_the_length_of_the_cache_is_that_of_the_mask(path: Path) -> None:
    """The kernel's array has room for more positions than it holds, so that its shape says nothing."""
    shaped = [node for node in lowered_model(path).graph.node if node.op_type == "Shape"]
    assert {node.input[0] for node in shaped} == {"attention_mask", "inputs_embeds"}


def test_heads_that_the_kernel_does_not_take_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_graphs, "HEAD", 12)
    other = path.parent / "other"
    other.mkdir()
    written = write_language_model(other)
    assert cached_attention(OnnxModel(written.read_bytes(), other)) == 0


def test_a_second_run_changes_nothing(path: Path) -> None:
    model = OnnxModel(path.read_bytes(), path.parent)
    assert cached_attention(model) == LAYERS
    again = OnnxModel(model.encode(), path.parent)
    before = again.encode()
    assert cached_attention(again) == 0
    assert again.encode() == before


def test_a_decoder_of_ids_keeps_its_attention(path: Path) -> None:
    data = path.read_bytes().replace(b"inputs_embeds", b"input_states!")
    assert cached_attention(OnnxModel(data, path.parent)) == 0


def test_keys_that_are_not_returned_are_appended_as_before(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    kept = [output for output in model.graph.output if output.name != "present.1.key"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    assert cached_attention(OnnxModel(model.SerializeToString(), path.parent)) == 0


def test_a_cache_that_no_attention_appends_to_leaves_the_others(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.input.append(onnx.helper.make_tensor_value_info("past_key_values.2.key", 1, [1]))
    assert cached_attention(OnnxModel(model.SerializeToString(), path.parent)) == 0


def test_the_length_of_the_cache_is_not_the_room_of_its_memory(path: Path) -> None:
    nodes = lowered_model(path).graph.node
    assert not [node.name for node in nodes if node.op_type == "Shape" and node.input[0].startswith("past_key_values")]


def test_a_cache_that_other_nodes_read_stays(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(onnx.helper.make_node("Shape", ["past_key_values.0.key"], ["shape"]))
    assert cached_attention(OnnxModel(model.SerializeToString(), path.parent)) == 0


@pytest.mark.parametrize("attribute", [{"is_causal": 1}, {"softcap": 3.0}])
def test_an_attention_with_more_attributes_stays(attribute: dict[str, float], path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Attention")
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attribute.items())
    assert cached_attention(OnnxModel(model.SerializeToString(), path.parent)) == 0


def test_the_scale_of_the_scores_stays(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(onnx.helper.make_attribute("scale", 0.25))
    lowered = OnnxModel(model.SerializeToString(), path.parent)
    assert cached_attention(lowered) == LAYERS
    found = onnx.ModelProto.FromString(lowered.encode()).graph.node
    scales = [each.f for node in found for each in node.attribute if each.name == "scale"]
    assert scales == LAYERS * [np.float32(0.25)]
