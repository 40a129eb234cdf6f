"""`build`, `targets` and `doctor` as a user runs them, with the real TensorRT-RTX."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx_ir as ir
import pytest

from internvl_edge.export.plans.lower_graph import block_bytes
from internvl_edge.export.run.staging import staged
from internvl_edge.runtime.targets.estimate import host_peak_bytes
from internvl_edge.runtime.targets.sms import RTX_SMS
from tests.e2e.conftest import Run
from tests.tolerances import HANG_S

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")


@pytest.fixture(scope="module")
def bundle(run: Run, golden_a: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("build") / "bundle"
    done = run("export", golden_a / "checkpoint", "-o", output, "--graphs", "vision,text")
    assert done.returncode == 0, done.stderr
    return output


def refusal(run: Run, bundle: Path, *options: object) -> str:
    before = sorted(str(path) for path in bundle.parent.rglob("*"))
    done = run("build", bundle, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(str(path) for path in bundle.parent.rglob("*")) == before
    (line,) = done.stderr.strip().splitlines()
    return line


def test_plans_for_every_architecture_of_tensorrt_rtx(run: Run, bundle: Path) -> None:
    for sm in RTX_SMS:
        done = run("build", bundle, "--target", f"sm_{sm}", "--graphs", "vision", "--batch", "1:2:4")
        assert done.returncode == 0, done.stderr
        record = json.loads((bundle / "engines" / f"sm_{sm}" / "engine.json").read_text())
        assert (record["sm"], record["driver"]) == (sm, None)
        assert record["graphs"]["vision"]["profiles"][0]["pixel_values"][2][0] == 4
    again = run("build", bundle, "--target", "sm_89", "--graphs", "vision", "--batch", "1:2:4")
    assert "kept" in again.stdout


def test_attention_kernels_are_asked_for_where_none_are_taken(run: Run, bundle: Path) -> None:
    done = run("build", bundle, "--target", "sm_86", "--graphs", "vision", "--attention", "plugin")
    assert done.returncode == 0, done.stderr
    assert "no ahead-of-time plugins here" in done.stderr
    assert json.loads((bundle / "engines" / "sm_86" / "engine.json").read_text())["flags"]["attention"] == "pattern"


def test_a_limit_of_memory_cuts_the_graph(run: Run, bundle: Path) -> None:
    block = block_bytes(ir.load(next((bundle / "onnx").rglob("vision.onnx"))))
    limit = f"{host_peak_bytes(block)}B"
    done = run("build", bundle, "--target", "l4", "--graphs", "vision", "--max-host-mem", limit, "--batch", "1:2:4")
    assert done.returncode == 0, done.stderr
    plans = json.loads((bundle / "engines" / "l4" / "engine.json").read_text())["graphs"]["vision"]["plans"]
    assert len(plans) >= 3
    for before, after in itertools.pairwise(plans):
        assert set(after["inputs"]) & set(before["outputs"]), "a chain"
    page = (bundle / "reports" / "engine.html").read_text()
    assert page.count('<section class="plan"') == page.count("<svg") // 2 == len(plans)
    assert "as small as the plan allows" not in page, "what one part gives is what the next one takes"


def test_a_search_takes_the_leanest_form_and_records_its_counts(run: Run, bundle: Path) -> None:
    done = run("build", bundle, "--target", "rtx-4090", "--graphs", "vision", "--search-forms")
    assert done.returncode == 0, done.stderr
    form = json.loads((bundle / "engines" / "rtx-4090" / "engine.json").read_text())["graphs"]["vision"]["form"]
    (cost,) = form["costs"]
    assert form["block"] == "vision_model.encoder.layers.1"
    assert cost["launches"] == len(cost["kernels"]) >= 5
    assert f"{form['block']} takes {cost['launches']} launches" in done.stdout
    seen = run("inspect", "--engine", bundle / "engines" / "rtx-4090" / "vision.plan", "--json")
    launches = [k for k in json.loads(seen.stdout)["kernels"] if k["block"] == form["block"]]
    assert len(launches) == cost["launches"], "the tower is not written as the blocks were"


def test_a_plan_is_looked_into_compared_and_drawn(run: Run, bundle: Path) -> None:
    assert run("build", bundle, "--target", "rtx-5090", "--graphs", "vision,text").returncode == 0
    folder, page = bundle / "engines" / "rtx-5090", bundle / "reports" / "vision.html"
    shape = ("--shape", "pixel_values=4x3x56x56")
    found = run("inspect", "--engine", folder / "vision.plan", *shape, "--html", page)
    assert found.returncode == 0, found.stderr
    assert "vision_model.encoder.layers.1" in found.stdout
    assert "predicted for rtx-5090" in found.stdout
    assert "<svg" in page.read_text()
    other = run("inspect", "--engine", folder / "vision.plan", "--diff", folder / "text.plan")
    assert other.returncode == 0, other.stderr
    assert "launches" in other.stdout
    assert run("inspect").returncode == 2
    (folder / "no.plan").write_bytes(b"no plan")
    refused = run("inspect", "--engine", folder / "no.plan")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def test_a_build_writes_the_page_of_its_plans(run: Run, bundle: Path) -> None:
    page = bundle / "reports" / "engine.html"
    done = run("build", bundle, "--target", "rtx-3090", "--batch", "1:2:4")
    assert done.returncode == 0, done.stderr
    assert f"{page}: their launches, bytes and predicted times" in done.stdout
    html = page.read_text()
    assert "for rtx-3090</h1>" in html
    assert html.count('<section class="plan"') == 2
    assert "pixel_values 2×3×56×56" in html
    assert ">not readable</td>" not in html
    page.unlink()
    assert "kept" in run("build", bundle, "--target", "rtx-3090", "--batch", "1:2:4").stdout
    assert page.exists()


def test_two_builds_for_one_target_at_once(run: Run, bundle: Path) -> None:
    with staged(bundle / "engines" / "t4", {"the bundle": "another"}):
        refused = run("build", bundle, "--target", "t4", "--graphs", "text")
    (bundle / "engines" / "t4").rmdir()
    assert refused.returncode == 1
    assert "engines/t4: another process is writing it; wait for it to end" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_kit_for_a_device_that_builds_its_own(run: Run, bundle: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    done = run("build", bundle, "--target", "h100", "-o", kit, "--trtexec")
    assert done.returncode == 0, done.stderr
    assert "a kit for h100 (sm_90)" in done.stdout
    assert "--stronglyTyped" in done.stdout
    assert not list(kit.rglob("*.plan"))
    assert "copy it to the device" in run("build", kit).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "rtx-4091"], ["rtx-4091", "rtx-4090"]),
        (["--target", "l4", "--batch", "4:2:1"], ["--batch 4:2:1", "min <= opt <= max"]),
        (["--target", "l4", "--batch", "0"], ["--batch 0:0:0", "not a range"]),
        (
            ["--target", "l4", "--max-host-mem", "4KiB"],
            ["--max-host-mem 4KiB", "a block", "MiB or more, or build fewer --graphs"],
        ),
        (["--target", "l4", "--text-length", "1:80:160"], ["160", "80"]),
        (["--target", "l4", "--graphs", "decoder"], ["decoder", "vision, text"]),
        (["--target", "l4", "--attention", "flash"], ["--attention flash", "pattern"]),
        ([], ["--target"]),
    ],
)
def test_bad_options(run: Run, bundle: Path, options: list[str], words: list[str]) -> None:
    line = refusal(run, bundle, *options)
    assert [word for word in words if word not in line] == []


def test_a_changed_bundle_is_not_built(run: Run, bundle: Path) -> None:
    graph = next((bundle / "onnx").rglob("text.onnx"))
    content = graph.read_bytes()
    try:
        graph.write_bytes(content + b"\0")
        assert "text.onnx has" in refusal(run, bundle, "--target", "l4")
    finally:
        graph.write_bytes(content)


def test_a_killed_build_leaves_nothing_half_and_goes_on(run: Run, bundle: Path) -> None:
    folder = bundle / "engines" / "a10"
    partial = bundle / "engines" / ".a10.partial"
    command = [sys.executable, "-m", "internvl_edge.cli", "build", str(bundle), "--target", "a10"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and not list(partial.glob("*.plan")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    done = run(*command[3:])
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "text.plan", "vision.plan"]
    assert not partial.exists()


def test_targets_and_doctor(run: Run, bundle: Path) -> None:
    listed = run("targets")
    assert "agx-orin-64gb" in listed.stdout
    assert {entry["name"] for entry in json.loads(run("targets", "--json").stdout)} >= {"t4", "b200"}
    found = json.loads(run("doctor", bundle, "--target", "orin-nano-8gb", "--json").stdout)
    assert found["builds_with"] is None
    assert [graph["name"] for graph in found["graphs"]] == ["vision", "text"]
    assert all(graph["activation_bytes"] > 0 for graph in found["graphs"])
    text = run("doctor", bundle, "--target", "t4").stdout
    assert "built here by tensorrt_rtx" in text
    assert "nothing blocks it" in text
    assert "GPU:" in run("doctor").stdout
