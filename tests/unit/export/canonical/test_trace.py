"""A bar moves while torch traces; operators are translated as they are, to the graph that torch would decompose to."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from internvl_edge.export import compile as compile_module
from internvl_edge.export.canonical import trace
from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.checkpoint import open_checkpoint
from internvl_edge.export.models.config import ModelConfig, VisionConfig
from internvl_edge.export.models.graphs import cut_for
from tests import traces
from tests.project import ROOT

GOLDEN = ROOT / "tests" / "data" / "golden"


def test_parts_of_a_graph_are_told_block_by_block() -> None:
    vision = VisionConfig(hidden_size=32, intermediate_size=64, num_heads=2, num_layers=3, image_size=28, patch_size=14)
    parts: list[float] = []
    trace_graph("vision", ModelConfig(layout="internvit", parts=(vision,)), torch.float32, (), parts.append)
    assert sum(parts) == pytest.approx(1)
    assert len(parts) >= 4
    assert all(0 <= part < 0.7 for part in parts)


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("decoder", GOLDEN / "case_a_internvl14b" / "checkpoint"),  # two dynamic axes, a type, a mask of two masks
        ("connector", GOLDEN / "case_b_internvit300m" / "checkpoint_chat"),  # axes merged in the middle
    ],
)
def test_graphs_are_those_that_torch_would_decompose_first(
    name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ours = _ours(name, checkpoint)
    decompose = torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(trace._Translatable, "run_decompositions", decompose)
    monkeypatch.setattr(trace, "_TRANSLATIONS", {k: v for k, v in trace._TRANSLATIONS.items() if "aten" not in str(k)})
    assert ours == _described(canonicalize(trace_graph(name, config, torch.float16)))


def test_what_torch_cannot_translate_as_it_is_is_decomposed_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a version of torch that lacks the translation of an operator."""
    config, ours = _ours("decoder", GOLDEN / "case_a_internvl14b" / "checkpoint")
    monkeypatch.setattr(trace, "_TRANSLATIONS", {k: v for k, v in trace._TRANSLATIONS.items() if "aten" not in str(k)})
    with caplog.at_level("INFO", logger=trace.__name__):
        assert ours == _described(canonicalize(trace_graph("decoder", config, torch.float16)))
    (told,) = [record.getMessage() for record in caplog.records if record.name == trace.__name__]
    assert told.startswith("decoder: decomposed first, because torch cannot translate it as it is: ")
    assert "aten" in told
    assert capfd.readouterr().out == ""


def test_what_other_tests_share_is_the_traced_graph(tmp_path: Path) -> None:
    config, ours = _ours("connector", GOLDEN / "case_b_internvit300m" / "checkpoint_chat")
    parts: list[float] = []
    before = compile_module.trace_graph
    with traces.shared(tmp_path / "traces"):
        for _ in range(2):
            found = compile_module.trace_graph("connector", config, torch.float16, (), parts.append)
            assert _described(canonicalize(found)) == ours
    assert sum(parts) == pytest.approx(2)
    assert len(list((tmp_path / "traces").glob("*.onnx"))) == 1
    assert compile_module.trace_graph is before


@cache
def _ours(name: str, checkpoint: Path) -> tuple[ModelConfig, list[object]]:
    config = cut_for(open_checkpoint(checkpoint).config, (name,))
    return config, _described(canonicalize(trace_graph(name, config, torch.float16)))


def _stored(attribute: ir.Attr) -> object:
    """Return the value as a file holds it: a number in fp32."""
    return np.float32(attribute.as_float()) if attribute.type == ir.AttributeType.FLOAT else attribute.value


def _described(model: ir.Model) -> list[object]:
    """Return all that a graph computes and how its nodes and weights are named; other values by their order."""
    names: dict[str | None, str] = {}

    def describe(value: ir.Value | None) -> object:
        if value is None:
            return None
        constant = value.const_value
        if constant is not None:
            return constant.dtype, constant.numpy().tolist()
        kept = value.is_graph_input() or value.is_graph_output() or value.is_initializer()
        name = value.name if kept else names.setdefault(value.name, f"value {len(names)}")
        return name, value.dtype, str(value.shape)

    return [
        *([describe(value) for value in values] for values in (model.graph.inputs, model.graph.outputs)),
        *(
            (
                node.name,
                node.op_identifier(),
                [describe(value) for value in node.inputs],
                [describe(value) for value in node.outputs],
                {key: _stored(attribute) for key, attribute in node.attributes.items()},
            )
            for node in model.graph
        ),
        sorted(key for key, value in model.graph.initializers.items() if value.const_value is None),
    ]
