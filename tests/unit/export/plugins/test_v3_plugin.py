"""The plugins that Python launches, against the real bindings of TensorRT before 10.9, over stub libraries."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from internvl_edge.export.dialects import PORTABLE, Dialect, dialect_for, lower
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.tensorrt_plugins import node_attributes
from internvl_edge.export.plugins.v3_plugin import register_v3
from internvl_edge.runtime.errors import EngineError
from tests.unit.export.dialects.small_graphs import load
from tests.unit.export.plugins.drive_plugins import SIZES
from tests.unit.runtime.targets.stub_tensorrt import CannotInstallError, ask, install

VERSIONS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu12-bindings==10.8.0.43")
ARGUMENTS = [["u64", 16], ["u64", 32], ["u32", 257], ["u64", 1040], ["u64", 1056]]


@pytest.fixture(scope="module", params=VERSIONS)
def driven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What that TensorRT makes of the small kernel."""
    pytest.importorskip("triton", reason="the extra `plugins` is not installed")
    try:
        folder = install(request.param, tmp_path_factory.mktemp("bindings"), "numpy<2")
    except CannotInstallError as error:
        pytest.skip(str(error))
    found: dict[str, Any] = ask(folder, "from tests.unit.export.plugins.drive_v3 import main; main()")
    return found | {"folder": folder}


def test_it_is_registered_once_and_says_what_it_is(driven: dict[str, Any]) -> None:
    assert driven["registered"] == [["gram"], []]
    assert driven["built"]["named"] == ["gram", "internvl", "3"]


def test_outputs_have_the_types_and_shapes_that_the_launch_tells(driven: dict[str, Any]) -> None:
    assert driven["built"]["types"] == ["HALF", "HALF"]
    assert driven["built"]["shapes"] == [[3, 257, 257], [3, 257, 64]]
    assert driven["built"]["outputs"] == 2


def test_packed_tensors_of_known_types_are_taken_and_no_others(driven: dict[str, Any]) -> None:
    assert [name for name, taken in driven["formats"].items() if taken] == ["input", "output"]


def test_each_tactic_is_a_choice_of_tiles_with_its_grid(driven: dict[str, Any]) -> None:
    assert driven["before"] == []
    first, second = driven["built"]["launched"]
    assert (first["grid"], second["grid"]) == ([5, 5, 3], [9, 9, 3])
    assert first["threads"] == 128
    assert first["shared_bytes"] > second["shared_bytes"] > 0
    assert driven["built"]["loaded"] == ["gram", "gram"]


def test_the_ptx_gets_inputs_then_integers_then_outputs_on_the_stream(driven: dict[str, Any]) -> None:
    for launched in driven["built"]["launched"]:
        assert launched["arguments"] == ARGUMENTS
        assert launched["parameters"] == [kind for kind, _ in ARGUMENTS]
        assert launched["stream"] == 7


def test_a_plan_runs_without_what_built_it_and_equal_blocks_load_once(driven: dict[str, Any]) -> None:
    assert driven["ran"]["launched"] == [driven["built"]["launched"][1]] * 2
    assert driven["ran"]["loaded"] == ["gram"]
    assert driven["same"], "what a running plugin serializes is what it was made of"
    assert driven["opened where it was built"]


def test_the_families_keep_the_order_of_arguments(driven: dict[str, Any]) -> None:
    code = "from tests.unit.export.plugins.drive_v3 import families; families()"
    for name, found in ask(driven["folder"], code).items():
        family = next(family for family in FAMILIES if family.name == name)
        launched = found["launched"]
        sizes = family.launch(*family.variants[0], family.choices[0]).size_values(found["inputs"])
        expected = [["u64", 16 * (1 + index)] for index in range(len(family.inputs))]
        expected += [["u32", sizes[size]] for size in family.integers]
        expected += [["u64", 16 * (65 + index)] for index in range(len(family.outputs))]
        assert launched["arguments"] == expected, name
        assert launched["parameters"] == [kind for kind, _ in expected], name
        assert launched["grid"] == found["expected_grid"], name
        assert found["shapes"][-1][0] == SIZES["B"], name


def test_bad_input_is_named(driven: dict[str, Any]) -> None:
    assert "has no plugin internvl::gram version 3; register_plugins makes them known" in driven["absent"]
    assert driven["wrong"] == "EngineError: internvl::gram: no kernel of 'width=64' with x fp32, shift fp32"
    assert "input 0 is [3, 0, 64], input 1 is [3, 0]; give at least one row" in driven["empty"]
    assert driven["damaged"].startswith("BackendError: an attention plugin's kernels cannot be read (Unterminated")
    refused = "BackendError: vision.plan: needs plugin internvl::gram version 4, internvl::other version 1, which"
    assert driven["refused"].startswith(refused)


def test_a_node_names_the_version_and_no_kernel_ahead_of_time() -> None:
    told = node_attributes({"heads": 25}, "3")
    assert told == {"plugin_namespace": "internvl", "plugin_version": "3", "variant": "heads=25"}


def test_only_who_asks_gets_plans_that_open_in_our_runtime_alone(caplog: pytest.LogCaptureFixture) -> None:
    asked = dialect_for(attention=False, wanted="plugin", plugins_v3=True, sm=87)
    assert asked == replace(PORTABLE, attention="plugin", sm=87, plugin_version="3")
    assert "open in our runtime alone" in caplog.text
    assert dialect_for(attention=False, plugins_v3=True, sm=87) == PORTABLE
    both = dialect_for(attention=False, wanted="plugin", plugins=True, plugins_v3=True, sm=87)
    assert both.plugin_version == "1"


def test_the_dialects_nodes_have_its_version() -> None:
    text = """g (float16[batch, 17, 384] qkv) => (float16[batch, 17, 128] out) {
      q, k, v = Split <axis = 2, num_outputs = 3> (qkv)
      out = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    }"""
    (node,) = lower(load(text), Dialect(attention="plugin", sm=89, plugin_version="3")).graph
    assert (node.op_type, node.attributes.get_string("plugin_version")) == ("vit_attention_plain", "3")
    assert "aot" not in node.attributes


def test_bindings_without_plugins_in_python_say_so() -> None:
    trt = ModuleType("trt")
    trt.__dict__["__version__"] = "8.6"
    with pytest.raises(EngineError, match=r"TensorRT 8.6 takes no plugins from Python; use --attention pattern"):
        register_v3(trt, [], 87, driver=None)  # type: ignore[arg-type]
