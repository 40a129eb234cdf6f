"""Every command with what a device has installed: it works, or says in one line what to install."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from internvl_edge.cli import main
from tests.e2e import device_install
from tests.project import ROOT
from tests.unit.runtime.chat_bundles import chat_bundle, write_tokenizer
from tests.unit.runtime.inspect.xray.excerpt import write_plan

Done = dict[str, Any]


def on_a_device(*lines: Sequence[object]) -> list[Done]:
    """Return what became of each command line."""
    words = [[str(word) for word in line] for line in lines]
    command = [sys.executable, "-m", device_install.__name__, json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: list[Done] = json.loads(done.stdout.splitlines()[-1])
    return found


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)


def test_every_help_opens() -> None:
    lines = [(*path, "--help") for path in commands(main)]
    assert len(lines) > 20
    for line, done in zip(lines, on_a_device(*lines), strict=True):
        assert (done["code"], done["traceback"]) == (0, ""), line
        assert "Usage:" in done["stdout"]


def test_what_needs_no_extra_works(demo_bundle: Path, pictures: Path, emoji: Path, tmp_path: Path) -> None:
    plan, page = write_plan(tmp_path / "a.plan"), tmp_path / "plan.html"
    picture = sorted(pictures.glob("**/*.png"))[0]
    data = emoji / "data" / "test.jsonl"
    lines: list[tuple[object, ...]] = [
        ("inspect", demo_bundle),
        ("inspect", demo_bundle, "--json"),
        ("inspect", "--engine", plan, "--target", "l4", "--html", page),
        ("inspect", "--engine", plan, "--target", "l4", "--json"),
        ("inspect", "--engine", plan, "--target", "l4", "--diff", plan),
        ("doctor",),
        ("doctor", demo_bundle, "--target", "orin-nano-8gb", "--json"),
        ("targets",),
        ("run", "classify", demo_bundle, picture, "-l", "a cat", "-l", "a dog"),
        ("run", "retrieve", demo_bundle, picture, "-t", "a cat"),
        ("run", "caption", demo_bundle, picture),
        ("run", "embed", demo_bundle, picture, "-o", tmp_path / "features.npz"),
        ("run", "video", demo_bundle, pictures, "-t", "a cat", "--frames", "4"),
        ("eval", demo_bundle, "--data", data, "--sample-count", "4", "--tasks", "retrieval"),
        ("bench", demo_bundle, "--graphs", "text", "--tasks", "text", "--iterations", "2", "--duration", "0.1"),
        ("package", "triton", demo_bundle, "-o", tmp_path / "triton"),
        ("package", "ray", demo_bundle, "-o", tmp_path / "ray.yaml"),
    ]
    for line, done in zip(lines, on_a_device(*lines), strict=True):
        assert (done["code"], done["traceback"]) == (0, ""), (line, done["stderr"], done["traceback"])
        assert done["stdout"].strip(), line
    assert "<svg" in page.read_text(encoding="utf-8")


def test_what_needs_an_extra_names_it_in_one_line(
    demo_bundle: Path, emoji: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chat = tmp_path_factory.mktemp("chat")
    write_tokenizer(chat / "tokenizer")
    checkpoint, data, output = emoji / "checkpoint", emoji / "data" / "test.jsonl", tmp_path / "output"
    lines: dict[tuple[object, ...], str] = {
        ("export", checkpoint, "-o", output): "export",
        ("calibrate", checkpoint, "--data", data, "-o", output): "export",
        ("compare", demo_bundle, checkpoint, "--data", data): "export",
        ("build", demo_bundle, "--target", "agx-orin-64gb", "-o", output): "export",
        ("build", demo_bundle, "--target", "rtx-4090"): "rtx",
        ("serve", demo_bundle): "serve",
        ("run", "chat", chat_bundle(chat), "-q", "What is it?"): "chat",
        ("run", "embed", demo_bundle, data, "-o", tmp_path / "features.parquet"): "parquet",
        ("run", "embed", demo_bundle, data, "-o", tmp_path / "features.npz", "--engine", "ray"): "ray",
    }
    for (line, extra), done in zip(lines.items(), on_a_device(*lines), strict=True):
        assert (done["code"], done["traceback"]) == (1, ""), (line, done["traceback"])
        assert len(done["stderr"].splitlines()) == 1, done["stderr"]
        assert "not installed" in done["stderr"]
        assert f"pip install 'internvl-edge[{extra}]'" in done["stderr"], line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", ["torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "jinja2", "starlette"])
def test_the_hidden_packages_are_hidden(extra: str) -> None:
    code = f"from tests.e2e.device_install import hide_all_but_the_base as hide\nhide()\nimport {extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert f"No module named '{extra}'" in done.stderr
