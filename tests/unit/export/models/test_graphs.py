"""Every row of the table of graphs is whole, and agrees with its torch module and with the rows beside it."""

from dataclasses import replace

import pytest
import torch

from internvl_edge.export.models.config import (
    ConnectorConfig,
    LanguageConfig,
    ModelConfig,
    PoolConfig,
    QllamaConfig,
    RopeConfig,
    VisionConfig,
)
from internvl_edge.export.models.graph_modules.specs import PAST, GraphOptions
from internvl_edge.export.models.graphs import (
    GRAPH_NAMES,
    GRAPHS,
    GraphRow,
    available_graphs,
    cut_for,
    graph_rows,
    graph_spec,
)
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
LANGUAGE = LanguageConfig(
    family="llama",
    hidden_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    num_layers=2,
    intermediate_size=40,
    vocab_size=96,
    rope=RopeConfig(kind="dynamic", factor=2.0, limit=16),
)
CONFIG = ModelConfig(layout="internvl", parts=(TOWER, POOL, QLLAMA, replace(CONNECTOR, joined=False)))
CHAT = ModelConfig(layout="internvl_chat", parts=(TOWER, CONNECTOR, LANGUAGE))


def config_of(row: GraphRow) -> ModelConfig:
    """Return a model that has the graph of `row`."""
    return next(config for config in (CONFIG, CHAT) if row.has_weights(config))


def options_of(row: GraphRow) -> GraphOptions:
    """Return the options with which the tests make the graph of `row`."""
    return GraphOptions(config=config_of(row), feature_layers=(0,))


SIZES = {"batch": 2, "texts": 3, "length": 5, "past": 7, "total": 12}


def shapes_of(row: GraphRow) -> dict[str, tuple[int, ...]]:
    """Return the shape of every output, as the torch module gives it."""
    with torch.device("meta"):
        config = config_of(row)
        spec = graph_spec(row.name, config, InternVLModel(config).eval(), torch.float32, (0,))
        inputs = [
            torch.zeros([SIZES[d] if isinstance(d, str) else d for d in item.shape], dtype=item.dtype)
            for item in spec.inputs
        ]
        found = spec.module(*inputs)
    outputs = found if isinstance(found, tuple) else (found,)
    return {name: tuple(value.shape) for name, value in zip(spec.outputs, outputs, strict=True)}


def test_names_are_those_that_the_runtime_knows_in_one_order() -> None:
    assert GRAPH_NAMES == ("vision", "query", "text", "decoder", "itm", "connector", "llm", "embed_tokens")
    assert [row.use.role for row in GRAPHS] == list(EXPORTED_AS)


@pytest.mark.parametrize("config", [CONFIG, CHAT, cut_for(CHAT, ("connector",))])
def test_no_model_has_two_graphs_of_one_name(config: ModelConfig) -> None:
    names = [row.name for row in GRAPHS if row.has_weights(config)]
    assert names == list(graph_rows(config)) == list(available_graphs(config))


def test_the_runtime_is_tested_on_the_uses_that_export_writes() -> None:
    assert {row.use.role: row.use for row in GRAPHS} == {use.role: use for use in USES.values()}


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.use.role)
def test_a_module_gives_what_its_row_declares(row: GraphRow) -> None:
    shapes = shapes_of(row)
    assert tuple(shapes) == row.module.outputs(options_of(row))
    assert row.sensitivity_output is None or row.sensitivity_output in shapes
    rows = SIZES["texts" if row.use.rows == "texts" else "batch"]
    assert {shape[0] for shape in shapes.values()} == {rows}


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.use.role)
def test_every_input_has_a_source(row: GraphRow) -> None:
    """Pictures and ids are samples', caches and states another graph's outputs, mask and positions are counted."""
    names = [item.name for item in row.module.inputs(options_of(row))]
    fed = [name for name in names if any(_covers(key, name) for key in row.feeds)]
    counted = {"attention_mask", "position_ids", "rope_length"} if row.use.phases else set()
    cache = {name for name in names if name.startswith(PAST)} if row.use.in_chunks else set()
    assert set(names) - set(fed) <= {"pixel_values", "input_ids", *counted, *cache}
    assert ("input_ids" in names) == (row.use.ids is not None)
    assert [key for key in row.feeds if not any(_covers(key, name) for name in names)] == []
    assert (row.fed_by is None) == (not row.feeds)


@pytest.mark.parametrize("row", [row for row in GRAPHS if row.fed_by], ids=lambda row: row.use.role)
def test_what_feeds_a_graph_comes_before_it_and_fits(row: GraphRow) -> None:
    assert row.fed_by is not None
    assert GRAPH_NAMES.index(row.fed_by) < GRAPH_NAMES.index(row.name)
    given = shapes_of(graph_rows(config_of(row))[row.fed_by])
    for item in row.module.inputs(options_of(row)):
        for key, source in row.feeds.items():
            if _covers(key, item.name):
                shape = given[source + item.name.removeprefix(key)]
                if row.embeds is not None:
                    assert shape[-1] == item.shape[-1]  # rows of the other graph stand among those of ids
                    continue
                assert [a for a, b in zip(item.shape, shape, strict=True) if a not in ("batch", "past", b)] == []


@pytest.mark.parametrize("row", GRAPHS, ids=lambda row: row.use.role)
def test_blocks_are_parts_of_the_module_and_hold_its_sites(row: GraphRow) -> None:
    with torch.device("meta"):
        module = row.module.build(options_of(row), InternVLModel(config_of(row)))
    blocks = row.module.blocks(options_of(row))
    parts = dict(module.named_modules())
    assert [path for path in blocks if path not in parts] == []
    sites = [site.name for site in model_sites(config_of(row)) if site.name in parts]
    assert bool(sites) == row.quantized
    assert row.has_head == ("logits" in row.module.outputs(options_of(row)))
    assert (row.stream is not None) == (row.stack is not None) == row.quantized
    assert bool(blocks) or not row.quantized
    assert row.stack is None or set(blocks) <= set(row.stack.blocks(config_of(row)))


def test_a_cache_has_a_prompt_and_steps() -> None:
    rows = graph_rows(CONFIG) | graph_rows(CHAT)
    assert {name for name, row in rows.items() if row.use.phases} == {"decoder", "llm"}
    assert [name for name, row in rows.items() if PAST in row.feeds] == ["decoder"]
    assert [name for name, row in rows.items() if row.use.in_chunks] == ["llm"]
    assert rows["decoder"].use.phases == ("prompt", "step")
    assert rows["decoder"].continues == "query"


def test_a_model_has_the_graphs_of_its_parts() -> None:
    assert available_graphs(CONFIG) == ("vision", "query", "text", "decoder", "itm", "connector")
    assert available_graphs(replace(CHAT, parts=(TOWER, CONNECTOR))) == ("vision",)
    assert available_graphs(CHAT) == ("vision", "llm", "embed_tokens")
    assert [name for name, row in graph_rows(CHAT).items() if row.by_default] == ["vision", "llm"]
    text_alone = replace(QLLAMA, text_alone=True)
    assert available_graphs(replace(CONFIG, parts=(TOWER, POOL, text_alone))) == (
        "vision",
        "text",
    )


def test_the_connector_is_apart_if_its_graph_is_asked_for() -> None:
    apart = cut_for(CHAT, ("vision", "connector", "llm"))
    assert available_graphs(apart) == ("vision", "connector", "llm", "embed_tokens")
    assert graph_rows(apart)["vision"].module is not graph_rows(CHAT)["vision"].module
    assert graph_rows(apart)["llm"].feeder(graph_rows(apart)) == "connector"
    assert graph_rows(CHAT)["llm"].feeder(graph_rows(CHAT)) == "vision"
    assert cut_for(apart, ()) == CHAT
    assert cut_for(replace(CHAT, parts=(TOWER,)), ("connector",)).parts == (TOWER,)


@pytest.mark.parametrize("name", ["connector", "nothing"])
def test_a_graph_without_weights_is_refused(name: str) -> None:
    config = replace(CONFIG, parts=(TOWER, POOL, QLLAMA))
    with torch.device("meta"):
        model = InternVLModel(config)
    with pytest.raises(ValueError, match=f"{name}: no such graph for internvl"):
        graph_spec(name, config, model, torch.float32)


def _covers(key: str, name: str) -> bool:
    return name.startswith(key) if key.endswith(".") else name == key
