"""Graphs are rewritten until nothing overflows, borders of graphs that feed each other together; or it is refused."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.numerics.overflows import Fp32Parts, overflow_lines, resolve_overflows
from internvl_edge.export.numerics.reach import Reach
from internvl_edge.runtime.errors import VerificationError
from tests.unit.export.dialects.small_graphs import load

VISION = """g (float16[b, 8] x, float16[8] w) => (float16[b, 8] vision_states) {
  [tower] h = Mul(x, w)
  [Add] vision_states = Add(h, x)
}"""
QUERY = """g (float16[b, 8] vision_states, float16[8] w) => (float16[b, 8] y) {
  [norm] n = Mul(vision_states, w)
  [out] y = Tanh(n)
}"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {"vision": tmp_path / "vision.onnx", "query": tmp_path / "query.onnx"}
    for name, text in (("vision", VISION), ("query", QUERY)):
        ir.save(load(text, w=np.ones(8, np.float16)), found[name])
    return found


def _reach(value: str, node: str, largest: float = 1e5, inside: str = "") -> Reach:
    return Reach(value=value, node=node, inside=inside, largest=largest, limit=65504.0)


def test_nothing_near_leaves_the_files(files: dict[str, Path]) -> None:
    before = {name: file.read_bytes() for name, file in files.items()}
    kept = resolve_overflows(files, lambda name, held: [_reach("h", "tower", 16376)], "fp32")
    assert kept == {"vision": Fp32Parts(), "query": Fp32Parts()}
    assert {name: file.read_bytes() for name, file in files.items()} == before
    assert list(overflow_lines(kept)) == []


def test_only_the_graph_concerned_is_rewritten_and_measured_again(files: dict[str, Path]) -> None:
    asked = []

    def measure(name: str, kept: Fp32Parts) -> list[Reach]:
        asked.append((name, kept.nodes))
        return [] if kept.nodes or name == "query" else [_reach("h", "tower")]

    kept = resolve_overflows(files, measure, "fp32")
    assert asked == [("vision", ()), ("query", ()), ("vision", ("tower", "Add"))]
    assert kept["query"] == Fp32Parts()
    assert [(island.place, island.largest) for island in kept["vision"].islands] == [("tower", 1e5)]
    assert list(overflow_lines(kept)) == [
        "vision: 2 nodes in fp32, since 16 bits would overflow: tower (1e+05 of 6.55e+04)"
    ]


def test_what_one_graph_passes_on_has_one_type_in_both(files: dict[str, Path]) -> None:
    kept = resolve_overflows(
        files, lambda name, held: [] if held.nodes or name == "query" else [_reach("vision_states", "Add")], "fp32"
    )
    graphs = {name: ir.load(file).graph for name, file in files.items()}
    assert graphs["vision"].outputs[0].dtype == graphs["query"].inputs[0].dtype == ir.DataType.FLOAT
    assert graphs["query"].outputs[0].dtype == ir.DataType.FLOAT16
    assert kept["query"].nodes == ("norm",)
    assert kept["query"].islands[0].place == "vision_states"


def test_refusing_names_the_places_and_the_remedy(files: dict[str, Path]) -> None:
    before = files["vision"].read_bytes()
    with pytest.raises(VerificationError, match=r"16 bits overflow.*vision: tower reaches 1e\+05.*--dtype bf16"):
        resolve_overflows(files, lambda name, held: [_reach("h", "tower")] if name == "vision" else [], "refuse")
    assert files["vision"].read_bytes() == before


def test_what_no_island_helps_is_an_error(files: dict[str, Path]) -> None:
    with pytest.raises(VerificationError, match="also with islands in fp32; try --dtype bf16"):
        resolve_overflows(files, lambda name, held: [_reach("gone", "nowhere")], "fp32")
