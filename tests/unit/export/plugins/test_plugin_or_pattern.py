"""What plugin and pattern are predicted to take, and which wins; kernels are compiled, nothing runs."""

import os
import subprocess
import sys

import pytest

from internvl_edge.export.plugins import plugin_or_pattern as choice
from internvl_edge.export.plugins.compile_kernel import CompiledKernel
from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.launches import Launch
from internvl_edge.export.plugins.pattern_costs import CODED, WIDE
from internvl_edge.export.plugins.plugin_or_pattern import Call, weigh
from internvl_edge.export.plugins.tiling.tiles_model import LAUNCH_US, Work, best_case_us, memory_us

WEIGHED = """
from internvl_edge.export.plugins.plugin_or_pattern import Call, weigh
from internvl_edge.export.plugins.families import FAMILIES
family = next(family for family in FAMILIES if family.name == "attention_pool")
types, told = family.variants[0]
found = weigh([Call(plugin=family.name, types=types, attributes=told, sizes={"B": 1, "N": 257})], 87)
print(found.plugin.us, found, sep="|")
"""
BY_NAME = {family.name: family for family in FAMILIES}


def call(plugin: str, sizes: dict[str, int], variant: int = 0) -> Call:
    types, told = BY_NAME[plugin].variants[variant]
    return Call(plugin=plugin, types=types, attributes=told, sizes=sizes)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Kernels that fit four times on a multiprocessor and have tensor cores; what was asked for."""
    asked: list[tuple[str, int]] = []

    def compile_kernel(launch: Launch, sm: int) -> CompiledKernel:
        asked.append((launch.plugin, sm))
        return CompiledKernel(
            plugin=launch.plugin, sm=sm, compiled_sm=sm, entry="entry", ptx="", parameters=(), warps=launch.warps,
            shared_bytes=16 << 10, registers=64, spill_bytes=0, stack_bytes=0, tensor_memory_columns=0,
            tensor_cores="mma", triton="", grid=(1, 1, 1),
        )  # fmt: skip

    monkeypatch.setattr(choice, "compile_kernel", compile_kernel)
    return asked


def test_launches_and_bytes_of_a_tower(compiled: list[tuple[str, int]]) -> None:
    sizes = {"B": 1, "N": 257}
    found = weigh([call("vit_norms", sizes), call("vit_attention", sizes)], 89)
    numbers = 257 * 3200 * 2
    assert (found.plugin.launches, found.pattern.launches) == (2, 3)
    assert found.plugin.bytes == pytest.approx(2 * numbers + 4 * numbers), "norms read q and k, attention q, k, v"
    assert found.pattern.bytes == pytest.approx(3.0 * 4 * numbers)
    assert compiled.count(("vit_norms", 89)) == 1
    assert compiled.count(("vit_attention", 89)) == 2, "both tiles: TensorRT times them"


def test_passes_that_scale_8_bit_products_count_for_both(compiled: list[tuple[str, int]]) -> None:
    sizes = {"B": 2, "Q": 96, "N": 257}
    wide = weigh([call("query_cross_attention", sizes)], 89)
    coded = weigh([call("query_cross_attention_8bit", sizes)], 89)
    assert (coded.plugin.launches, coded.pattern.launches) == (3, 4)
    projections = 2 * 2 * (96 + 2 * 257) * 4096
    assert coded.plugin.bytes - wide.plugin.bytes == pytest.approx(2 * projections)
    assert coded.plugin.us > wide.plugin.us + 2 * LAUNCH_US


def test_the_pattern_is_never_slower_than_its_memory(compiled: list[tuple[str, int]]) -> None:
    found = weigh([call("attention_pool", {"B": 8, "N": 1025})], 90)
    assert found.pattern.us >= memory_us(found.pattern.bytes, 90) + 2 * LAUNCH_US
    assert found.wins == (found.plugin.us < found.pattern.us)


def test_the_busiest_unit_bounds_the_best_case() -> None:
    def work(exponentials: float, arithmetic: float) -> Work:
        return Work(
            blocks=132, steps=10, step_flops=0.0, step_exponentials=exponentials, step_arithmetic=arithmetic,
            step_bytes=0.0, unique_bytes=1.0, useful_flops=0.0, product_type="fp16",
        )  # fmt: skip

    clocks_us = 1830.0
    assert best_case_us(work(16 * clocks_us, 0), 90) == pytest.approx(10.0), "16 a clock on every multiprocessor"
    assert best_case_us(work(16 * clocks_us, 128 * 2 * clocks_us), 90) == pytest.approx(20.0)


def test_every_attention_that_a_dialect_writes_has_a_cost() -> None:
    attentions = {
        family.name.removesuffix("_8bit")
        for family in FAMILIES
        if any(output.name == "out" for output in family.outputs)
        and family.name not in ("combine", "attention_pool_split")
    }
    assert attentions == set(WIDE) == set(CODED)
    assert all(CODED[name].scaling < CODED[name].launches for name in CODED)


def test_a_real_kernel_is_weighed() -> None:
    """In a process of its own: other tests of this one interpret kernels, which compiles none."""
    pytest.importorskip("triton", reason="the extra `plugins` is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", WEIGHED], env=environment, capture_output=True, text=True, check=True)
    us, text = done.stdout.strip().split("|")
    assert 1 < float(us) < 1000
    assert "pattern 2 launches" in text
