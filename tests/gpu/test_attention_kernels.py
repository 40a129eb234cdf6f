"""Attention kernels on the device: as Triton compiles them there, and as plans carry them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from internvl_edge.runtime.backends.cuda import Device
from tests.gpu.agree import Record
from tests.gpu.marks import GPU
from tests.project import ROOT

pytestmark = GPU

KERNELS = ("vit_attention", "qllama_attention", "query_cross_attention", "attention_pool")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_equals_its_reference_and_is_timed(
    device: Device, tmp_path: Path, kernel: str, record_property: Record
) -> None:
    """All cases, those of true size too; and the fastest of our launches beside torch's own operators."""
    pytest.importorskip("triton", reason="Kernels are compiled by Triton, which is not installed: pip install triton.")
    found = _ran(tmp_path / "found.json", "attention_gpu.py", str(tmp_path / "found.json"), "--only", kernel)
    failed = [entry for entry in found if "failed" in entry]
    for entry in found:
        if "ours_us" in entry:
            record_property(f"{entry['timing']}: ours us", entry["ours_us"])
            record_property(f"{entry['timing']}: torch us", entry["torch_us"])
    cases = sum("case" in entry for entry in found)
    record_property("cases", cases)
    assert cases, "nothing was run"
    assert not failed, failed


def test_kernels_of_plans_run_and_are_predicted(device: Device, tmp_path: Path, record_property: Record) -> None:
    """The very PTX that a plan carries, launched by the driver, with the two tiles that each variant has."""
    pytest.importorskip("triton", reason="Kernels are compiled by Triton, which is not installed: pip install triton.")
    kernels = tmp_path / "kernels.json"
    _ran(kernels, "attention_ptx.py", "compile", str(kernels), "--sm", str(device.sm))
    found = _ran(tmp_path / "found.json", "attention_ptx.py", "run", str(kernels), str(tmp_path / "found.json"))
    failed = [entry for entry in found if "failed" in entry]
    assert not failed, failed
    ratios = sorted(entry["us"] / entry["predicted_us"] for entry in found if "us" in entry)
    record_property("launches", len(found))
    record_property("least measured to predicted", ratios[0])
    record_property("median measured to predicted", ratios[len(ratios) // 2])
    record_property("largest measured to predicted", ratios[-1])


def _ran(results: Path, script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a benchmark in a process of its own, which does not interpret kernels; return what it wrote."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found
