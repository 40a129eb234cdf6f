"""The table of all graphs: a row and a file for each have everything that depends on a graph's name."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from internvl_edge.export.models.config import ConnectorConfig, LanguageConfig, ModelConfig, QllamaConfig
from internvl_edge.export.models.families.family import BlockStack
from internvl_edge.export.models.families.internvit import VISION_STACK
from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules import (
    connector,
    decoder,
    embed_tokens,
    itm,
    llm,
    query,
    text,
    tiles,
    vision,
)
from internvl_edge.export.models.graph_modules.specs import (
    PAST,
    PRESENT,
    GraphInput,
    GraphModule,
    GraphOptions,
    StreamOf,
)
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime.bundle.graph_roles import (
    CAPTION_DECODER,
    CONNECTOR,
    EXPORTED_AS,
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    PAIR_MATCHER,
    QUERY_ENCODER,
    TEXT_ENCODER,
    TILE_ENCODER,
    TOKEN_EMBEDDER,
    GraphUse,
    Ids,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """A graph to trace: its module, its inputs in order, and the names of its outputs in order."""

    name: str
    module: nn.Module
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRow:
    """Description of one graph."""

    use: GraphUse
    """Role of the graph in the runtime, as the manifest states it."""
    module: GraphModule
    """File with the graph's torch module, inputs, outputs and blocks."""
    has_weights: Callable[[ModelConfig], bool]
    """Return whether a model has all weights of the graph, in the form that the graph takes.

    Of rows with one name, a model has at most one.
    """
    by_default: bool = True
    """Whether it is written if no graphs are asked for by name."""
    fed_by: str | None = None
    """Name of the graph whose outputs are its inputs; None if it takes samples only."""
    fed_through: str | None = None
    """Name of a graph that stands between `fed_by` and it in some models, and whose outputs it takes there."""
    feeds: Mapping[str, str] = field(default_factory=dict)
    """Input -> output of the graph that feeds it; names that end in a dot are prefixes."""
    embeds: Ids | None = None
    """Meaning of the ids whose embeddings are its rows, together with rows of the graph that feeds it; None if it takes
    no embeddings of ids."""
    leading_queries: bool = False
    """Whether the query tokens precede the rows of its token ids in the residual stream."""
    fewest_rows: Callable[[ModelConfig], int] = lambda config: 1
    """Return the fewest rows that its self-attention sees in a call."""
    stream: StreamOf | None = None
    """Return the stream that runs samples through `stack`; None if calibration does not measure the graph."""
    stack: BlockStack | None = None
    """Blocks that its samples run through."""
    has_head: bool = False
    """Whether the language model's head follows its last block."""
    quantized: bool = True
    """Whether it has linears that may be quantized; calibration measures only such graphs."""
    sensitivity_output: str | None = None
    """Output on which the damage of a quantized linear is measured; None if other graphs are used for that."""

    @property
    def name(self) -> str:
        """Name of the graph and of its file."""
        return EXPORTED_AS[self.use.role]

    def feeder(self, graphs: Collection[str]) -> str | None:
        """Return the name of the graph that feeds it in a model with these graphs; None if it takes samples only."""
        return self.fed_through if self.fed_through in graphs else self.fed_by

    def input_shapes(self, config: ModelConfig) -> dict[str, tuple[int | str, ...]]:
        """Return the name and the shape of each input, in order."""
        return {item.name: item.shape for item in self.module.inputs(GraphOptions(config=config))}

    @property
    def attends_to(self) -> str | None:
        """Name of the graph whose residual stream its layers attend to."""
        return self.fed_by if "vision_states" in self.feeds and self.stack is not None else None

    @property
    def continues(self) -> str | None:
        """Name of the graph whose cache it continues; None if it takes no cache."""
        return self.fed_by if PAST in self.feeds else None


def _reads_texts(config: ModelConfig) -> bool:
    return config.find(QllamaConfig) is not None


def _has_queries(config: ModelConfig) -> bool:
    qllama = config.find(QllamaConfig)
    return qllama is not None and not qllama.text_alone


def _joins(config: ModelConfig) -> bool:
    connector = config.find(ConnectorConfig)
    return connector is not None and connector.joined


def _speaks(config: ModelConfig) -> bool:
    return config.find(LanguageConfig) is not None


def _queries(config: ModelConfig) -> int:
    qllama = config.find(QllamaConfig)
    return qllama.num_queries if qllama is not None else 0


_STATES = {"vision_states": "vision_states"}

GRAPHS: tuple[GraphRow, ...] = (
    GraphRow(
        use=GraphUse(role=IMAGE_ENCODER, rows="pictures"),
        module=vision,
        has_weights=lambda config: not _joins(config),
        fewest_rows=lambda config: config.vision.tokens,
        stream=vision.stream,
        stack=VISION_STACK,
        sensitivity_output="vision_states",
    ),
    GraphRow(
        use=GraphUse(role=TILE_ENCODER, rows="pictures"),
        module=tiles,
        has_weights=_joins,
        fewest_rows=lambda config: config.vision.tokens,
        stream=vision.stream,
        stack=VISION_STACK,
        sensitivity_output="vit_embeds",
    ),
    GraphRow(
        use=GraphUse(role=QUERY_ENCODER, rows="pictures"),
        module=query,
        has_weights=_has_queries,
        fed_by="vision",
        feeds=_STATES,
        fewest_rows=_queries,
        stream=query.stream,
        stack=QLLAMA_STACK,
        sensitivity_output="query_states",
    ),
    GraphRow(
        use=GraphUse(role=TEXT_ENCODER, rows="texts", ids="texts"),
        module=text,
        has_weights=_reads_texts,
        stream=text.stream,
        stack=QLLAMA_STACK,
        sensitivity_output="text_embeds",
    ),
    GraphRow(
        use=GraphUse(
            role=CAPTION_DECODER,
            rows="sequences",
            ids="prompts",
            prompt_tokens=(1, 5, 16),  # `English caption:` has 5
            new_tokens=(16, 64),  # 16 behind the queries are the middle of a usual caption
        ),
        module=decoder,
        has_weights=_has_queries,
        fed_by="query",
        feeds={PAST: PRESENT},
        fewest_rows=lambda config: _queries(config) + 1,
        stream=decoder.stream,
        stack=QLLAMA_STACK,
        has_head=True,
        sensitivity_output="logits",
    ),
    GraphRow(
        use=GraphUse(role=PAIR_MATCHER, rows="pictures", ids="pairs"),
        module=itm,
        has_weights=_has_queries,
        fed_by="vision",
        feeds=_STATES,
        leading_queries=True,
        fewest_rows=lambda config: _queries(config) + 1,
        stream=itm.stream,
        stack=QLLAMA_STACK,
    ),
    GraphRow(
        use=GraphUse(role=CONNECTOR, rows="pictures"),
        module=connector,
        has_weights=lambda config: config.find(ConnectorConfig) is not None and not _joins(config),
        fed_by="vision",
        feeds=_STATES,
        quantized=False,
    ),
    GraphRow(
        use=GraphUse(
            role=LANGUAGE_MODEL,
            rows="sequences",
            prompt_tokens=(1, 512, 512),
            new_tokens=(400, 0),  # a picture of one tile is 256 tokens
            in_chunks=True,
        ),
        module=llm,
        has_weights=_speaks,
        fed_by="vision",
        fed_through="connector",
        feeds={"inputs_embeds": "vit_embeds"},
        embeds="questions",
        has_head=True,
        quantized=False,
    ),
    GraphRow(
        use=GraphUse(role=TOKEN_EMBEDDER, rows="sequences", ids="questions"),
        module=embed_tokens,
        has_weights=_speaks,
        by_default=False,
        quantized=False,
    ),
)
"""All graphs, in the order in which they feed each other."""
GRAPH_NAMES = tuple(dict.fromkeys(row.name for row in GRAPHS))
_BY_ROLE = {row.use.role: row for row in GRAPHS}


def graph_rows(config: ModelConfig) -> dict[str, GraphRow]:
    """Return the name and the row of every graph that a model has weights for, in the order of `GRAPH_NAMES`."""
    return {row.name: row for row in GRAPHS if row.has_weights(config)}


def row_with_role(role: str) -> GraphRow | None:
    """Return the row of the graphs with a role of `runtime.bundle.graph_roles`; None for graphs of another origin."""
    return _BY_ROLE.get(role)


def cut_for(config: ModelConfig, names: Sequence[str]) -> ModelConfig:
    """Return `config` for the graphs of `names`: the connector is apart from the tower if its graph is among them."""
    connector = config.find(ConnectorConfig)
    if connector is None:
        return config
    return config.with_part(replace(connector, joined=EXPORTED_AS[CONNECTOR] not in names))


def unknown_graphs(names: Sequence[str] | None) -> list[str]:
    """Return what is wrong with the value `names` of --graphs: one finding if there are unknown graphs, or none."""
    unknown = [name for name in names or () if name not in GRAPH_NAMES]
    return [f"--graphs {','.join(unknown)}: unknown; choose from {', '.join(GRAPH_NAMES)}"] if unknown else []


def needs_language(names: Collection[str] | None) -> bool:
    """Return whether one of the graphs `names` needs the weights of a language model; None stands for all graphs."""
    return names is None or not {EXPORTED_AS[LANGUAGE_MODEL], EXPORTED_AS[TOKEN_EMBEDDER]}.isdisjoint(names)


def available_graphs(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the graphs that a model has weights for, in the order of `GRAPH_NAMES`."""
    return tuple(graph_rows(config))


def graph_spec(
    name: str, config: ModelConfig, model: InternVLModel, dtype: torch.dtype, feature_layers: Sequence[int] = ()
) -> GraphSpec:
    """Return graph `name` of `model` in type `dtype`; `feature_layers` has an effect on the tower's graph only.

    Raises:
        ValueError: the model has no such graph.
    """
    if (row := graph_rows(config).get(name)) is None:
        raise ValueError(f"{name}: no such graph for {config.layout}")
    options = GraphOptions(config=config, dtype=dtype, feature_layers=tuple(feature_layers))
    return GraphSpec(
        name=name,
        module=row.module.build(options, model),
        inputs=row.module.inputs(options),
        outputs=row.module.outputs(options),
    )
