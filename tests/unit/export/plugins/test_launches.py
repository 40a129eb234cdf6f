"""What a launch says of a kernel, with and without Triton's interpreter in this process."""

from dataclasses import replace

import pytest

from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.launches import Launch, Tensor
from internvl_edge.export.plugins.tiling.tiles import Tiles, tiles_of
from internvl_edge.runtime.errors import EngineError, InputError

pytest.importorskip("triton", reason="the extra `plugins` is not installed")

from tests.unit.export.plugins.gram_kernel import gram_launch


def test_types_and_constants_follow_the_kernels_parameters() -> None:
    launch = gram_launch(width=32)
    assert launch.arguments == ("x", "shift", "N", "out", "copy")
    assert list(launch.signature().items()) == [
        *(("x", "*fp16"), ("shift", "*fp32"), ("N", "i32"), ("out", "*fp16"), ("copy", "*fp16")),
        *(("D", "constexpr"), ("BM", "constexpr")),
    ]
    assert launch.constexprs() == {"D": 32, "BM": 64}


def test_a_pointer_that_a_variant_lacks_is_compiled_in_as_none() -> None:
    launch = gram_launch(shift=False)
    assert launch.signature()["shift"] == "constexpr"
    assert launch.constexprs()["shift"] is None


def test_the_grid_of_numbers_and_the_formula_agree() -> None:
    launch = gram_launch()
    sizes = launch.size_values({"x": (3, 257, 64), "shift": (3, 257)})
    assert sizes == {"B": 3, "N": 257}
    assert launch.grid(sizes) == (5, 5, 3)
    assert [axis.evaluate(sizes) for axis in launch.symbolic_grid()] == [5, 5, 3]  # type: ignore[union-attr]


def test_a_grid_that_branches_cannot_go_into_a_plan() -> None:
    launch = replace(gram_launch(), grid_function="grid_that_branches")
    assert launch.grid({"B": 1, "N": 1})[0] == 1
    with pytest.raises(EngineError, match=r"gram: a grid cannot compare sizes"):
        launch.symbolic_grid()


def test_another_order_than_tensorrts_is_refused() -> None:
    launch = replace(gram_launch(), outputs=tuple(reversed(gram_launch().outputs)))
    with pytest.raises(EngineError, match=r"takes x, shift, N, out, copy; plugins hand over x, shift, N, copy, out"):
        launch.function()


def test_a_size_that_the_grid_lacks_is_named() -> None:
    with pytest.raises(EngineError, match=r"its grid needs B"):
        gram_launch().grid({"N": 3})


def test_shapes_and_strides_that_a_kernel_would_misread_are_listed_together() -> None:
    launch = gram_launch()
    launch.check_shapes({"x": (2, 5, 64), "shift": (2, 8)}, {"x": (320, 64, 1)})
    with pytest.raises(InputError) as caught:
        launch.check_shapes({"x": (2, 5, 64), "shift": (0, 8)}, {"x": (384, 64, 1)})
    assert "x has strides [384, 64, 1], the kernel reads [320, 64, 1]" in str(caught.value)
    assert "shift is empty: [0, 8]" in str(caught.value)
    with pytest.raises(InputError, match=r"x has rows of 126 bytes, no multiple of 16"):
        launch.check_shapes({"x": (2, 5, 63), "shift": (2, 8)}, {})


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"no tensor type 'fp64'"):
        Tensor(name="x", type="fp64")


def test_a_digest_tells_variants_apart_and_is_stable() -> None:
    digests = {gram_launch(kind, tile=tile).digest() for kind in ("fp16", "bf16") for tile in (32, 64)}
    assert len(digests) == 4
    assert gram_launch().digest() == gram_launch().digest()


def test_tiles_are_read_as_written() -> None:
    tiles = Tiles(constants={"BM": 64, "BN": 32}, warps=8, stages=3)
    assert tiles_of(tiles.text()) == tiles


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_hands_over_what_its_kernel_takes(family: object) -> None:
    for types, attributes in family.variants:  # type: ignore[attr-defined]
        launch: Launch = family.launch(types, attributes, family.choices[0])  # type: ignore[attr-defined]
        assert "constexpr" not in [launch.signature()[name] for name in launch.arguments]
        missing = [name for name, value in launch.constexprs().items() if value is None and name.isupper()]
        assert missing == []
        for sizes in family.typical:  # type: ignore[attr-defined]
            known = {**dict.fromkeys(launch.sizes, 1), **sizes}
            formulas = [axis if isinstance(axis, int) else axis.evaluate(known) for axis in launch.symbolic_grid()]
            assert list(launch.grid(known)) == formulas
            work = family.work(launch, sizes)  # type: ignore[attr-defined]
            assert work.blocks == formulas[0] * formulas[1] * formulas[2]
            assert work.intensity > 0
