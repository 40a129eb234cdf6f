"""`auto` among fakes with a clock of their own: the fastest that is equal wins, once, and says why."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import open_session
from internvl_edge.runtime.backends.layer_times.layers import LayerTimes
from internvl_edge.runtime.backends.selection import candidates as candidates_module
from internvl_edge.runtime.backends.selection import fastest as choice
from internvl_edge.runtime.backends.selection import trials
from internvl_edge.runtime.backends.selection.candidates import Candidate, find_candidates
from internvl_edge.runtime.backends.selection.decisions import Decision, decision_key, read_decision, write_decision
from internvl_edge.runtime.backends.selection.fastest import SelectedSession, open_fastest
from internvl_edge.runtime.backends.selection.trials import LONGEST_MS
from internvl_edge.runtime.backends.session import CacheSession, RowLimit, Session, SessionOptions, TensorInfo
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import FileInfo
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.stages import UNMEASURED, Stages
from tests.unit.runtime.toy_bundle import FILE, write_toy_bundle

OPTIONS = SessionOptions(threads=1)


@dataclass
class Library:
    """What a fake backend does."""

    milliseconds: float
    """Of each row..."""
    start_ms: float = 0.0
    """...and of a call besides."""
    factor: float = 1.0
    """By which its outputs are multiplied."""
    opens: bool = True
    runs: bool = True
    max_rows: int | None = None


class FakeSession:
    def __init__(self, machine: "Machine", backend: str) -> None:
        self.backend, self.settings = backend, {"threads": "1"}
        self.inputs = {"pixel_values": TensorInfo("pixel_values", np.dtype(np.float32), ("batch", 3, 4, 4))}
        self.outputs = {"image_embeds": TensorInfo("image_embeds", np.dtype(np.float32), ("batch", 3))}
        self.closed = False
        self.max_rows = machine.libraries[backend].max_rows
        self._machine = machine

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        library = self._machine.libraries[self.backend]
        if not library.runs:
            raise BackendError(f"{self.backend}: fails; check its inputs")
        rows = len(inputs["pixel_values"])
        if self.max_rows is not None and rows > self.max_rows:
            raise InputError(f"{self.backend}: {rows} rows; give {self.max_rows}")
        self._machine.seconds += (library.start_ms + rows * library.milliseconds) / 1e3
        self._machine.runs.append(self.backend)
        self._machine.rows.append(rows)
        return {"image_embeds": inputs["pixel_values"].sum(axis=(2, 3)) * library.factor}

    def close(self) -> None:
        self.closed = True


@dataclass
class Machine:
    """Libraries, a clock that only their runs move, and what was opened."""

    libraries: dict[str, Library]
    seconds: float = 0.0
    version: str = "1"
    sessions: list[FakeSession] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.seconds

    def find_candidates(self, bundle: Bundle, options: SessionOptions) -> list[Candidate]:
        return [Candidate(backend=name, version=self.version) for name in self.libraries]

    def open_session(self, backend: str, bundle: Bundle, graph: str, options: SessionOptions) -> Session:
        if not self.libraries[backend].opens:
            raise BackendError(f"backend {backend}: not there; install it")
        self.sessions.append(FakeSession(self, backend))
        return self.sessions[-1]

    def fastest(self, bundle: Bundle, options: SessionOptions) -> Session:
        return open_fastest(bundle, "vision", options, self.open_session)

    def opened(self) -> list[str]:
        """Return what was opened since this was last asked."""
        names = [session.backend for session in self.sessions]
        self.sessions.clear()
        return names


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_toy_bundle(tmp_path / "bundle")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine({"onnxruntime": Library(20.0), "openvino": Library(12.5)})
    monkeypatch.setattr(choice, "find_candidates", machine.find_candidates)
    monkeypatch.setattr(trials, "time", machine)
    return machine


def test_the_fastest_wins_and_says_why(machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine.libraries["openvino"].factor = 1 + 2e-5
    session = machine.fastest(bundle, OPTIONS)
    because = "openvino 12.5 ms (onnxruntime 20.0 ms; equal within 2e-05)"
    assert session.backend == "openvino"
    assert session.settings == {"threads": "1", "chosen": because}
    assert f"vision: {because}" in caplog.messages
    assert [(other.backend, other.closed) for other in machine.sessions] == [("onnxruntime", True), ("openvino", False)]


def test_the_reference_may_win(machine: Machine, bundle: Bundle) -> None:
    machine.libraries["onnxruntime"].milliseconds = 3
    session = machine.fastest(bundle, OPTIONS)
    assert session.settings["chosen"] == "onnxruntime 3.0 ms (openvino 12.5 ms)"
    assert [(other.backend, other.closed) for other in machine.sessions] == [("onnxruntime", False), ("openvino", True)]


@pytest.mark.parametrize("factor", [1.001, -1.0, np.nan, np.inf])
def test_what_differs_is_out_however_fast(machine: Machine, bundle: Bundle, factor: float) -> None:
    machine.libraries["openvino"] = Library(0.1, factor=factor)
    session = machine.fastest(bundle, OPTIONS)
    assert session.backend == "onnxruntime"
    assert "openvino differs by " in session.settings["chosen"]
    assert machine.sessions[1].closed


def test_a_bundle_of_few_bits_may_differ_more(machine: Machine, bundle: Bundle) -> None:
    machine.libraries["openvino"].factor = 1.05
    int8 = replace(bundle, manifest=replace(bundle.manifest, precision="int8"))
    assert machine.fastest(bundle, OPTIONS).backend == "onnxruntime"
    assert machine.fastest(int8, OPTIONS).backend == "openvino"


def test_the_batch_is_measured(machine: Machine, bundle: Bundle) -> None:
    machine.libraries = {"onnxruntime": Library(10.0), "openvino": Library(8.0, start_ms=5)}
    assert machine.fastest(bundle, OPTIONS).backend == "onnxruntime"
    batched = machine.fastest(bundle, replace(OPTIONS, rows=8))
    assert batched.settings["chosen"] == "openvino 69.0 ms (onnxruntime 80.0 ms; 8 rows; equal within 0e+00)"
    assert machine.fastest(bundle, OPTIONS).backend == "onnxruntime"  # each has a decision of its own


def test_a_batch_that_takes_too_long_is_measured_by_fewer_rows(machine: Machine, bundle: Bundle) -> None:
    machine.libraries["onnxruntime"].milliseconds = LONGEST_MS / 3.1
    assert "; 3 rows; " in machine.fastest(bundle, replace(OPTIONS, rows=64)).settings["chosen"]
    assert max(machine.rows) == 3
    machine.libraries["onnxruntime"].milliseconds = LONGEST_MS + 1
    assert "rows" not in machine.fastest(bundle, replace(OPTIONS, rows=32)).settings["chosen"]


@pytest.mark.parametrize(("limit", "winner"), [(2, "onnxruntime"), (4, "openvino"), (64, "openvino")])
def test_plans_for_fewer_rows_take_the_batch_in_parts(
    machine: Machine, bundle: Bundle, limit: int, winner: str
) -> None:
    machine.libraries = {"onnxruntime": Library(5.0), "openvino": Library(1.0, start_ms=10, max_rows=limit)}
    session = machine.fastest(bundle, replace(OPTIONS, rows=8))
    taken = 8 + 10 * 8 / min(limit, 8)
    assert session.backend == winner
    assert f"openvino {taken:.1f} ms" in session.settings["chosen"]


def test_bf16_may_differ_more_where_it_was_allowed(machine: Machine, bundle: Bundle) -> None:
    machine.libraries["openvino"].factor = 1.01
    assert machine.fastest(bundle, OPTIONS).backend == "onnxruntime"
    assert machine.fastest(bundle, replace(OPTIONS, bf16=True)).backend == "openvino"
    machine.libraries["openvino"].factor = 1.1
    assert machine.fastest(bundle, replace(OPTIONS, bf16=True, threads=2)).backend == "onnxruntime"


@pytest.mark.parametrize("fault", [{"opens": False}, {"runs": False}])
def test_what_fails_is_out(machine: Machine, bundle: Bundle, fault: dict[str, Any]) -> None:
    machine.libraries["openvino"] = Library(0.1, **fault)
    session = machine.fastest(bundle, OPTIONS)
    assert session.settings["chosen"] == "onnxruntime 20.0 ms (openvino does not run it)"
    assert all(other.closed for other in machine.sessions if other.backend == "openvino")


def test_without_a_reference_the_first_that_opens_is_taken(machine: Machine, bundle: Bundle) -> None:
    machine.libraries = {"tensorrt": Library(1, opens=False), "onnxruntime": Library(1, opens=False)}
    machine.libraries["openvino"] = Library(1)
    session = machine.fastest(bundle, OPTIONS)
    assert session.backend == "openvino"
    assert "nothing to compare with: backend onnxruntime: not there" in session.settings["chosen"]
    del machine.libraries["onnxruntime"]
    assert "without onnxruntime nothing is compared" in machine.fastest(bundle, OPTIONS).settings["chosen"]
    assert machine.runs == []


def test_if_none_opens_all_reasons_are_said(machine: Machine, bundle: Bundle) -> None:
    machine.libraries = {name: Library(1, opens=False) for name in ("onnxruntime", "openvino")}
    with pytest.raises(BackendError, match=r"backend onnxruntime: not there.*backend openvino: not there"):
        machine.fastest(bundle, OPTIONS)


def test_no_library_names_an_extra(machine: Machine, bundle: Bundle) -> None:
    machine.libraries = {}
    with pytest.raises(BackendError, match=r"no library that runs graphs is installed; pip install .*\[cpu\]"):
        machine.fastest(bundle, OPTIONS)


def test_a_single_library_is_not_measured(machine: Machine, bundle: Bundle, cache: Path) -> None:
    del machine.libraries["openvino"]
    session = machine.fastest(bundle, OPTIONS)
    assert session.settings["chosen"] == "onnxruntime (the only one here)"
    assert machine.runs == []
    assert not cache.exists()


def test_large_weights_are_not_opened_twice(machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {**bundle.manifest.files, "onnx/fp32/weights.safetensors": FileInfo(bytes=9 << 30, sha256="0" * 64)}
    large = replace(bundle, manifest=replace(bundle.manifest, files=files))
    model = onnx.load(bundle.path / FILE)
    held = model.graph.initializer.add(name="w", dims=[3, 1 << 29], data_type=onnx.TensorProto.FLOAT16)
    held.data_location = onnx.TensorProto.EXTERNAL
    held.external_data.add(key="location", value="weights.safetensors")  # which holds another graph's weights too
    (bundle.path / FILE).write_bytes(model.SerializeToString())
    monkeypatch.setattr(choice, "available_bytes", lambda: 32 << 30)
    session = machine.fastest(large, OPTIONS)
    assert session.backend == "onnxruntime"
    assert "3.2 GB of weights leave no memory for a comparison" in session.settings["chosen"]
    monkeypatch.setattr(choice, "available_bytes", lambda: 40 << 30)
    assert machine.fastest(large, OPTIONS).backend == "openvino"


def test_a_decision_is_kept(machine: Machine, bundle: Bundle) -> None:
    first = machine.fastest(bundle, OPTIONS)
    machine.opened()
    machine.runs.clear()
    second = machine.fastest(bundle, OPTIONS)
    assert machine.opened() == ["openvino"]
    assert machine.runs == []
    assert second.settings == first.settings


def test_what_a_decision_depends_on_makes_a_new_one(machine: Machine, bundle: Bundle) -> None:
    def measured(other: Bundle = bundle, options: SessionOptions = OPTIONS) -> bool:
        machine.opened()
        machine.fastest(other, options)
        return len(machine.opened()) > 1

    assert measured()
    assert not measured()
    assert measured(options=SessionOptions(threads=2))
    files = {FILE: FileInfo(bytes=1, sha256="1" * 64)}
    assert measured(replace(bundle, manifest=replace(bundle.manifest, files=files)))
    machine.version = "2"
    assert measured()
    assert not measured()


def test_a_choice_that_no_longer_opens_is_made_again(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.fastest(bundle, OPTIONS)
    machine.libraries["openvino"].opens = False
    assert machine.fastest(bundle, OPTIONS).backend == "onnxruntime"
    assert "vision: openvino was chosen earlier but does not open now" in caplog.text
    machine.opened()
    machine.fastest(bundle, OPTIONS)
    assert machine.opened() == ["onnxruntime"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"backend": "openvino"}', "\x00"])
def test_an_unreadable_decision_is_made_again(
    machine: Machine, bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    machine.fastest(bundle, OPTIONS)
    (file,) = cache.rglob("*.json")
    kept = file.read_text()
    file.write_text(content)
    assert machine.fastest(bundle, OPTIONS).backend == "openvino"
    assert f"{file}: cannot be read" in caplog.text
    assert file.read_text() == kept


def test_a_decision_for_a_library_that_is_gone_is_made_again(machine: Machine, bundle: Bundle, cache: Path) -> None:
    machine.fastest(bundle, OPTIONS)
    (file,) = cache.rglob("*.json")
    file.write_text('{"backend": "abacus", "because": "it was said so"}')
    assert machine.fastest(bundle, OPTIONS).backend == "openvino"


def test_a_folder_that_cannot_be_written_does_no_harm(
    machine: Machine, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTERNVL_EDGE_CACHE", str(tmp_path / "file"))
    assert machine.fastest(bundle, OPTIONS).backend == "openvino"
    assert "the choice of a backend is not kept" in caplog.text


def test_the_cache_is_where_users_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERNVL_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_decision("key", Decision(backend="openvino", because="fast"))
    assert (tmp_path / "xdg" / "internvl-edge" / "backends" / "key.json").is_file()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_decision("key", Decision(backend="openvino", because="fast"))
    assert (tmp_path / "home" / ".cache" / "internvl-edge" / "backends" / "key.json").is_file()


def test_processes_that_write_one_decision_do_not_disturb_each_other(cache: Path) -> None:
    decisions = [Decision(backend=name, because=name * 1000) for name in ("onnxruntime", "openvino")]
    write_decision("key", decisions[0])

    def write_and_read(decision: Decision) -> bool:
        write_decision("key", decision)
        return read_decision("key") in decisions

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, decisions * 50))
    assert [file.name for file in (cache / "backends").iterdir()] == ["key.json"]


def test_keys_do_not_depend_on_the_order_of_facts() -> None:
    assert decision_key({"a": 1, "b": 2}) == decision_key({"b": 2, "a": 1}) != decision_key({"a": 1, "b": 3})


def test_a_chosen_session_has_what_the_session_has(machine: Machine) -> None:
    plain = FakeSession(machine, "openvino")
    assert not isinstance(SelectedSession(plain, "fast"), CacheSession)

    class Caching(FakeSession):
        def open_cache(self, present: Mapping[str, np.ndarray], rows: int, length: int) -> Any:
            return rows

        def layer_times(self, inputs: Mapping[str, np.ndarray], runs: int) -> list[Any]:
            return []

    machine.libraries["openvino"].max_rows = 8
    chosen = SelectedSession(Caching(machine, "openvino"), "fast")
    assert isinstance(chosen, CacheSession)
    assert isinstance(chosen, LayerTimes)
    assert chosen.open_cache({}, 3, 1) == 3
    assert isinstance(chosen, RowLimit)
    assert chosen.max_rows == 8


def test_candidates_are_what_is_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime", "openvino"}
    monkeypatch.setattr(candidates_module, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.setattr(candidates_module, "version", lambda package: "1.2")
    monkeypatch.setattr(candidates_module, "_has_cuda", lambda: True)
    names = ["onnxruntime_cuda", "onnxruntime", "openvino"]
    assert find_candidates(bundle, OPTIONS) == [Candidate(backend=name, version="1.2") for name in names]
    installed.remove("onnxruntime")
    assert [candidate.backend for candidate in find_candidates(bundle, OPTIONS)] == ["openvino"]
    installed.clear()
    assert find_candidates(bundle, OPTIONS) == []


def test_real_libraries_are_compared(bundle: Bundle) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install 'internvl-edge[openvino]'")
    session = open_session("auto", bundle, "vision", OPTIONS)
    pixels = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    np.testing.assert_array_equal(session.run({"pixel_values": pixels})["image_embeds"], pixels.sum(axis=(2, 3)))
    others = {"onnxruntime", "openvino"} - {session.backend}
    assert all(f"{other} " in session.settings["chosen"] for other in others)
