"""What commands open a bundle with: `--bf16`, but for a baseline, and the rows of the calls to come."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from internvl_edge.cli import main
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.backends import SessionOptions, open_session
from internvl_edge.runtime.backends.lowering.cpu import lower
from internvl_edge.runtime.backends.session import Session
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.latency.cases import CaseSelection, cases_of
from internvl_edge.runtime.package import ray_config
from internvl_edge.runtime.serve import run as serve_run
from internvl_edge.runtime.serve.options import ServeOptions
from tests.unit.runtime.lowered_graphs import write_graph
from tests.unit.runtime.toy_bundle import write_toy_bundle


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, SessionOptions]]:
    """What was opened, and how."""
    seen: list[tuple[str, SessionOptions]] = []

    def open_(bundle: Path, *_: object, options: SessionOptions, **__: object) -> object:
        seen.append((Path(bundle).name, options))
        if len(seen) == 2:
            raise BackendError("two are enough")
        return object()

    monkeypatch.setattr(InternVL, "open", open_)
    return seen


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text('{"file": "a.png", "label": {"en": "a"}}\n')
    return str(tmp_path / "a.png")


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("command", [("bench", "new"), ("run", "retrieve", "new", "PICTURE", "-t", "a")])
def test_commands_open_a_bundle_with_it(
    opened: list[tuple[str, SessionOptions]], picture: str, command: tuple[str, ...], bf16: bool
) -> None:
    arguments = [picture if part == "PICTURE" else part for part in command]
    CliRunner().invoke(main, [*arguments, *(["--bf16"] if bf16 else [])])
    assert [(name, options.bf16) for name, options in opened] == [("new", bf16)]


def test_a_baseline_is_opened_without(opened: list[tuple[str, SessionOptions]], picture: str) -> None:
    data = str(Path(picture).with_name("data.jsonl"))
    CliRunner().invoke(main, ["eval", "new", "--data", data, "--baseline", "old", "--bf16"])
    assert [(name, options.bf16) for name, options in opened] == [("new", True), ("old", False)]


@pytest.mark.parametrize(
    ("command", "rows"),
    [
        (("run", "retrieve", "new", "PICTURE", "-t", "a"), 1),
        (("run", "embed", "new", "PICTURE", "-o", "x.npy"), 1),  # no call has more rows than there are pictures
        (("run", "embed", "new", *["PICTURE"] * 40, "-o", "x.npy"), 32),
        (("run", "embed", "new", *["PICTURE"] * 40, "-o", "x.npy", "--batch-size", "7"), 7),
        (("eval", "new", "--data", "DATA"), 64),
    ],
)
def test_commands_open_a_bundle_for_their_batch(
    opened: list[tuple[str, SessionOptions]], picture: str, command: tuple[str, ...], rows: int
) -> None:
    files = {"PICTURE": picture, "DATA": str(Path(picture).with_name("data.jsonl"))}
    CliRunner().invoke(main, [files.get(part, part) for part in command])
    assert [(name, options.rows) for name, options in opened] == [("new", rows)]


def test_workers_open_a_bundle_for_full_batches() -> None:
    assert ServeOptions(max_batch=5).session.rows == 5


def test_bench_opens_each_case_for_its_batch(tmp_path: Path) -> None:
    seen: list[int] = []

    def open_(bundle: Bundle, graph: str, options: SessionOptions) -> Session:
        seen.append(options.rows)
        return open_session("onnxruntime", bundle, graph, options)

    model = InternVL(write_toy_bundle(tmp_path / "bundle"), open_, 8)
    for case in cases_of(model, CaseSelection(graphs=("vision",), batches=(8, 1)), tmp_path):
        case.open()
    assert seen == [8, 1]


@pytest.mark.parametrize("bf16", [False, True])
def test_workers_open_a_bundle_with_it(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    given: list[ServeOptions] = []
    monkeypatch.setattr(serve_run, "run_server", lambda _, engine, *__: given.append(engine))
    done = CliRunner().invoke(main, ["serve", "bundle", *(["--bf16"] if bf16 else [])])
    assert done.exit_code == 0, done.output
    assert given[0].session.bf16 is bf16


@pytest.mark.parametrize("bf16", [False, True])
def test_replicas_open_a_bundle_with_it(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    given: list[ServeOptions] = []
    monkeypatch.setattr(ray_config, "write_config", lambda _, __, engine, ___: given.append(engine))
    done = CliRunner().invoke(main, ["package", "ray", "bundle", "-o", "x.yaml", *(["--bf16"] if bf16 else [])])
    assert done.exit_code == 0, done.output
    assert given[0].session.bf16 is bf16


@pytest.mark.parametrize("bf16", [False, True])
def test_arm_processors_get_their_option(tmp_path: Path, rng: np.random.Generator, bf16: bool) -> None:
    text = "product (float[n, 8] x) => (float[n, 8] y) { y = MatMul(x, w) }"
    path = write_graph(tmp_path, text, {"w": rng.normal(size=(8, 8)).astype(np.float32)})
    assert ("mlas.enable_gemm_fastmath_arm64_bfloat16" in lower(path, bf16).config) is bf16
