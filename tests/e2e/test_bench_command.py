"""`bench` on the demo: figures of every graph and request, its files, Ctrl-C, two at once, wrong options."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Run
from tests.e2e.test_cli import one_line
from tests.layer_reader import read_layers
from tests.tolerances import HANG_S

QUICK = ("--duration", "0.05", "--iterations", "3", "--threads", "1")


def test_every_graph_and_request_is_measured(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.out" for name in ("json", "html", "trace")}
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    done = run("bench", demo_bundle, *QUICK, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("=== Performance summary ===") == 9
    assert done.stdout.count("Settings: backend ") == 9
    report = json.loads(files["json"].read_text())
    assert [case["name"] for case in report["cases"]] == [
        *("vision", "query", "text", "decoder prompt", "decoder step", "itm"),
        *("request image", "request text", "request caption"),
    ]
    stages = {case["name"]: {stage["stage"] for stage in case["stages"]} for case in report["cases"]}
    assert stages["vision"] == {"compute"}
    assert {"decode image", "preprocess", "compute"} <= stages["request image"]
    assert {"tokenize", "compute"} <= stages["request text"]
    for case in report["cases"]:
        assert len(case["times_ms"]) == case["host"]["count"] >= 3
        assert case["cold"]["open_ms"] > 0
        assert case["host"]["median_ms"] >= case["compute"]["median_ms"] > 0
        assert case["settings"]["threads"] == "1"
    assert "vision_model.encoder.layers.0.mlp.fc1" in files["html"].read_text()
    assert json.loads(files["trace"].read_text())["traceEvents"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exports_have_trtexecs_shape(run: Run, demo_bundle: Path, tmp_path: Path, backend: str) -> None:
    times, profile, info = (tmp_path / f"{name}.json" for name in ("times", "profile", "info"))
    exports = ("--export-times", times, "--export-profile", profile, "--export-layer-info", info)
    done = run("bench", demo_bundle, *QUICK, "--graphs", "vision", "--batch", "2", "--backend", backend, *exports)
    assert done.returncode == 0, done.stderr
    assert not re.search("GPU|H2D|D2H", done.stdout + profile.read_text() + info.read_text()), "it ran on a processor"
    assert {"startComputeMs", "computeMs", "latencyMs"} <= set(json.loads(times.read_text())[0])
    count, *layers = json.loads(profile.read_text())
    assert count == {"count": 20}
    assert sum(layer["percentage"] for layer in layers) == pytest.approx(100, abs=0.01)
    content = json.loads(info.read_text())
    assert content["Bindings"] == ["pixel_values", "vision_states", "image_embeds"]
    assert [layer["Name"] for layer in content["Layers"]] == [layer["name"] for layer in layers]
    found = read_layers(content)
    assert found.tensors > 2 * len(layers)
    assert (found.unknown, found.problems, found.unwritten, found.unread) == ([], [], [], [])
    assert len(found.edges) >= len(layers) - 2
    assert found.weight_bytes > 10 << 20, "the tower's weights in fp32"


def test_streams_share_a_session(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    chosen = ("--graphs", "vision", "--tasks", "image", "--streams", "2", "--trace", tmp_path / "trace.json")
    done = run("bench", demo_bundle, *QUICK, *chosen)
    assert done.returncode == 0, done.stderr
    assert "vision, batch 1, 2 streams" in done.stdout
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["tid"] for event in events if event.get("cat") == "call"} == {0, 1}


def test_a_baseline_gives_a_verdict_and_can_fail(run: Run, demo_bundle: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    assert run("bench", demo_bundle, *QUICK, "--graphs", "vision", "--json", before).returncode == 0
    report = json.loads(before.read_text())
    compare = ("bench", demo_bundle, *QUICK, "--graphs", "vision", "--fail-on", "slower", "--baseline", before)
    for factor, answer, code in ((1000.0, "faster", 0), (0.001, "slower", 3)):
        changed = json.loads(json.dumps(report))
        changed["cases"][0]["times_ms"] = [time * factor for time in report["cases"][0]["times_ms"]]
        before.write_text(json.dumps(changed))
        done = run(*compare)
        assert f"Against the baseline: {answer}" in done.stdout
        assert done.returncode == code


def test_ctrl_c_prints_what_there_is(demo_bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "internvl_edge.cli",
        "bench",
        demo_bundle,
        "--threads",
        "1",
        "--duration",
        "0.3",
    ]
    command += ["--graphs", "vision,text", "--backend", "onnxruntime"]  # `auto` would measure others first
    command += ["--iterations", "100000", "--json", tmp_path / "part.json"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        began = time.monotonic()
        assert "2 cases" in process.stdout.readline()
        started = time.monotonic() - began
        time.sleep(max(3, 3 * started))  # it opens a session and warms up for 0.3 s; measuring would take minutes
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert "Stopped by Ctrl-C after 1 of 2 cases" in errors
    assert "Traceback" not in errors
    assert "=== Performance summary ===" in output
    report = json.loads((tmp_path / "part.json").read_text())
    assert report["stopped"] is True
    assert 0 < report["cases"][0]["host"]["count"] < 100_000


def test_two_processes_measure_one_bundle(demo_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "internvl_edge.cli", "bench", str(demo_bundle), *QUICK, "--graphs", "vision"]
    both = [
        subprocess.Popen([*command, "--json", str(tmp_path / f"{name}.json")], stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    for process in both:
        process.communicate(timeout=HANG_S)
        assert process.returncode == 0
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--graphs", "vison"), ("vison", "--graphs")),
        (("--tasks", "song"), ("song", "image, text, caption")),
        (("--backend", "abacus"), ("abacus",)),
        (("--json", "/nowhere/at/all.json"), ("/nowhere/at",)),
        (("--baseline", "/nowhere/at/all.json"), ("/nowhere/at/all.json",)),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    run: Run, demo_bundle: Path, options: tuple[str, str], words: tuple[str, ...]
) -> None:
    one_line(run("bench", demo_bundle, *QUICK, *options), *words)


@pytest.mark.parametrize(
    "options",
    [
        *(("--batch", "0"), ("--batch", "one"), ("--percentile", "101"), ("--percentile", "0"), ("--duration", "0")),
        *(("--streams", "0"), ("--fail-on", "slower"), ("--iterations", "0")),
    ],
)
def test_wrong_options_are_usage_errors(run: Run, tmp_path: Path, options: tuple[str, str]) -> None:
    done = run("bench", tmp_path, *options)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
