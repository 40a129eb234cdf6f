"""The cases of a bundle follow from its manifest."""

from dataclasses import replace
from pathlib import Path

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import Manifest, TensorSpec
from internvl_edge.runtime.inspect.graph_stats import axis_sizes
from internvl_edge.runtime.latency.cases import CaseSelection, cases_of, possible_tasks
from internvl_edge.runtime.model import InternVL
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.tiny_bundle import MODEL, write_bundle

PIXELS = TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4, 4))
STATES = TensorSpec(name="vision_states", dtype="float32", shape=("batch", 1, 3))
IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "length"))
TEXTS = replace(IDS, shape=("texts", "length"))
MASK = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total"))
PAST = TensorSpec(name="past_key_values.0.key", dtype="float32", shape=("batch", 1, "past", 2))
INPUTS = {
    "vision": (PIXELS,),
    "query": (STATES,),
    "text": (TEXTS,),
    "decoder": (IDS, MASK, PAST),
    "itm": (STATES, IDS),
    "connector": (STATES,),
}


def open_model(folder: Path) -> InternVL:
    """Open a bundle of graphs that have inputs, under names of their own."""
    write_bundle(folder, tuple(INPUTS), MODEL, None)
    manifest = Manifest.load(folder / "manifest.json")
    graphs = {f"{name}_graph": replace(manifest.graphs[name], inputs=inputs) for name, inputs in INPUTS.items()}
    replace(manifest, graphs=graphs).save(folder / "manifest.json")
    return InternVL.open(folder)


def test_each_graph_is_measured_in_each_of_its_phases(tmp_path: Path) -> None:
    cases = cases_of(open_model(tmp_path / "bundle"), CaseSelection(batches=(2,)), tmp_path)
    assert [(case.name, case.shape, case.rows) for case in cases] == [
        ("vision_graph", "2 x 3 x 4 x 4", "pictures"),
        ("query_graph", "2 x 1 vision tokens", "pictures"),
        ("text_graph", "2 x 38 ids", "texts"),
        ("decoder_graph prompt", "2 x 5 ids on a cache of 2", "rows"),
        ("decoder_graph step", "2 x 1 ids on a cache of 22", "rows"),
        ("itm_graph", "2 x (1 vision tokens, 38 ids)", "pictures"),
        ("connector_graph", "2 x 1 vision tokens", "pictures"),
        ("request image", "2 JPEG of 640 x 480 to features", "pictures"),
    ]


def test_requests_of_texts_need_a_tokenizer_and_their_graphs(tmp_path: Path, bundle_folder: Path) -> None:
    whole = InternVL.open(bundle_folder)
    tower = InternVL.open(write_bundle(tmp_path / "tower", ("vision",), MODEL, bundle_folder / "tokenizer.model"))
    assert possible_tasks(whole) == ("image", "text", "caption")
    assert possible_tasks(tower) == ("image",)
    requests = cases_of(whole, CaseSelection(tasks=("text", "caption")), tmp_path)
    assert [(case.name, case.rows) for case in requests] == [("request text", "texts"), ("request caption", "pictures")]


def test_graphs_are_counted_at_the_axes_that_they_have(tmp_path: Path) -> None:
    graphs = open_model(tmp_path / "bundle").bundle.manifest.graphs
    found = {name: axis_sizes(info, 2, {"batch": 3, "texts": 4, "length": 5}) for name, info in graphs.items()}
    assert found == {
        "vision_graph": {"batch": 3},
        "query_graph": {"batch": 3},
        "text_graph": {"texts": 4, "length": 5},
        "decoder_graph": {"batch": 3, "length": 1, "past": 7, "total": 8},
        "itm_graph": {"batch": 3, "length": 5},
        "connector_graph": {"batch": 3},
    }


def test_a_bundle_whose_graphs_have_other_names_is_used_by_their_roles(tmp_path: Path) -> None:
    bundle = Bundle.open(open_model(tmp_path / "bundle").bundle.path)
    found = {name: USES[name.removesuffix("_graph")].role for name in bundle.manifest.graphs}
    assert len(found) == 6
    assert bundle.graphs_of(*found.values()) == tuple(found)
