"""Plans that TensorRT-RTX builds here and now, without a GPU: what the X-ray counts in them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.export.engine.builder import build_plan
from internvl_edge.runtime.inspect.xray.diff import diff_text
from internvl_edge.runtime.inspect.xray.text import xray_text
from internvl_edge.runtime.inspect.xray.xray_page import render_page
from internvl_edge.runtime.inspect.xray.xray_report import PlanXray, xray
from internvl_edge.runtime.targets.data_sheet import DataSheet, Target
from tests.unit.runtime.inspect.xray.excerpt import ROUND
from tests.unit.runtime.inspect.xray.small_towers import (
    HEADS,
    HIDDEN,
    TOKENS,
    WIDTH,
    write_decoder_step,
    write_int8_product,
    write_tower,
)

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
BATCH = {"x": ((1, TOKENS, WIDTH), (2, TOKENS, WIDTH), (4, TOKENS, WIDTH))}
SHEET = DataSheet(
    memory_gib=24.0,
    bandwidth_gb_s=1000.0,
    multiprocessors=10,
    clock_ghz=1.0,
    tflops={"fp16": 100.0, "int8": 200.0},
    source="round numbers",
)
SM89 = Target(name="round-89", sm=89, sheet=SHEET)


def built(graph: Path, profiles: list[Mapping[str, Shapes]]) -> Path:
    plan = graph.with_suffix(".plan")
    build_plan(graph, plan, target=SM89, profiles=profiles)
    return plan


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Plans of towers by their number of blocks, built once each."""
    folder = tmp_path_factory.mktemp("towers")
    plans: dict[int, Path] = {}

    def tower(blocks: int) -> Path:
        if blocks not in plans:
            rng = np.random.default_rng(blocks)
            plans[blocks] = built(write_tower(folder / f"tower{blocks}.onnx", rng, blocks), [BATCH])
        return plans[blocks]

    return tower


@pytest.fixture
def two_blocks(towers: Callable[[int], Path]) -> PlanXray:
    return xray(towers(2), target=SM89, sizes={"x": (2, TOKENS, WIDTH)})


def test_a_real_plan_is_readable_to_the_last_kernel(two_blocks: PlanXray) -> None:
    assert two_blocks.unreadable == ()
    assert two_blocks.notes == ()
    assert (two_blocks.sm, two_blocks.shapes) == (89, {"x": (2, TOKENS, WIDTH)})
    assert all(kernel.predicted_ms is not None for kernel in two_blocks.kernels)


def test_kernels_map_to_the_modules_of_their_block(two_blocks: PlanXray) -> None:
    for block in ("encoder.layers.0", "encoder.layers.1"):
        modules = {module for k in two_blocks.kernels if k.block == block for module in k.modules}
        assert {
            f"{block}.{name}" for name in ("norm1", "attn.qkv", "attn", "attn.proj", "mlp.fc1", "mlp.fc2")
        } <= modules
        products = [k for k in two_blocks.kernels if k.block == block and k.category == "matmul"]
        assert len(products) == 4
    assert two_blocks.total.launches == sum(sums.launches for sums in two_blocks.blocks.values())


def test_attention_is_fused(two_blocks: PlanXray) -> None:
    assert two_blocks.fused_attention == {"_gemm_mha_v2": 2}
    assert two_blocks.unfused_attention == ()


def test_flops_are_those_of_the_graph(two_blocks: PlanXray) -> None:
    rows = 2 * TOKENS
    linears = 2 * rows * (WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
    attention = 4 * 2 * HEADS * TOKENS * TOKENS * (WIDTH // HEADS)
    assert two_blocks.total.flops == 2 * (linears + attention)
    assert two_blocks.quantized_share == 0.0


def test_weights_are_read_once_and_rows_scale_with_the_batch(
    two_blocks: PlanXray, towers: Callable[[int], Path]
) -> None:
    linears = 2 * 2 * (WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
    assert linears <= two_blocks.total.weight_bytes < linears * 1.02  # norms, and scalars beside a product
    larger = xray(towers(2), target=SM89, sizes={"x": (4, TOKENS, WIDTH)})
    assert larger.total.weight_bytes == two_blocks.total.weight_bytes
    assert larger.total.written_bytes == 2 * two_blocks.total.written_bytes


def test_an_inner_block_is_the_steady_state(towers: Callable[[int], Path]) -> None:
    found = xray(towers(4), target=SM89)
    assert found.middle is not None
    assert found.middle.name in ("encoder.layers.1", "encoder.layers.2")
    assert found.middle.launches == found.blocks[found.middle.name].launches
    assert found.middle.least == found.middle.most
    assert xray(towers(2), target=SM89).middle is None
    assert f"middle block {found.middle.launches}" in xray_text(found)


def test_two_towers_differ_by_two_blocks(towers: Callable[[int], Path], two_blocks: PlanXray) -> None:
    text = diff_text(two_blocks, xray(towers(4), target=SM89, sizes={"x": (2, TOKENS, WIDTH)}))
    assert "  +2 _gemm_mha_v2 (2 in A, 4 in B)" in text
    assert "layers.2" in text


def test_the_page_of_a_real_plan_shows_its_block(towers: Callable[[int], Path]) -> None:
    found = xray(towers(4), target=SM89)
    assert found.middle is not None
    assert render_page({"tower.plan": found}).count("<circle") == found.middle.launches


def test_another_target_only_changes_predictions(towers: Callable[[int], Path], two_blocks: PlanXray) -> None:
    other = xray(towers(2), target=ROUND, sizes={"x": (2, TOKENS, WIDTH)})
    assert other.total.bytes == two_blocks.total.bytes
    assert other.total.predicted_ms != two_blocks.total.predicted_ms


def test_int8_is_quantized_with_the_norm_and_scaled_behind_the_product(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    plan = built(write_int8_product(tmp_path / "int8.onnx", rng), [BATCH])
    found = xray(plan, target=SM89, sizes={"x": (2, TOKENS, WIDTH)})
    assert found.unreadable == ()
    (product,) = (kernel for kernel in found.kernels if kernel.category == "matmul")
    assert (product.dtype, product.flops) == ("int8", 2 * 2 * TOKENS * WIDTH * HIDDEN)
    assert found.quantized_share == 1.0
    assert found.high_precision == {}
    quantizing = [kernel for kernel in found.kernels if kernel.quantizes]
    assert [(kernel.category, kernel.quantizes) for kernel in quantizing] == [("norm", "fused")]
    assert sum(bool(kernel.dequantizes) for kernel in found.kernels) == 1


def test_a_decoder_step_counts_all_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    def cache(past: int) -> tuple[int, ...]:
        return (1, HEADS, past, WIDTH // HEADS)

    profile: dict[str, Shapes] = {
        "x": ((1, 1, WIDTH),) * 3,
        "past_key": (cache(96), cache(100), cache(200)),
        "past_value": (cache(96), cache(100), cache(200)),
        "mask": ((1, 1, 1, 97), (1, 1, 1, 101), (1, 1, 1, 201)),
    }
    plan = built(write_decoder_step(tmp_path / "step.onnx", rng), [profile])
    found = xray(plan, target=SM89, sizes={"past_key": cache(150)})
    assert found.unreadable == ()
    assert found.shapes["mask"] == (1, 1, 1, 151)
    assert found.assumed == ()
    assert found.fused_attention == {"_gemv_mha_v1": 1}
    (attention,) = (kernel for kernel in found.kernels if kernel.category == "attention")
    assert attention.flops == 4 * WIDTH * 151
    products = sum(kernel.flops or 0 for kernel in found.kernels if kernel.category == "matmul")
    assert products == 2 * 4 * WIDTH * WIDTH


def test_two_profiles_are_two_schedules(tmp_path: Path, rng: np.random.Generator) -> None:
    def shapes(low: int, high: int) -> Mapping[str, Shapes]:
        return {"x": ((low, TOKENS, WIDTH), (high, TOKENS, WIDTH), (high, TOKENS, WIDTH))}

    plan = built(write_tower(tmp_path / "two.onnx", rng, 1), [shapes(1, 1), shapes(2, 8)])
    assert xray(plan, target=SM89).profiles == 2
    found = xray(plan, target=SM89, sizes={"x": (6, TOKENS, WIDTH)})
    assert (found.profile, found.shapes) == (1, {"x": (6, TOKENS, WIDTH)})
    assert found.unreadable == ()


def test_a_plan_of_fixed_shapes_needs_no_sizes(tmp_path: Path, rng: np.random.Generator) -> None:
    found = xray(built(write_tower(tmp_path / "fixed.onnx", rng, 1, batch=3), []), target=SM89)
    assert (found.shapes, found.assumed, found.unreadable) == ({"x": (3, TOKENS, WIDTH)}, (), ())
    assert found.fused_attention == {"_gemm_mha_v2": 1}


def test_attention_in_fp32_is_seen_not_to_be_fused(tmp_path: Path, rng: np.random.Generator) -> None:
    found = xray(built(write_tower(tmp_path / "fp32.onnx", rng, 1, dtype="float32"), [BATCH]), target=SM89)
    assert (found.fused_attention, found.unfused_attention) == ({}, ("encoder.layers.0",))
    assert "attention: not fused" in xray_text(found)
    linears = 2 * TOKENS * (WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
    assert found.total.flops == linears + 4 * HEADS * TOKENS * TOKENS * (WIDTH // HEADS)
    assert found.total.predicted_ms is not None  # kernels without products are still bound by bandwidth
    assert any("the data sheet has no peak for fp32" in note for note in found.notes)
