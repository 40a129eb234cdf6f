"""Which kernels quantize and dequantize, with other work or on their own."""

import pytest

from internvl_edge.runtime.inspect.plan.quantization import QdqRoles, qdq_roles
from tests.unit.runtime.inspect.plan.small_programs import launch, program, step, tensor

NOTHING = QdqRoles(quantizes="", dequantizes="")
TENSORS = {
    "x": tensor((4,)),
    "codes": tensor((4,), "int8"),
    "weights": tensor((4,), "int8", 4),
    "sums": tensor((4,)),
    "view": tensor((4,), base="sums"),
    "y": tensor((4,)),
}


def roles(*launches: tuple[str, str, str, str, str]) -> list[QdqRoles]:
    """Each launch: category, operations, inputs, outputs, layers."""
    made = [
        launch(step("function", reads, writes, layers), category, ops)
        for category, ops, reads, writes, layers in launches
    ]
    return list(qdq_roles(made, program(TENSORS)))


@pytest.mark.parametrize(
    ("operations", "layers", "place"),
    [
        ("Mul Roun Max Min Cast", "a/QuantizeLinear", "own"),
        ("Mul Roun Max Min Cast", "a/QuantizeLinear norm1", "fused"),
        ("Mean Mul Roun", "a/QuantizeLinear", "fused"),
    ],
)
def test_wide_to_narrow_quantizes(operations: str, layers: str, place: str) -> None:
    assert roles(("elementwise", operations, "x", "codes", layers)) == [QdqRoles(quantizes=place, dequantizes="")]


def test_a_product_that_reads_codes_and_writes_wide_dequantizes_itself() -> None:
    assert roles(("matmul", "", "codes weights", "y", "fc1")) == [QdqRoles(quantizes="", dequantizes="product")]


def test_scales_that_a_later_kernel_applies_are_its_work_even_through_a_view() -> None:
    product = ("matmul", "", "codes weights", "sums", "fc1")
    for read in ("sums", "view"):
        scales = ("elementwise", "Mul", read, "y", "fc1/DequantizeLinear")
        assert roles(product, scales) == [NOTHING, QdqRoles(quantizes="", dequantizes="own")]
        gelu = ("elementwise", "Mul Erf", read, "y", "fc1/DequantizeLinear act")
        assert roles(product, gelu) == [NOTHING, QdqRoles(quantizes="", dequantizes="fused")]


def test_narrow_to_wide_without_a_product_dequantizes() -> None:
    found = roles(("elementwise", "Cast Mul", "codes", "y", "a/DequantizeLinear"))
    assert found == [QdqRoles(quantizes="", dequantizes="own")]


@pytest.mark.parametrize(
    ("reads", "writes"), [("x", "y"), ("codes", "codes"), ("weights", "codes"), ("", "codes"), ("x", "host")]
)
def test_what_stays_as_wide_as_it_was_has_no_role(reads: str, writes: str) -> None:
    assert roles(("elementwise", "Mul", reads, writes, "a")) == [NOTHING]
