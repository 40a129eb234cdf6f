"""A killed export leaves the old bundle or none, the next takes up what was finished; a full disk leaves nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.conftest import Run, without_stages
from tests.tolerances import HANG_S


def _export(checkpoint: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "internvl_edge.cli", "export", str(checkpoint), "-o", str(output)]
    return [*command, "--dtype", "fp32", "--graphs", "vision,query,text"]


def test_kill_and_resume(run: Run, golden_a: Path, tmp_path: Path) -> None:
    output, partial = tmp_path / "bundle", tmp_path / ".bundle.partial"
    process = subprocess.Popen(_export(golden_a / "checkpoint", output), stdout=subprocess.DEVNULL)
    stages = partial / "stages.json"
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and not (stages.exists() and "trace query" in stages.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    finished = json.loads(stages.read_text())["stages"]
    assert "trace query" in finished
    traced = (partial / "traced" / "query.onnx").stat().st_mtime_ns
    second = subprocess.Popen(_export(golden_a / "checkpoint", output), stdout=subprocess.PIPE, text=True)
    while second.poll() is None and (partial / "traced" / "text.onnx").exists() is False:
        time.sleep(0.02)
    if (partial / "traced" / "query.onnx").exists():
        assert (partial / "traced" / "query.onnx").stat().st_mtime_ns == traced, "traced anew instead of taken up"
    second.communicate()
    assert second.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert run("inspect", output).returncode == 0


def test_an_earlier_bundle_stays_until_the_new_one_is_whole(run: Run, golden_b: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert run("export", golden_b / "checkpoint_vit", "-o", output, "--dtype", "fp32").returncode == 0
    before = (output / "manifest.json").read_bytes()
    assert run("export", golden_b / "checkpoint_vit", "-o", output, "--atol", "1e-12").returncode == 1
    assert (output / "manifest.json").read_bytes() == before
    tower_alone = ("--dtype", "fp32", "--graphs", "vision")
    assert run("export", golden_b / "checkpoint_chat", "-o", output, *tower_alone).returncode == 0
    outputs = json.loads((output / "manifest.json").read_text())["graphs"]["vision"]["outputs"]
    assert [output["name"] for output in outputs] == ["vit_embeds"]


def test_full_disk(golden_b: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the middle of the store."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    arguments = ["export", golden_b / "checkpoint_vit", "-o", tmp_path / "b", "--weights", "copy", "--dtype", "fp32"]
    command = [sys.executable, "-m", "internvl_edge.cli", *map(str, arguments)]
    # `make coverage` would let the process write a file of its own, which the limit cuts off as well.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**unmeasured, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    done.stderr = without_stages(done.stderr)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
