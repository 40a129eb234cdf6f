"""`bench`: what is measured how, what is printed and written, and its exit codes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from internvl_edge.commands.bench import bench
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.latency.bench import BenchOptions
from internvl_edge.runtime.latency.cases import CaseSelection
from internvl_edge.runtime.latency.measure.measure import MeasureOptions
from internvl_edge.runtime.latency.measure.summary import Summary, summarize
from tests.unit.commands.conftest import Invoke, Replace
from tests.unit.runtime.latency_fakes import measured


@pytest.fixture
def model(replace: Replace) -> Mock:
    model = Mock()
    model.bundle.manifest.precision = "int8"
    model.opened = replace("internvl_edge.commands.bench.open_with_progress", model)
    return model


class Measuring:
    """Two cases of `bench`, each with calls of known times; `stops` ends the run in the first, as Ctrl-C does."""

    def __init__(self) -> None:
        self.compute_ms = 5.0
        self.stops = False
        self.chosen: CaseSelection | None = None
        self.options: BenchOptions | None = None

    def cases_of(self, model: object, chosen: CaseSelection, folder: Path) -> list[str]:
        assert folder.is_dir()
        self.chosen = chosen
        return ["vision", "text"]

    def run_cases(
        self, model: object, cases: list[str], options: BenchOptions, stop: threading.Event, progress: object
    ) -> Iterator[Summary]:
        self.options = options
        for name in cases:
            yield summarize(measured([self.compute_ms] * 20, name), options.percents, "", [], None)
            if self.stops:
                stop.set()
                return


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, model: Mock) -> Measuring:
    found = Measuring()
    monkeypatch.setattr("internvl_edge.runtime.latency.cases.cases_of", found.cases_of)
    monkeypatch.setattr("internvl_edge.runtime.latency.bench.run_cases", found.run_cases)
    return found


def test_defaults(invoke: Invoke, model: Mock, measuring: Measuring) -> None:
    done = invoke(bench, "b")
    model.opened.assert_called_once_with(Path("b"), backend="auto", batch_size=1, options=SessionOptions(streams=1))
    assert measuring.chosen == CaseSelection()
    assert measuring.options == BenchOptions(measure=MeasureOptions(seconds=10.0, calls=10, streams=1))
    assert done.exit_code == 0
    assert done.stdout.startswith("b (int8), 2 cases\n\n--- vision, batch 2: ")
    assert done.stderr == ""


def test_options_reach_sessions_cases_and_measurement(invoke: Invoke, model: Mock, measuring: Measuring) -> None:
    asked = (
        "b --graphs vision --tasks image,text --batch 1,8 --backend openvino --duration 2.5 --iterations 7"
        " --streams 3 --percentile 50,99.9 --threads 2 --bf16 --no-cuda-graph --spin"
    )
    invoke(bench, asked)
    settings = SessionOptions(threads=2, bf16=True, cuda_graph=False, spin=True, streams=3)
    model.opened.assert_called_once_with(Path("b"), backend="openvino", batch_size=8, options=settings)
    assert measuring.chosen == CaseSelection(graphs=("vision",), tasks=("image", "text"), batches=(1, 8), streams=3)
    assert measuring.options == BenchOptions(
        measure=MeasureOptions(seconds=2.5, calls=7, streams=3), percents=(50.0, 99.9)
    )


@pytest.mark.parametrize(
    ("option", "layers"),
    [
        ("--json", False),
        ("--trace", False),
        ("--export-times", False),
        ("--html", True),
        ("--export-profile", True),
        ("--export-layer-info", True),
    ],
)
@pytest.mark.usefixtures("model")
def test_layers_are_measured_where_a_file_shows_them(
    invoke: Invoke, measuring: Measuring, tmp_path: Path, option: str, layers: bool
) -> None:
    done = invoke(bench, "b", option, tmp_path / "f")
    assert measuring.options is not None
    assert measuring.options.layers == layers
    written = [f"Written: {path}" for path in sorted(tmp_path.iterdir())]
    assert sorted(done.stderr.splitlines()) == written


@pytest.mark.usefixtures("measuring")
def test_where_stdout_is_a_file_the_text_goes_to_stderr(invoke: Invoke) -> None:
    done = invoke(bench, "b --json -")
    assert [case["name"] for case in json.loads(done.stdout)["cases"]] == ["vision", "text"]
    assert done.stderr.startswith("b (int8), 2 cases\n\n--- vision, batch 2: ")


@pytest.mark.parametrize(("now_ms", "fail_on", "code"), [(9.0, True, 3), (9.0, False, 0), (5.0, True, 0)])
def test_slower_than_the_baseline_is_an_exit_code_where_that_is_asked_for(
    invoke: Invoke, measuring: Measuring, tmp_path: Path, now_ms: float, fail_on: bool, code: int
) -> None:
    invoke(bench, "b", "--json", tmp_path / "before.json")
    measuring.compute_ms = now_ms
    asked = ["--fail-on slower"] if fail_on else []
    assert invoke(bench, "b", "--baseline", tmp_path / "before.json", *asked).exit_code == code


def test_ctrl_c_prints_and_writes_what_there_is(invoke: Invoke, measuring: Measuring, tmp_path: Path) -> None:
    measuring.stops = True
    done = invoke(bench, "b", "--json", tmp_path / "f.json")
    assert done.exit_code == 130
    assert done.stderr.endswith("\nStopped by Ctrl-C after 1 of 2 cases.\n")
    written = json.loads((tmp_path / "f.json").read_text())
    assert ([case["name"] for case in written["cases"]], written["stopped"]) == (["vision"], True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("--fail-on slower", "--fail-on needs --baseline"),
        ("--percentile 50,x", "'50,x' is not a list of numbers"),
        ("--percentile 0", "percentiles lie above 0 and up to 100"),
        ("--percentile nan", "percentiles lie above 0 and up to 100"),
        ("--fail-on faster", "--fail-on"),
    ],
)
def test_mistakes_of_use(invoke: Invoke, model: Mock, asked: str, message: str) -> None:
    done = invoke(bench, f"b {asked}")
    assert done.exit_code == 2
    assert message in done.stderr
    model.opened.assert_not_called()


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    invoke: Invoke, model: Mock, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="gone"):
        invoke(bench, "b", "--json", tmp_path / "gone" / "f.json")
    model.opened.assert_not_called()
