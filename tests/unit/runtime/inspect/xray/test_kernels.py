"""Launches, bytes, FLOPs and predictions of the recorded half block, against numbers worked out by hand.

At batch 2: 52 rows of 192 channels in fp16 are 19,968 bytes.
"""

from pathlib import Path

import pytest

from internvl_edge.runtime.inspect.plan.launches import (
    Launch,
    launches_of,
    launches_per_block,
    middle_block,
    operations_of,
)
from internvl_edge.runtime.inspect.plan.roofline import predict
from internvl_edge.runtime.inspect.plan.schedule import Schedule, Step, parse_program
from internvl_edge.runtime.inspect.plan.traffic import Traffic
from internvl_edge.runtime.inspect.xray.xray_report import Kernel, PlanXray, xray
from internvl_edge.runtime.targets.data_sheet import Target
from tests.unit.runtime.inspect.xray.excerpt import BLOCK, ENGINE, FUSION, ROUND, write_plan

ROWS = 2 * 26 * 192 * 2
SIZES = {"pixel_values": (2, 3, 70, 70)}


@pytest.fixture
def found(tmp_path: Path) -> PlanXray:
    return xray(write_plan(tmp_path / "a.plan"), target=ROUND, sizes=SIZES)


def kernel(found: PlanXray, name: str) -> Kernel:
    return next(kernel for kernel in found.kernels if kernel.name.endswith(name))


def test_bookkeeping_is_no_launch(found: PlanXray) -> None:
    assert [k.category for k in found.kernels] == [
        "norm",
        "matmul",
        "norm",
        "elementwise",
        "norm",
        "elementwise",
        "layout",
        "attention",
        "layout",
        "matmul",
    ]
    assert {name: sums.launches for name, sums in found.blocks.items()} == {BLOCK: 10}
    assert found.fused_attention == {"_gemm_mha_v2": 1}
    assert found.unfused_attention == ()


def test_host_and_view_steps_are_no_launches(tmp_path: Path) -> None:
    more = (
        b'  cast={ name="c" output={"hvar^1i64" } input={"__mye11315_proxy.1" } stream=0 layers="" }\n'
        b'  reshape={ name="r" output={"__mye70740" } input={"rms_norm.1" } stream=0 layers="" }\n'
        b'  mul={ name="m" output={"__mye11315_proxy.1" } input={"__mye11315_proxy.1" } stream=0 layers="" }\n'
    )
    text = ENGINE.replace(b'  shape_call={ name="__mye22418_0"', more + b'  shape_call={ name="__mye22418_0"')
    assert xray(write_plan(tmp_path / "a.plan", text, FUSION), target=ROUND, sizes=SIZES).total.launches == 10


def test_a_copy_on_the_device_is_a_launch(tmp_path: Path) -> None:
    more = (
        b'  copy={ name="d2d" output={"__mye70740" } input={"__mye70740" } stream=0 }\n  shape_call={ name="__mye22418'
    )
    text = ENGINE.replace(b'  shape_call={ name="__mye22418', more)
    found = xray(write_plan(tmp_path / "a.plan", text, FUSION), target=ROUND, sizes=SIZES)
    assert (found.total.launches, found.kernels[0].category) == (11, "copy")


def test_a_norm_reads_its_gain_and_rows(found: PlanXray) -> None:
    norm = kernel(found, "__myl_CastMulMeanAddSqrtDivMulCastMul")
    assert (norm.read_bytes, norm.weight_bytes, norm.written_bytes) == (384 + ROWS, 384, ROWS)
    assert norm.modules == (f"{BLOCK}.norm1",)
    assert norm.operations == ("Cast", "Mul", "Mean", "Add", "Sqrt", "Div", "Mul", "Cast", "Mul")


def test_a_product_counts_its_weight_and_flops(found: PlanXray) -> None:
    qkv = kernel(found, "attn.qkv")
    weight = 192 * 576 * 2 + 2 * 4  # alpha and beta beside it
    assert (qkv.read_bytes, qkv.weight_bytes, qkv.written_bytes) == (ROWS + weight, weight, 3 * ROWS)
    assert (qkv.flops, qkv.dtype) == (2 * 52 * 576 * 192, "fp16")


def test_a_runtime_fusion_is_described_by_its_own_program(found: PlanXray) -> None:
    proj = kernel(found, "__myl_FcAddMulAdd")
    weight = 192 * 192 * 2 + 2 * 384  # bias and layer scale beside it
    assert (proj.read_bytes, proj.weight_bytes, proj.written_bytes) == (2 * ROWS + weight, weight, ROWS)
    assert (proj.flops, proj.dtype) == (2 * 52 * 192 * 192, "fp16")


def test_attention_counts_both_products(found: PlanXray) -> None:
    attention = kernel(found, "_gemm_mha_v2")
    assert (attention.read_bytes, attention.weight_bytes, attention.written_bytes) == (3 * ROWS, 0, ROWS)
    assert attention.flops == 2 * (2 * 3 * 26 * 26 * 64) * 2


def test_a_slice_may_read_less_than_declared(found: PlanXray) -> None:
    slicing = kernel(found, "__myl_SlicCastMulMean")
    assert slicing.at_most
    assert slicing.read_bytes == 3 * ROWS
    assert slicing.written_bytes == 2 * ROWS + 52 * 4  # fp32 values and one statistic a row
    assert not kernel(found, "_gemm_mha_v2").at_most


def test_predictions_are_the_larger_of_both_limits(found: PlanXray) -> None:
    qkv = kernel(found, "attn.qkv")
    assert qkv.bound == "compute"
    assert qkv.predicted_ms == pytest.approx(2 * 52 * 576 * 192 / 1e12 * 1e3)
    norm = kernel(found, "__myl_CastMulMeanAddSqrtDivMulCastMul")
    assert norm.bound == "bandwidth"
    assert norm.predicted_ms == pytest.approx((384 + 2 * ROWS) / 1e12 * 1e3)
    assert found.total.predicted_ms == pytest.approx(sum(k.predicted_ms or 0 for k in found.kernels))
    assert found.notes == ()


def test_without_a_data_sheet_nothing_is_predicted(tmp_path: Path) -> None:
    found = xray(write_plan(tmp_path / "a.plan"), target=Target(name="sm_89", sm=89, sheet=None), sizes=SIZES)
    assert found.total.predicted_ms is None
    assert {k.bound for k in found.kernels} == {""}
    assert found.notes == ("sm_89 has no data sheet: nothing is predicted; name a device instead",)


def test_a_type_that_the_sheet_lacks_is_said(tmp_path: Path) -> None:
    text = ENGINE.replace(b"type=half", b"type=bf16")
    fusion = FUSION.replace(b"type=half", b"type=bf16")
    found = xray(write_plan(tmp_path / "a.plan", text, fusion), target=ROUND, sizes=SIZES)
    assert kernel(found, "attn.qkv").predicted_ms is None
    assert found.notes == ("3 kernels without a prediction: the data sheet has no peak for bf16",)


def test_a_type_of_unknown_width_is_unreadable(tmp_path: Path) -> None:
    text = ENGINE.replace(b"type=half", b"type=posit16")
    found = xray(write_plan(tmp_path / "a.plan", text, FUSION), target=ROUND, sizes=SIZES)
    assert kernel(found, "_gemm_mha_v2").read_bytes is None
    assert any(finding.startswith("bytes of 10 kernels") for finding in found.unreadable)


def test_a_fusion_without_its_program_is_unreadable_not_guessed(tmp_path: Path) -> None:
    found = xray(write_plan(tmp_path / "a.plan", ENGINE), target=ROUND, sizes=SIZES)
    assert kernel(found, "__myl_FcAddMulAdd").flops is None
    assert "FLOPs of 1 kernel, as __myl_FcAddMulAdd" in found.unreadable


def test_a_gathered_table_counts_for_the_rows_taken(tmp_path: Path) -> None:
    text = ENGINE.replace(b"function={ name=__myl_CastMulMean", b"function={ name=__myl_GathCastMulMean")
    text = text.replace(b"const_payload_size=384 dims={ 1 1 192 }", b"const_payload_size=999999936 dims={ 5 1 192 }")
    found = xray(write_plan(tmp_path / "a.plan", text, FUSION), target=ROUND, sizes=SIZES)
    assert kernel(found, "__myl_GathCastMulMeanAddSqrtDivMulCastMul").weight_bytes == ROWS


def test_memory_is_the_sum_of_the_regions(found: PlanXray) -> None:
    assert found.activation_bytes == 8192000 + 319488 + 4 * 79872
    assert found.constant_bytes == 192 * 576 * 2 + 192 * 192 * 2 + 5 * 384 + 2 * 4 + 2  # equal scalars share


def launch(block: str, index: int) -> Launch:
    step = Step(
        kind="function",
        name="__myl_Mul",
        inputs=(),
        outputs=(),
        layers=(f"{block}.mlp/Mul",),
        binary=None,
        backbone="",
        src="",
    )
    return Launch(index=index, step=step, category="elementwise", operations=("Mul",), block=block)


def test_the_middle_block_is_the_usual_inner_one() -> None:
    counts = {"a.layers.0": 9, "a.layers.1": 3, "a.layers.2": 4, "a.layers.3": 4, "a.layers.10": 1, "b.layers.0": 7}
    launches = [launch(block, 0) for block, count in counts.items() for _ in range(count)]
    middle = middle_block(launches)
    assert middle is not None
    assert (middle.name, middle.launches, middle.least, middle.most) == ("a.layers.3", 4, 3, 4)
    assert launches_per_block(launches) == counts


def test_two_blocks_have_no_middle() -> None:
    assert middle_block([launch("a.layers.0", 0), launch("a.layers.1", 1)]) is None
    assert middle_block([]) is None


def test_library_kernels_spell_no_operations() -> None:
    assert operations_of("_gemm_mha_v2") == ()
    assert operations_of("__myl_FcAddDivCastErf") == ("Fc", "Add", "Div", "Cast", "Erf")


def test_a_kernel_between_two_blocks_belongs_to_most_of_its_layers() -> None:
    names = (f"{BLOCK}/Add_1", "vision_model.encoder.layers.1.norm1", "vision_model.encoder.layers.1.attn/Attention")
    text = ENGINE.decode().replace(
        "[ONNX Layer: vision_model.encoder.layers.0.norm1]", "".join(f"[ONNX Layer: {n}]" for n in names)
    )
    launches = launches_of(Schedule(program=parse_program(text)[0], fusions=()))
    assert launches[0].block == "vision_model.encoder.layers.1"


def test_nothing_moves_in_no_time() -> None:
    nothing = Traffic(read_bytes=0, weight_bytes=0, written_bytes=0, at_most=False)
    assert predict(nothing, None, ROUND.sheet).reason == "its FLOPs are not readable"
    assert predict(None, None, ROUND.sheet).reason == "its bytes are not readable"
    assert predict(nothing, None, None).reason == "the target has no data sheet"
