"""Cases are measured one after the other; layers where they are asked for; what was opened is closed."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from internvl_edge.runtime import InternVL
from internvl_edge.runtime.latency import bench
from internvl_edge.runtime.latency.bench import BenchOptions, find_sensor, run_cases
from internvl_edge.runtime.latency.cases import CaseSelection, cases_of
from internvl_edge.runtime.latency.measure.measure import Case, MeasureOptions, Opened
from internvl_edge.runtime.latency.sensors.device_state import DeviceSample
from tests.unit.runtime.toy_bundle import write_toy_bundle

QUICK = MeasureOptions(seconds=0.01, calls=2)


class Sensor:
    name = "meter"

    def __init__(self) -> None:
        self.closed = 0

    def read(self) -> DeviceSample:
        return DeviceSample(time_ns=0, power_w=1.0)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def sensor(monkeypatch: pytest.MonkeyPatch) -> Sensor:
    made = Sensor()
    monkeypatch.setattr(bench, "find_sensor", lambda: made)
    return made


def case(name: str, open_case: Any = None) -> Case:
    opened = Opened(workloads=[lambda stages: None], settings={})
    return Case(name=name, graph="", phase="", batch=1, shape="1", rows="rows", open=open_case or (lambda: opened))


def names(model: object, cases: Sequence[Case], stop: threading.Event, **options: Any) -> list[str]:
    found = run_cases(model, cases, BenchOptions(measure=QUICK, **options), stop)
    return [summary.measured.name for summary in found]


def test_each_case_is_given_as_soon_as_it_is_measured(sensor: Sensor) -> None:
    model = Mock()
    opened: list[str] = []

    def open_case(name: str) -> Any:
        return lambda: (opened.append(name), Opened(workloads=[lambda stages: None], settings={}))[1]

    found = run_cases(model, [case(n, open_case(n)) for n in "ab"], BenchOptions(measure=QUICK), threading.Event())
    assert next(found).measured.name == "a"
    assert opened == ["a"]
    assert [summary.measured.name for summary in found] == ["b"]
    model.close.assert_called_once_with()
    assert sensor.closed == 1


def test_a_stop_ends_before_the_next_case_and_closes(sensor: Sensor) -> None:
    model, stop = Mock(), threading.Event()
    stop.set()
    assert names(model, [case("a")], stop) == []
    model.close.assert_called_once_with()
    assert sensor.closed == 1


def test_a_stop_while_a_case_is_opened_gives_none() -> None:
    stop = threading.Event()

    def open_case() -> Opened:
        stop.set()
        return Opened(workloads=[lambda stages: None], settings={})

    assert names(Mock(), [case("a", open_case), case("b")], stop) == []


def test_a_case_that_fails_closes_as_well(sensor: Sensor) -> None:
    def fail() -> Opened:
        raise ValueError("of the case")

    model = Mock()
    with pytest.raises(ValueError, match="of the case"):
        names(model, [case("a", fail)], threading.Event())
    model.close.assert_called_once_with()
    assert sensor.closed == 1


@pytest.mark.parametrize("layers", [False, True])
def test_layers_of_graphs_are_reported_where_they_are_asked_for(tmp_path: Path, layers: bool) -> None:
    model = InternVL.open(write_toy_bundle(tmp_path / "b").path, backend="onnxruntime")
    cases = [*cases_of(model, CaseSelection(graphs=("vision",)), tmp_path), case("request")]
    graph, request = run_cases(model, cases, BenchOptions(measure=QUICK, layers=layers), threading.Event())
    assert [layer.op for layer in graph.layers] == (["ReduceSum"] if layers else [])
    assert (graph.layer_info is not None) == layers
    assert (list(request.layers), request.layer_info) == ([], None)


def test_a_backend_that_tells_no_layers_has_none() -> None:
    model = Mock()
    model.session.return_value = Mock(spec=["inputs", "outputs", "backend", "run"], inputs={}, outputs={})
    model.bundle.manifest.graphs = {}
    silent = Case(name="g", graph="g", phase="", batch=1, shape="", rows="", open=case("g").open)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "layer_inputs", lambda *arguments: {"x": np.ones(1)})
        (found,) = run_cases(model, [silent], BenchOptions(measure=QUICK, layers=True), threading.Event())
    assert (list(found.layers), found.layer_info) == ([], None)


def test_the_first_source_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError

    def silent() -> None:
        raise OSError

    monkeypatch.setattr(bench, "_SOURCES", (missing, silent, Sensor, missing))
    found = find_sensor()
    assert isinstance(found, Sensor)
    monkeypatch.setattr(bench, "_SOURCES", (missing, silent))
    assert find_sensor() is None
