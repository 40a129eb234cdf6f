"""The table of all graphs: a row and a file for each have everything that depends on a graph's name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from internvl_edge.export.models.config import ConnectorConfig, ModelConfig, QllamaConfig
from internvl_edge.export.models.families.family import BlockStack
from internvl_edge.export.models.families.internvit import VISION_STACK
from internvl_edge.export.models.families.qllama import QLLAMA_STACK
from internvl_edge.export.models.graph_modules import connector, decoder, itm, query, text, vision
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
    PAIR_MATCHER,
    QUERY_ENCODER,
    TEXT_ENCODER,
    GraphUse,
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
    """Return whether a model has all weights of the graph."""
    fed_by: str | None = None
    """Name of the graph whose outputs are its inputs; None if it takes samples only."""
    feeds: Mapping[str, str] = field(default_factory=dict)
    """Input -> output of `fed_by`; names that end in a dot are prefixes."""
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


def _queries(config: ModelConfig) -> int:
    qllama = config.find(QllamaConfig)
    return qllama.num_queries if qllama is not None else 0


_STATES = {"vision_states": "vision_states"}

GRAPHS: tuple[GraphRow, ...] = (
    GraphRow(
        use=GraphUse(role=IMAGE_ENCODER, rows="pictures"),
        module=vision,
        has_weights=lambda config: True,
        fewest_rows=lambda config: config.vision.tokens,
        stream=vision.stream,
        stack=VISION_STACK,
        sensitivity_output="vision_states",
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
        has_weights=lambda config: config.find(ConnectorConfig) is not None,
        fed_by="vision",
        feeds=_STATES,
        quantized=False,
    ),
)
"""All graphs, in the order in which they feed each other."""
_BY_NAME = {row.name: row for row in GRAPHS}
GRAPH_NAMES = tuple(_BY_NAME)


def graph_row(name: str) -> GraphRow:
    """Return the row of graph `name`."""
    return _BY_NAME[name]


def unknown_graphs(names: Sequence[str] | None) -> list[str]:
    """Return what is wrong with the value `names` of --graphs: one finding if there are unknown graphs, or none."""
    unknown = [name for name in names or () if name not in _BY_NAME]
    return [f"--graphs {','.join(unknown)}: unknown; choose from {', '.join(GRAPH_NAMES)}"] if unknown else []


def available_graphs(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the graphs that a model has weights for, in the order of `GRAPH_NAMES`."""
    return tuple(row.name for row in GRAPHS if row.has_weights(config))


def graph_spec(
    name: str, config: ModelConfig, model: InternVLModel, dtype: torch.dtype, feature_layers: Sequence[int] = ()
) -> GraphSpec:
    """Return graph `name` of `model` in type `dtype`; `feature_layers` has an effect on the tower's graph only.

    Raises:
        ValueError: the model has no such graph.
    """
    row = _BY_NAME.get(name)
    if row is None or not row.has_weights(config):
        raise ValueError(f"{name}: no such graph for {config.layout}")
    options = GraphOptions(config=config, dtype=dtype, feature_layers=tuple(feature_layers))
    return GraphSpec(
        name=name,
        module=row.module.build(options, model),
        inputs=row.module.inputs(options),
        outputs=row.module.outputs(options),
    )
