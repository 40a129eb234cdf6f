"""Which kernels there are for which device, type and width."""

import ast
import re
from dataclasses import replace

import pytest

from internvl_edge.export.plugins.families import FAMILIES
from internvl_edge.export.plugins.family import Family, first_sm
from internvl_edge.export.plugins.tiling.tiles import searched_tiles
from internvl_edge.runtime.errors import EngineError
from tests.project import ROOT

BY_NAME = {family.name: family for family in FAMILIES}
VIT = BY_NAME["vit_attention"]
TYPES = {"qkv": "fp16", "statistics": "fp32", "q_gain": "fp16", "k_gain": "fp16"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_listed_variant_has_tiles_from_ampere_on(family: Family) -> None:
    for types, attributes in family.variants:
        for sm in (80, 86, 87, 89, 90, 100, 103, 110, 120, 121):
            if sm < first_sm(types, attributes):
                continue
            assert family.refusal(types, attributes, sm) == "", (family.key(types, attributes), sm)
            assert family.launches(types, attributes, sm)


@pytest.mark.parametrize(
    ("types", "attributes", "sm", "reason"),
    [
        (TYPES, {"heads": 25, "head_dim": 128}, 89, ""),
        (TYPES | {"qkv": "bf16"}, {"heads": 2, "head_dim": 128}, 130, ""),
        (TYPES, {"heads": 25, "head_dim": 128}, 75, "sm_75: Triton emits no tensor-core code for it"),
        (TYPES, {"heads": 25, "head_dim": 96}, 89, "no tiles were found for head dim 96 on sm_89"),
        (TYPES | {"qkv": "fp32"}, {"heads": 25, "head_dim": 128}, 89, "no kernel takes fp32; bf16, fp16 are there"),
        (TYPES | {"qkv": "fp8"}, {"heads": 25, "head_dim": 128}, 87, "sm_87 has no FP8"),
    ],
)
def test_what_has_no_kernel_says_why(types: dict[str, str], attributes: dict[str, int], sm: int, reason: str) -> None:
    assert VIT.refusal(types, attributes, sm) == reason  # type: ignore[arg-type]


def test_a_kernel_for_a_newer_sm_is_one_entry_of_its_family() -> None:
    newer = replace(VIT, later_kernels={110: "vit_attention_wide.attend"})
    attributes: dict[str, int] = {"heads": 25, "head_dim": 128}
    kernels = {sm: {launch.kernel for launch in newer.launches(TYPES, attributes, sm)} for sm in (80, 103, 110, 121)}
    assert kernels[80] == kernels[103] == {VIT.kernel}
    assert kernels[110] == kernels[121] == {"vit_attention_wide.attend"}
    assert newer.kernel_on(130) == "vit_attention_wide.attend"


def test_an_sm_that_was_not_searched_takes_the_tiles_of_the_next_lower_one() -> None:
    key = "vit_attention fp8 d128"
    assert searched_tiles(key, 130) == searched_tiles(key, 121) != ()
    assert searched_tiles(key, 87) == searched_tiles(key, 88) == ()  # FP8 begins with 89


def test_a_node_must_tell_all_widths() -> None:
    with pytest.raises(EngineError, match=r"vit_attention: the node lacks head_dim"):
        VIT.launches(TYPES, {"heads": 25}, 89)


def test_both_16_bit_types_share_a_row_of_the_table() -> None:
    rows = {VIT.key(types, attributes) for types, attributes in VIT.variants}
    assert rows == {"vit_attention fp16 d128"}
    assert searched_tiles("vit_attention fp16 d128", 75) == ()


def test_an_output_follows_its_input_or_the_node() -> None:
    coded = BY_NAME["vit_attention_8bit"]
    types, attributes = next(variant for variant in coded.variants if variant[0]["qkv"] == "int8")
    tiles = coded.choices[0]
    assert coded.launch(types, attributes, tiles).outputs[0].type == "int8"
    assert coded.launch(types, {**attributes, "out": "fp16"}, tiles).outputs[0].type == "fp16"
    assert coded.launch(types, attributes, tiles).outputs[0].shape == ("B", "N", 3200)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "scales" in family.inputs], ids=lambda f: f.name)
def test_scales_are_in_the_kernels_order(family: Family) -> None:
    """Read, not imported: kernels that are imported here would not be interpreted by other tests of this process."""
    names = [family.kernel.partition(".")[0], "codes"]
    texts = [(ROOT / "export" / "plugins" / "kernels" / f"{name}.py").read_text() for name in names]
    found = [ast.literal_eval(match[1]) for text in texts if (match := re.search(r"^SCALES = (\(.*\))$", text, re.M))]
    assert family.scales == found[0]
