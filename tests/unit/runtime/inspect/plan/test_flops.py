"""Matrix products that a plan declares: 2 x outputs x values summed up for each."""

import pytest

from internvl_edge.runtime.inspect.plan.flops import MatrixWork, matrix_work
from internvl_edge.runtime.inspect.plan.symbols import Sizes
from tests.unit.runtime.inspect.plan.small_programs import NOTHING, launch, program, schedule, step, tensor

ROWS = Sizes(values={"rows": 5}, shapes={}, assumed=())


def work(category: str, dims: dict[str, tuple[int | str, ...]], kind: str, inputs: str, outputs: str) -> object:
    tensors = {name: tensor(shape) for name, shape in dims.items()}
    return matrix_work(launch(step(kind, inputs, outputs), category), schedule(program(tensors)), ROWS)


@pytest.mark.parametrize("weight", [(192, 576), (576, 192)])
def test_a_linear_sums_over_the_last_axis(weight: tuple[int, ...]) -> None:
    dims = {"x": ("rows", 192), "w": weight, "y": ("rows", 576)}
    assert work("matmul", dims, "fully_connected", "x w", "y") == MatrixWork(flops=2 * 5 * 576 * 192, dtype="fp16")


def test_a_convolution_sums_over_channels_and_window() -> None:
    dims = {"x": (1, 3, 28, 28), "w": (64, 3, 14, 14), "y": (1, 64, 2, 2)}
    assert work("convolution", dims, "corrltn", "x w", "y") == MatrixWork(flops=2 * 256 * 3 * 14 * 14, dtype="fp16")


def test_attention_has_two_products_over_the_longest_keys() -> None:
    dims = {
        "q": (1, 4, 2, 16),
        "k": (1, 4, 16, 9),
        "v": (1, 4, 9, 16),
        "y": (1, 4, 2, 16),
    }
    expected = MatrixWork(flops=2 * (2 * 4 * 2 * 9 * 16), dtype="fp16")
    assert work("attention", dims, "function", "q k v", "y") == expected


def test_what_is_no_product_has_none() -> None:
    assert work("norm", {}, "function", "x", "y") == MatrixWork(flops=0, dtype="")


@pytest.mark.parametrize(
    ("category", "dims", "kind", "inputs"),
    [
        ("matmul", {"x": ("rows", 192), "w": (64, 576), "y": ("rows", 576)}, "fully_connected", "x w"),
        ("matmul", {"x": ("unknown", 192), "w": (192, 576), "y": ("rows", 576)}, "fully_connected", "x w"),
        ("matmul", {"x": ("rows", 192), "y": ("rows", 576)}, "fully_connected", "x"),
        ("matmul", {"x": ("rows", 192), "w": (192, 576)}, "fully_connected", "x w"),
        ("matmul", {"x": ("rows", 192), "w": (192, 576), "y": ("rows", 576)}, "runtime_fusion", "x w"),
        ("attention", {"q": (1, 4, 2, 16), "y": (1, 4, 2, 16)}, "function", "q"),
        ("attention", {"q": (1, 4, 3, 16), "k": (1, 4, 9, 16), "y": (1, 4, 2, 16)}, "function", "q k"),
        ("attention", {"q": (1, 4, 2, 16), "k": (1, 2, 9, 16), "y": (1, 4, 2, 16)}, "function", "q k"),
        ("attention", {"q": (1, 4, "unknown", 16), "k": (1, 4, 9, 16), "y": (1, 4, 2, 16)}, "function", "q k"),
    ],
)
def test_what_the_plan_does_not_tell_is_none(
    category: str, dims: dict[str, tuple[int | str, ...]], kind: str, inputs: str
) -> None:
    assert work(category, dims, kind, inputs, "y") is None


def test_a_fusion_is_counted_by_its_description_at_the_steps_sizes() -> None:
    inner = program(
        {"a": tensor(("n", 192)), "w": tensor((192, 576), "int8", 110592), "b": tensor(("n", 576))},
        [step("fully_connected", "a w", "b"), step("function", "b", "c")],
        inputs="x n",
        outputs="c",
    )
    fused = step("runtime_fusion", "x rows", "y", binary=0)
    found = matrix_work(launch(fused, "matmul"), schedule(program({}), inner), ROWS)
    assert found == MatrixWork(flops=2 * 5 * 576 * 192, dtype="fp16")


@pytest.mark.parametrize(
    ("weight", "out", "flops"),
    [((192, 576), (1, 576), 2 * 576 * 192), ((576, 192), (1, 576), 2 * 576 * 192), ((7, 100), (1, 576), None)],
)
def test_one_row_is_a_vector_product(weight: tuple[int, ...], out: tuple[int, ...], flops: int | None) -> None:
    tensors = {"x": tensor((1, 192)), "w": tensor(weight, "int8", 110592), "y": tensor(out)}
    found = matrix_work(launch(step("function", "x w", "y"), "matmul"), schedule(program(tensors)), NOTHING)
    assert found == (None if flops is None else MatrixWork(flops=flops, dtype="int8"))


@pytest.mark.parametrize(("dtype", "quantized"), [("int8", True), ("fp8", True), ("fp16", False), ("fp32", False)])
def test_products_of_8_bits_are_quantized(dtype: str, quantized: bool) -> None:
    assert MatrixWork(flops=1, dtype=dtype).quantized == quantized
