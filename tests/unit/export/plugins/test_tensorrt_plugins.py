"""The plugins against the real `tensorrt.plugin` of each TensorRT with ahead-of-time plugins, over stub libraries."""

from types import ModuleType
from typing import Any

import pytest

from internvl_edge.export.plugins.compile_kernel import parameter_types
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.tensorrt_plugins import node_attributes, read_variant, register_plugins, variant_text
from internvl_edge.runtime.errors import EngineError
from tests.unit.export.plugins.drive_plugins import SIZES
from tests.unit.runtime.targets.stub_tensorrt import CannotInstallError, ask, install

VERSIONS = (
    "tensorrt-cu12-bindings==10.9.0.34",
    "tensorrt-cu12-bindings==10.13.3.9",
    "tensorrt-cu13-bindings==11.4.0.106",
)


@pytest.fixture(scope="module", params=VERSIONS)
def driven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What that TensorRT makes of the small kernel."""
    pytest.importorskip("triton", reason="the extra `plugins` is not installed")
    try:
        folder = install(request.param, tmp_path_factory.mktemp("bindings"))
    except CannotInstallError as error:
        pytest.skip(str(error))
    found: dict[str, Any] = ask(folder, "from tests.unit.export.plugins.drive_plugins import main; main()")
    return found | {"folder": folder}


def test_it_is_registered_once(driven: dict[str, Any]) -> None:
    assert (driven["first"], driven["second"]) == (["internvl::gram"], [])


def test_outputs_have_the_shapes_types_and_memory_that_the_launch_tells(driven: dict[str, Any]) -> None:
    built = driven["built"]
    assert built["shapes"] == [[3, 257, 257], [3, 257, 64]]
    assert built["types"] == ["HALF", "HALF"]
    assert built["aliases"] == [-1, 0]  # the second output is the memory of the first input
    assert built["combinations"] == [[kind, "LINEAR"] for kind in ("HALF", "FLOAT", "HALF", "HALF")]


def test_each_tactic_is_a_choice_of_tiles_with_its_grid(driven: dict[str, Any]) -> None:
    first, second = driven["built"]["tactics"]
    assert [first[f"grid_{axis}"] for axis in "xyz"] == [5, 5, 3]
    assert [second[f"grid_{axis}"] for axis in "xyz"] == [9, 9, 3]
    assert (first["block_x"], first["block_y"], first["block_z"]) == (128, 1, 1)
    assert first["shared_mem"] > second["shared_mem"] > 0


def test_the_ptx_takes_inputs_then_integers_then_outputs(driven: dict[str, Any]) -> None:
    for tactic in driven["built"]["tactics"]:
        assert tactic["integers"] == [257]
        assert parameter_types(tactic["ptx"]) == ("u64", "u64", "u32", "u64", "u64")
        assert f".visible .entry {tactic['entry']}(" in tactic["ptx"]


def test_the_families_keep_the_order_of_arguments(driven: dict[str, Any]) -> None:
    code = "from tests.unit.export.plugins.drive_plugins import drive_families; drive_families()"
    for name, found in ask(driven["folder"], code).items():
        family = next(family for family in FAMILIES if family.name == name)
        inputs, integers, outputs = (len(part) for part in (family.inputs, family.integers, family.outputs))
        assert found["parameters"] == ["u64"] * inputs + ["u32"] * integers + ["u64"] * outputs, name
        sizes = family.launch(*family.variants[0], family.choices[0]).size_values(found["inputs"])
        assert found["integers"] == [sizes[size] for size in family.integers], name
        assert found["grid"] == found["expected_grid"], name
        assert len(found["shapes"]) == outputs
        assert found["shapes"][-1][0] == SIZES["B"], name


def test_bad_input_is_named(driven: dict[str, Any]) -> None:
    numpy, absent, types = driven["said"]
    assert numpy == "" or numpy.endswith("; install numpy<2")
    assert "has no plugin internvl::gram version 1; register_plugins makes them known" in absent
    assert types == "internvl::gram: no kernel of 'width=64' with x fp32, shift fp32"


def test_a_variant_is_read_as_written() -> None:
    told = {"heads": 25, "eps": 1e-06, "out": "int8"}
    assert variant_text(told) == "heads=25 eps=1e-06 out=int8"
    assert read_variant(variant_text(told) + "\0") == told
    assert node_attributes(told)["plugin_namespace"] == "internvl"
    assert node_attributes(told)["aot"] == 1
    with pytest.raises(EngineError, match="no spaces"):
        variant_text({"a": "b c"})


def test_a_tensorrt_without_ahead_of_time_plugins_says_so() -> None:
    trt = ModuleType("trt_without_plugins")
    trt.__dict__["__version__"] = "10.3.0"
    with pytest.raises(EngineError, match=r"trt_without_plugins 10.3.0 has no Python plugins"):
        register_plugins(trt, [], sm=87)
