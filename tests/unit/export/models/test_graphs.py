"""Every row of the table of graphs is whole, and agrees with its torch module and with the rows beside it."""

from dataclasses import replace

import pytest
import torch

from internvl_edge.export.models.config import ConnectorConfig, ModelConfig, PoolConfig, QllamaConfig, VisionConfig
from internvl_edge.export.models.graph_modules.specs import PAST, GraphOptions
from internvl_edge.export.models.graphs import GRAPH_NAMES, GRAPHS, GraphRow, available_graphs, graph_row, graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.sites import model_sites
from internvl_edge.runtime.bundle.graph_roles import EXPORTED_AS
from tests.unit.runtime.graph_uses import USES

TOWER = VisionConfig(hidden_size=32, num_heads=2, num_layers=3, intermediate_size=64, image_size=56)
QLLAMA = QllamaConfig(
    hidden_size=48,
    num_heads=3,
    num_layers=2,
    intermediate_size=64,
    vocab_size=96,
    num_queries=4,
    vision_hidden_size=32,
    cross_attention_layers=(0,),
    max_positions=64,
)
POOL = PoolConfig(embed_dim=16, pool_heads=2)
CONNECTOR = ConnectorConfig(llm_hidden_size=24)
CONFIG = ModelConfig(layout="internvl", parts=(TOWER, POOL, QLLAMA, CONNECTOR))
OPTIONS = GraphOptions(config=CONFIG, feature_layers=(0,))
SIZES = {"batch": 2, "texts": 3, "length": 5, "past": 7, "total": 12}


def shapes_of(row: GraphRow) -> dict[str, tuple[int, ...]]:
    """Return the shape of every output, as the torch module gives it."""
    with torch.device("meta"):
        spec = graph_spec(row.name, CONFIG, InternVLModel(CONFIG).eval(), torch.float32, OPTIONS.feature_layers)
        inputs = [
            torch.zeros([SIZES[d] if isinstance(d, str) else d for d in item.shape], dtype=item.dtype)
            for item in spec.inputs
        ]
        found = spec.module(*inputs)
    outputs = found if isinstance(found, tuple) else (found,)
    return {name: tuple(value.shape) for name, value in zip(spec.outputs, outputs, strict=True)}


def test_names_are_those_that_the_runtime_knows_in_one_order() -> None:
    assert GRAPH_NAMES == ("vision", "query", "text", "decoder", "itm", "connector")
    assert tuple(EXPORTED_AS.values()) == GRAPH_NAMES
    assert len({row.use.role for row in GRAPHS}) == len(GRAPHS)


def test_the_runtime_is_tested_on_the_uses_that_export_writes() -> None:
    assert {row.name: row.use for row in GRAPHS} == USES


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.name)
def test_a_module_gives_what_its_row_declares(row: GraphRow) -> None:
    shapes = shapes_of(row)
    assert tuple(shapes) == row.module.outputs(OPTIONS)
    assert row.sensitivity_output is None or row.sensitivity_output in shapes
    rows = SIZES["texts" if row.use.rows == "texts" else "batch"]
    assert {shape[0] for shape in shapes.values()} == {rows}


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.name)
def test_every_input_has_a_source(row: GraphRow) -> None:
    """Pictures and ids are samples', caches and states another graph's outputs, mask and positions are counted."""
    names = [item.name for item in row.module.inputs(OPTIONS)]
    fed = [name for name in names if any(_covers(key, name) for key in row.feeds)]
    own = {"pixel_values", "input_ids", *(("attention_mask", "position_ids") if row.continues else ())}
    assert set(names) - set(fed) <= own
    assert ("input_ids" in names) == (row.use.ids is not None)
    assert [key for key in row.feeds if not any(_covers(key, name) for name in names)] == []
    assert (row.fed_by is None) == (not row.feeds)


@pytest.mark.parametrize("row", [row for row in GRAPHS if row.fed_by], ids=lambda row: row.name)
def test_what_feeds_a_graph_comes_before_it_and_fits(row: GraphRow) -> None:
    assert row.fed_by is not None
    assert GRAPH_NAMES.index(row.fed_by) < GRAPH_NAMES.index(row.name)
    given = shapes_of(graph_row(row.fed_by))
    for item in row.module.inputs(OPTIONS):
        for key, source in row.feeds.items():
            if _covers(key, item.name):
                shape = given[source + item.name.removeprefix(key)]
                assert [a for a, b in zip(item.shape, shape, strict=True) if a not in ("batch", "past", b)] == []


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.name)
def test_blocks_are_parts_of_the_module_and_hold_its_sites(row: GraphRow) -> None:
    with torch.device("meta"):
        module = row.module.build(OPTIONS, InternVLModel(CONFIG))
    blocks = row.module.blocks(OPTIONS)
    parts = dict(module.named_modules())
    assert [path for path in blocks if path not in parts] == []
    sites = [site.name for site in model_sites(CONFIG) if site.name in parts]
    assert bool(sites) == row.quantized == bool(blocks)
    assert row.has_head == ("logits" in row.module.outputs(OPTIONS))
    assert (row.stream is not None) == (row.stack is not None) == bool(blocks)
    assert row.stack is None or set(blocks) <= set(row.stack.blocks(CONFIG))


def test_a_cache_has_a_prompt_and_steps() -> None:
    assert [row.name for row in GRAPHS if row.use.phases] == [row.name for row in GRAPHS if PAST in row.feeds]
    assert graph_row("decoder").use.phases == ("prompt", "step")
    assert graph_row("decoder").continues == "query"


def test_a_model_has_the_graphs_of_its_parts() -> None:
    assert available_graphs(CONFIG) == GRAPH_NAMES
    assert available_graphs(replace(CONFIG, parts=(TOWER, CONNECTOR))) == (
        "vision",
        "connector",
    )
    text_alone = replace(QLLAMA, text_alone=True)
    assert available_graphs(replace(CONFIG, parts=(TOWER, POOL, text_alone))) == (
        "vision",
        "text",
    )


@pytest.mark.parametrize("name", ["connector", "nothing"])
def test_a_graph_without_weights_is_refused(name: str) -> None:
    config = replace(CONFIG, parts=(TOWER, POOL, QLLAMA))
    with torch.device("meta"):
        model = InternVLModel(config)
    with pytest.raises(ValueError, match=f"{name}: no such graph for internvl"):
        graph_spec(name, config, model, torch.float32)


def _covers(key: str, name: str) -> bool:
    return name.startswith(key) if key.endswith(".") else name == key
