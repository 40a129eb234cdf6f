"""A cache as states: all of it or nothing, in the type that the graph has for it."""

from pathlib import Path
from typing import Any

import onnx
import pytest

from internvl_edge.runtime.backends.openvino import process_core
from internvl_edge.runtime.backends.openvino_states import cache_type, keep_cache
from tests.unit.runtime.language_graphs import LAYERS, write_language_model


def read(path: Path) -> Any:
    return process_core().read_model(path)


@pytest.mark.parametrize(("dtype", "kept"), [("float", "f32"), ("float16", "f16"), ("bfloat16", "bf16")])
def test_the_cache_leaves_the_signature_and_keeps_its_type(dtype: str, kept: str, tmp_path: Path) -> None:
    model = keep_cache(read(write_language_model(tmp_path, dtype)))
    assert model is not None
    inputs = {port.get_any_name() for port in model.inputs}
    assert inputs == {"inputs_embeds", "attention_mask", "position_ids", "beam_idx"}
    assert [port.get_any_name() for port in model.outputs] == ["logits"]
    assert len(model.get_sinks()) == 2 * LAYERS
    found = cache_type(model)
    assert found is not None
    assert found.get_type_name() == kept


def test_a_cache_that_is_not_appended_to_stays_in_the_signature(tmp_path: Path) -> None:
    path = write_language_model(tmp_path)
    model = onnx.load(path, load_external_data=False)
    extra = onnx.helper.make_tensor_value_info("past_key_values.2.key", 1, [1, 2, "past", 8])
    model.graph.input.append(extra)
    onnx.save(model, path)
    stays = read(path)
    assert keep_cache(stays) is None
    assert cache_type(stays) is None
    assert len(stays.inputs) == 3 + 2 * LAYERS + 1


def test_a_cache_that_other_nodes_read_stays_in_the_signature(tmp_path: Path) -> None:
    path = write_language_model(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(onnx.helper.make_node("Abs", ["past_key_values.0.key"], ["magnitudes"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("magnitudes", 1, None))
    onnx.save(model, path)
    assert keep_cache(read(path)) is None
