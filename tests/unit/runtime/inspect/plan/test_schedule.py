"""The content of a plan's text, and the findings for a text that is garbled, cut off or of another format."""

import re
from pathlib import Path

import pytest

from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.inspect.plan.fields import fields
from internvl_edge.runtime.inspect.plan.schedule import parse_program, read_plan
from tests.unit.runtime.inspect.xray.excerpt import ENGINE, FUSION, plan_bytes, write_plan


def test_the_recorded_schedule_is_read_whole(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path / "a.plan"))
    assert plan.unreadable == ()
    assert plan.layers == ("vision_model.encoder.layers.0.norm1", "vision_model.encoder.layers.0.attn.qkv")
    (schedule,) = plan.schedules
    assert (len(schedule.fusions), plan.sm) == (1, 89)
    kinds = [step.kind for step in schedule.program.steps]
    assert kinds[:4] == ["shape_call", "function", "fully_connected", "function"]
    assert (kinds.count("function"), kinds.count("signal"), kinds.count("wait")) == (8, 4, 4)


def test_a_product_names_operands_and_source_layers(tmp_path: Path) -> None:
    steps = read_plan(write_plan(tmp_path / "a.plan")).schedules[0].program.steps
    qkv = next(step for step in steps if step.kind == "fully_connected")
    assert qkv.name == "vision_model.encoder.layers.0.attn.qkv"
    assert qkv.inputs[:2] == ("__mye85923^deref", "__mye72659_dconst")
    assert qkv.outputs == ("__mye70740",)
    assert qkv.layers == (qkv.name, f"{qkv.name}/Transpose")


def test_tensors_views_and_constants(tmp_path: Path) -> None:
    tensors = read_plan(write_plan(tmp_path / "a.plan")).schedules[0].program.tensors
    assert tensors["__mye70740"].dims == ("proxy___mye42911.1", 576)
    assert (tensors["__mye70740"].dtype, tensors["__mye70740"].region) == ("half", "devmem_topdown_1")
    assert tensors["__mye85976^deref"].base == "__mye70740"
    assert tensors["__mye72659_dconst"].constant_bytes == 192 * 576 * 2
    assert tensors["__scratch_space_stream1"].scratch


def test_a_second_profile_keeps_its_own_fusions(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path / "two.plan", ENGINE, FUSION, ENGINE, FUSION, FUSION))
    assert [len(schedule.fusions) for schedule in plan.schedules] == [1, 2]


def test_a_wrong_length_is_not_believed(tmp_path: Path) -> None:
    data = plan_bytes(ENGINE, FUSION)
    path = tmp_path / "a.plan"
    path.write_bytes(data.replace(len(ENGINE).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little"), 1))
    plan = read_plan(path)
    assert plan.unreadable == ()
    assert len(plan.schedules[0].program.steps) == 19


@pytest.mark.parametrize(
    ("kept", "finding"),
    [
        (0.1, "no section main"),
        (0.3, "section descriptors is cut off"),
        (0.5, "section main is cut off"),
        (0.99, "section shape_main is cut off"),
    ],
)
def test_a_torn_plan_tells_what_is_left(tmp_path: Path, kept: float, finding: str) -> None:
    data = plan_bytes(ENGINE, FUSION)
    path = tmp_path / "torn.plan"
    path.write_bytes(data[: data.index(b"header {") + int(len(ENGINE) * kept)])
    plan = read_plan(path)
    assert len(plan.schedules) == 1
    assert f"program 0: {finding}" in plan.unreadable


def test_a_declaration_without_dims_is_counted_not_guessed() -> None:
    text = re.sub(r'dims=\{ "proxy___mye42911.1" 576 \}', "shape=?", ENGINE.decode())
    _, findings = parse_program(text)
    assert "tensor declarations: 1 lack name, type or dims, as __mye70740" in findings


def test_a_step_on_an_undeclared_tensor_is_reported() -> None:
    text = ENGINE.decode().replace('name="__mye70740" offset', 'name="renamed" offset')
    _, findings = parse_program(text)
    assert any("not declared, as __mye70740" in finding for finding in findings)


def test_a_plan_of_another_format_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "other.plan"
    path.write_bytes(b"ftrt" + bytes(1000))
    plan = read_plan(path)
    assert (plan.schedules, plan.sm) == ((), None)
    assert any("no execution schedule" in finding for finding in plan.unreadable)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"x", b"version https://git-lfs"])
def test_what_is_no_plan_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"x\.plan: .*plan.*; name a") as caught:
        read_plan(path)
    assert "\n" not in str(caught.value)


def test_a_folder_or_nothing_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.plan"):
        with pytest.raises(EngineError, match="cannot be read as a plan"):
            read_plan(path)


def test_braces_and_equal_signs_inside_quotes_are_text() -> None:
    found = fields(' name="{ForeignNode[a...b]}_x=1" input={ "{q}" 3 } cond = { e = "c" g = { 1 2 } } stream=0 }')
    assert found["name"] == "{ForeignNode[a...b]}_x=1"
    assert found["input"] == ("{q}", "3")
    assert found["stream"] == "0"
