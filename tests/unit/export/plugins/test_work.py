"""What a launch does, counted by hand: operations and bytes from which the choice of tiles follows."""

import pytest

from internvl_edge.export.plugins.launches import Constant, Launch, Tensor
from internvl_edge.export.plugins.work import (
    combine_work,
    cross_work,
    decode_work,
    pool_work,
    qllama_work,
    rows_work,
    vit_work,
)


def launch(inputs: dict[str, str], output: str = "fp16", **constants: Constant) -> Launch:
    return Launch(
        plugin="p",
        kernel="k",
        inputs=tuple(Tensor(name=name, type=kind) for name, kind in inputs.items()),
        sizes={},
        integers=(),
        outputs=(Tensor(name="out", type=output),),
        constants=constants,
    )


def test_a_tower() -> None:
    """Two pictures of 100 rows, 3 heads of 48 channels, tiles of 64 rows and 32 keys; products are padded to 64."""
    work = vit_work(launch({"qkv": "fp16"}, HEADS=3, D=48, BM=64, BN=32), {"B": 2, "N": 100})
    assert work.blocks == 2 * 2 * 3
    assert work.steps == 4
    assert work.step_flops == 4 * 64 * 32 * 64
    assert work.step_exponentials == 64 * 32
    assert work.step_arithmetic == 6 * 64 * 32 + 2 * 64 * 64
    assert work.step_bytes == 2 * 32 * 48 * 2
    assert work.unique_bytes == 2 * 100 * 3 * 48 * (3 * 2 + 2)
    assert work.useful_flops == 4 * 100 * 100 * 48 * 3 * 2
    assert work.product_type == "fp16"


def test_codes_cost_a_conversion_and_half_the_bytes() -> None:
    """A number of keys and values costs 5.5 operations each, every turn anew; the output is of 16 bits."""
    work = vit_work(launch({"qkv": "int8", "scales": "fp32"}, HEADS=1, D=64, BM=16, BN=16), {"B": 1, "N": 16})
    assert work.step_arithmetic == 6 * 16 * 16 + 2 * 16 * 64 + 2 * 5.5 * 16 * 64
    assert work.step_bytes == 2 * 16 * 64
    assert work.unique_bytes == 16 * 64 * (3 + 2)
    assert work.product_type == "int8"


def test_fewer_than_16_rows_are_padded_to_16() -> None:
    work = vit_work(launch({"qkv": "bf16"}, HEADS=1, D=64, BM=4, BN=32), {"B": 1, "N": 4})
    assert (work.step_flops, work.blocks, work.product_type) == (4 * 16 * 32 * 64, 1, "bf16")


@pytest.mark.parametrize(("causal", "keys"), [(False, 16), (True, 12)])
def test_qllama_with_a_past(causal: bool, keys: int) -> None:
    """Eight rows follow eight cached ones: causal rows see half of the new keys. The cache is read and copied."""
    count = qllama_work(causal)
    work = count(launch({"q": "fp16"}, HEADS=2, D=64, BM=8, BN=16), {"B": 1, "N": 8, "TOTAL": 16})
    assert work.steps == 1
    assert work.useful_flops == 4 * 8 * keys * 64 * 2
    assert work.unique_bytes == 4 * 8 * 128 * 2 + 4 * 8 * 128 * 2
    assert work.step_arithmetic == 6 * 8 * 16 + 2 * 8 * 64 + 4 * 16 * 64, "keys are rotated, four operations a number"
    alone = count(launch({"q": "fp16"}, HEADS=2, D=64, BM=8, BN=16), {"B": 1, "N": 8, "TOTAL": 8})
    assert alone.unique_bytes == 4 * 8 * 128 * 2


def test_the_pass_over_rows() -> None:
    work = rows_work(launch({"qkv": "bf16"}, WIDTH=64), {"B": 2, "N": 5})
    assert (work.blocks, work.steps, work.step_flops, work.step_exponentials) == (20, 1, 0, 0)
    assert (work.step_arithmetic, work.step_bytes) == (128, 128)
    assert (work.unique_bytes, work.useful_flops) == (2 * 10 * 128, 4 * 10 * 64)


@pytest.mark.parametrize(("copies", "times"), [(0, 2), (1, 4)])
def test_one_row_on_a_cache(copies: int, times: int) -> None:
    """Its 100 keys are split in 4 parts of 25, of which each takes two turns of 16, without tensor cores."""
    inputs = {"q": "fp16", "key_cache": "fp16"}
    work = decode_work(launch(inputs, HEADS=2, D=64, BN=16, SPLITS=4, COPY=copies), {"B": 3, "TOTAL": 100})
    assert (work.blocks, work.steps) == (4 * 3 * 2, 2)
    assert work.unique_bytes == times * 3 * 100 * 2 * 64 * 2
    assert (work.step_flops, work.step_arithmetic) == (0, 6 * 16 * 64)


def test_weighing_splits_together() -> None:
    work = combine_work(launch({"parts": "fp32"}, HEADS=2, D=64, SPLITS=4), {"R": 5})
    assert (work.blocks, work.steps, work.step_exponentials) == (10, 1, 4)
    assert (work.step_arithmetic, work.step_bytes) == (512, 1024)
    assert work.unique_bytes == 10 * (4 * 256 + 2 * 64)
    assert work.useful_flops == 2 * 5 * 2 * 256


def test_queries_on_other_rows() -> None:
    """Twice the splits are twice the blocks on half of the keys; a pool has one query and no tensor cores."""
    one = launch({"q": "fp16", "k": "fp16"}, HEADS=2, D=64, BM=16, BN=16, SPLITS=2)
    work = cross_work(one, {"B": 1, "Q": 32, "N": 64})
    assert (work.blocks, work.steps) == (2 * 2 * 2, 2)
    assert work.unique_bytes == 2 * (32 + 64) * 2 * 64 * 2
    pooled = pool_work(one, {"B": 1, "N": 64})
    assert (pooled.blocks, pooled.step_flops, pooled.step_arithmetic) == (2 * 2, 0, 6 * 16 * 64)
    assert pooled.unique_bytes == 2 * (1 + 64) * 2 * 64 * 2
