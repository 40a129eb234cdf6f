"""PTX for GPUs that are not here."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from internvl_edge.export.plugins.compile_kernel import parameter_types, resources, without_scratch
from internvl_edge.runtime.errors import EngineError
from tests.tolerances import HANG_S

PTX = """.version 8.0
.target sm_80
.visible .entry gram(
	.param .u64 .ptr .global .align 1 gram_param_0,
	.param .u32 gram_param_1,
	.param .u64 .ptr .global .align 1 gram_param_2,
	.param .u64 .ptr .global .align 1 gram_param_3
)
.reqntid 128
{
	ld.param.b64 	%rd1, [gram_param_0];
	ret;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the small kernel is for each SM; the process runs without Triton's interpreter."""
    pytest.importorskip("triton", reason="the extra `plugins` is not installed")
    folder = tmp_path_factory.mktemp("kernels")
    command = [sys.executable, "-m", "tests.unit.export.plugins.compile_gram", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"warnings": (folder / "warnings.txt").read_text(), "folder": folder}


@pytest.mark.parametrize(
    ("sm", "target", "version", "unit"),
    [
        ("75", "sm_75", "8.0", ""),
        ("80", "sm_80", "8.0", "mma"),
        ("87", "sm_87", "8.0", "mma"),
        ("90", "sm_90a", "8.0", "wgmma"),
        ("100", "sm_100a", "8.6", "tcgen05"),
        ("110", "sm_110a", "9.0", "tcgen05"),
        ("120", "sm_120a", "8.7", "mma"),
        ("130", "sm_121", "8.8", "mma"),
    ],
)
def test_each_sm_gets_its_units_in_the_oldest_ptx(
    compiled: dict[str, Any], sm: str, target: str, version: str, unit: str
) -> None:
    kernel = compiled["kernels"][sm]
    assert re.findall(r"^\.(?:target|version) (\S+)", kernel["ptx"], re.MULTILINE) == [version, target]
    assert kernel["tensor_cores"] == unit
    assert kernel["parameters"] == ["u64", "u64", "u32", "u64", "u64"]
    assert parameter_types(kernel["ptx"]) == ("u64", "u64", "u32", "u64", "u64")
    assert kernel["warps"] == 4
    assert 0 < kernel["registers"] <= 255
    assert kernel["shared_bytes"] > 0


def test_a_plan_does_not_tell_where_sources_lie(compiled: dict[str, Any]) -> None:
    assert [sm for sm, kernel in compiled["kernels"].items() if ".py" in kernel["ptx"]] == []


def test_a_newer_sm_gets_the_nearest_lower_one_with_a_warning(compiled: dict[str, Any]) -> None:
    assert compiled["kernels"]["130"]["compiled_sm"] == 121
    assert compiled["warnings"].splitlines() == ["sm_130: Triton does not know it; PTX of sm_121 is used"]


def test_kernels_are_kept_and_travel_without_triton(compiled: dict[str, Any]) -> None:
    assert compiled["kept"]
    assert compiled["stored"]
    assert len(list(compiled["folder"].glob("gram-sm*.json"))) == 8
    assert "no kernel of gram for sm_90; write the kit again" in compiled["said"]["absent"]


def test_what_cannot_be_compiled_says_why(compiled: dict[str, Any]) -> None:
    assert compiled["said"]["old"].startswith("sm_70: no kernel can be compiled for it; sm_75 and newer")
    assert compiled["said"]["refused"].startswith("gram: Triton refuses it for sm_80: ")


def test_the_two_scratch_pointers_are_dropped() -> None:
    stripped = without_scratch(PTX)
    assert parameter_types(stripped) == ("u64", "u32")
    assert "gram_param_2" not in stripped
    assert stripped.endswith(PTX[PTX.index(".reqntid") :])


def test_scratch_in_use_is_refused() -> None:
    used = PTX.replace("[gram_param_0]", "[gram_param_3]")
    with pytest.raises(EngineError, match=r"gram: uses scratch memory \(gram_param_3\)"):
        without_scratch(used)
    with pytest.raises(EngineError, match="has no entry"):
        without_scratch("")


def test_ptxas_is_read() -> None:
    said = """ptxas info    : Compiling entry function 'gram' for 'sm_80'
ptxas info    : Function properties for gram
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 392 bytes cmem[0]
"""
    assert resources(said) == {"registers": 168, "spill_bytes": 20, "stack_bytes": 24}
