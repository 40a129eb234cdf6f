"""Blocks of InternVL at full width without trained weights: exported by torch, canonical, or with made-up scales.

What a plan looks like does not depend on the values of weights, so none are made: all weights of a graph lie,
staggered, in a few files of random numbers.
"""

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from random_checkpoint import PRESETS
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from widen import narrow

from internvl_edge.calib.qdq.insert import quantize_graph
from internvl_edge.calib.recipes.decide import Clip, Decision, Rules
from internvl_edge.calib.recipes.recipe import AttentionRange, LinearWeights, Recipe
from internvl_edge.export.canonical.axes import name_axes
from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.passes.name_nodes import NameNodesPass
from internvl_edge.export.checkpoint.config.config_json import config_from_json
from internvl_edge.export.dialects.cut_blocks import BLOCKS, Range
from internvl_edge.export.dialects.join_heads import JoinHeadsPass
from internvl_edge.export.models.config import ModelConfig, QllamaConfig
from internvl_edge.export.models.graph_modules.specs import GraphInput
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Context, RotaryTable
from internvl_edge.export.models.sites import model_sites
from internvl_edge.runtime.numbers.formats import QUANTIZED

DTYPE = torch.float16
CANONICAL_OPSET = 23
TORCH_OPSET = 18
"""Opset of plain exports, the oldest that torch's exporter writes.

Older ones need a conversion that drops the names by which kernels are counted, and that fails for RMSNorm; so 17 is
counted as 18.
"""
STAGGER_BYTES = 4096
"""Distance between the starts of two weights in the file; equal weights would let the builder merge their products."""
STAND_IN_SCALE = 1 / 64
"""Scale of activations and weights in 8 bits; any value gives the same plan."""
FP8_ATTENTION = "fp8, attention too"
_EXAMPLE_SIZES = {"batch": 2, "texts": 2, "length": 5, "past": 11, "total": 16}


class VisionBlocks(nn.Module):
    """InternViT's blocks alone."""

    def __init__(self, model: InternVLModel) -> None:
        super().__init__()
        self.vision_model = model.vision_model

    def forward(self, states: Tensor) -> Tensor:
        """Return ``[B, N, Hv]`` after the last block."""
        for layer in self.vision_model.encoder.layers:
            states = layer(states)
        return states


class QllamaBlocks(nn.Module):
    """QLLaMA's layers alone, as they are used in one of the graphs."""

    def __init__(self, model: InternVLModel, use: str) -> None:
        super().__init__()
        self.qllama = model.qllama
        self.use = use

    def forward(self, states: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Return ``[B, n, Ht]`` and, where the graph keeps them, the caches."""
        context, past = self._context(states, given)
        last, caches = self.qllama.model(states, context, past)
        kept = [tensor for cache in caches for tensor in cache] if self.use != "text" else []
        return last, *kept

    def _context(self, states: Tensor, given: Sequence[Tensor]) -> tuple[Context, list[tuple[Tensor, Tensor]] | None]:
        if self.use == "query":
            positions = torch.arange(states.shape[1]).unsqueeze(0).expand(states.shape[0], -1)
            return Context(positions=positions, vision_states=given[0]), None
        bias, positions, *past = given
        pairs = list(zip(past[::2], past[1::2], strict=True))
        return Context(positions=positions, bias=bias), pairs or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One block that is measured."""

    title: str
    preset: str
    graph: str
    block: str
    """Path of the measured block, which has a block on either side."""
    layers: int
    ranges: Mapping[str, Range]
    wanted: Mapping[str, int]
    """Precision -> largest number of launches; without an entry, fewer than the plain exports have."""
    precisions: Sequence[str] = ("fp16", "int8", "fp8", FP8_ATTENTION)
    narrow: bool = False
    """Whether the width is reduced, for a tool that runs the graph."""


CASES = {
    "6b": Case(
        title="InternViT-6B",
        preset="internvit-6b",
        graph="vision",
        block="vision_model.encoder.layers.1",
        layers=BLOCKS,
        ranges={"batch": (1, 1, 8)},
        wanted={"fp16": 10, "int8": 11, "fp8": 10, FP8_ATTENTION: 10},
    ),
    "300m": Case(
        title="InternViT-300M",
        preset="internvit-300m",
        graph="vision",
        block="vision_model.encoder.layers.1",
        layers=BLOCKS,
        ranges={"batch": (1, 1, 8)},
        wanted={},
    ),
    "query": Case(
        title="QLLaMA query, with cross-attention",
        preset="internvl-14b",
        graph="query",
        block="qllama.model.layers.2",
        layers=BLOCKS + 1,
        ranges={"batch": (1, 1, 8)},
        wanted={},
    ),
    "text": Case(
        title="QLLaMA text, 16 tokens",
        preset="internvl-14b",
        graph="text",
        block="qllama.model.layers.1",
        layers=BLOCKS,
        ranges={"texts": (1, 1, 8), "length": (1, 16, 80)},
        wanted={},
        precisions=("fp16", "int8", "fp8"),  # a text may be too short for attention in FP8
    ),
    "step": Case(
        title="QLLaMA decode step, past 112",
        preset="internvl-14b",
        graph="decoder",
        block="qllama.model.layers.1",
        layers=BLOCKS,
        ranges={"batch": (1, 1, 8), "length": (1, 1, 1), "past": (97, 112, 176), "total": (98, 113, 177)},
        wanted={},
    ),
}


def config_of(case: Case) -> ModelConfig:
    """Return the preset with the measured layers only, and at narrow width if the case asks for it."""
    content = json.loads(json.dumps(PRESETS[case.preset]))
    if "qllama_config" in content:
        content["qllama_config"]["num_hidden_layers"] = case.layers
        content["vision_config"]["num_hidden_layers"] = 1
    else:
        content["num_hidden_layers"] = case.layers
    if case.narrow:
        narrow(content)
    return config_from_json(content)


def blocks_of(case: Case, config: ModelConfig) -> tuple[nn.Module, tuple[GraphInput, ...]]:
    """Return the module of the blocks and its inputs."""
    model, vision = InternVLModel(config).eval(), config.vision
    states = GraphInput(name="states", dtype=DTYPE, shape=("batch", vision.tokens, vision.hidden_size))
    if case.graph == "vision":
        return VisionBlocks(model), (states,)
    text = config.need(QllamaConfig)
    batch = "texts" if case.graph == "text" else "batch"
    rows: int | str = text.num_queries if case.graph == "query" else "length"
    x = GraphInput(name="rows", dtype=DTYPE, shape=(batch, rows, text.hidden_size))
    if case.graph == "query":
        return QllamaBlocks(model, "query"), (x, states)
    seen = "length" if case.graph == "text" else "total"
    bias = GraphInput(name="bias", dtype=DTYPE, shape=(batch, 1, rows, seen))
    positions = GraphInput(name="position_ids", dtype=torch.int64, shape=(batch, rows))
    cached = (batch, text.num_heads, "past", text.head_dim)
    names = [f"past.{layer}.{part}" for layer in range(text.num_layers) for part in ("key", "value")]
    past = tuple(GraphInput(name=name, dtype=DTYPE, shape=cached) for name in names if case.graph == "decoder")
    return QllamaBlocks(model, case.graph), (x, bias, positions, *past)


def traced(case: Case, opset: int, *, plain: bool) -> ir.Model:
    """Return the blocks as torch exports them; no weight has a value.

    Plain graphs are as `torch.onnx.export` leaves them by default, with rotary embedding in plain torch, as the
    reference has it; only the names of nodes and axes are ours, since kernels are counted by these names.
    """
    for name in ("torch.onnx._internal.exporter._registration", "onnx_ir.passes.common.initializer_deduplication"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they speak of every weight without a value
    with FakeTensorMode(), _default_dtype(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, inputs = blocks_of(case, config_of(case))
        if plain:
            _write_out_rotary(module)
        program = torch.onnx.export(
            torch.export.export(module, _examples(inputs), dynamic_shapes=_dynamic(inputs), strict=False),
            dynamo=True,
            opset_version=max(opset, TORCH_OPSET),
            input_names=[item.name for item in inputs],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    for value in program.model.graph.initializers.values():
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            value.const_value = None  # else the optimizer would fold weights that are not there
    if plain:
        program.optimize()
        NameNodesPass()(program.model)
    model = program.model
    model.graph.name = case.graph
    name_axes(model, inputs)
    return model


def _write_out_rotary(module: nn.Module) -> None:
    """Rotate with plain torch operations, as in a graph that a user exports."""

    def rotate(table: RotaryTable, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = (part[positions].unsqueeze(1) for part in (table.cos, table.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    for table in module.modules():
        if isinstance(table, RotaryTable):
            table.forward = rotate.__get__(table)  # type: ignore[method-assign]


def _examples(inputs: Sequence[GraphInput]) -> tuple[Tensor, ...]:
    sizes = [[_EXAMPLE_SIZES[d] if isinstance(d, str) else d for d in item.shape] for item in inputs]
    return tuple(torch.zeros(size, dtype=item.dtype) for size, item in zip(sizes, inputs, strict=True))


def _dynamic(inputs: Sequence[GraphInput]) -> tuple[Any, ...]:
    dims = [{i: torch.export.Dim.DYNAMIC for i, d in enumerate(item.shape) if isinstance(d, str)} for item in inputs]
    return tuple(dims) if inputs[0].name == "states" else (dims[0], tuple(dims[1:]))


class _default_dtype:  # noqa: N801  # reads as the function that it stands for
    """Make fp16 torch's default while a model is built."""

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPE)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self._before)


def canonical(case: Case, precision: str) -> ir.Model:
    """Return the canonical graph of the blocks, quantized where `precision` says so."""
    model = canonicalize(traced(case, CANONICAL_OPSET, plain=False))
    if precision == FP8_ATTENTION:
        JoinHeadsPass()(model)  # as an export does
    return model if precision == "fp16" else quantize_graph(model, stand_in_recipe(case, precision, model))


def stand_in_recipe(case: Case, precision: str, model: ir.Model) -> Recipe:
    """Return a recipe that quantizes the blocks in `model` as calibration would, with stand-in scales."""
    config = config_of(case)
    held = AttentionRange(q=1.0, k=1.0, v=1.0)
    paths = [str(node.name).rpartition("/")[0] for node in model.graph if node.op_type == "Attention"]
    attention = {case.graph: dict.fromkeys(paths, held)} if precision == FP8_ATTENTION else {}
    clip = Clip(threshold=1.0, scale=STAND_IN_SCALE, method="max", clipped_share=0.0, sqnr_db=0.0, errors={})
    with torch.device("meta"):
        rows = {name: value.shape[0] for name, value in InternVLModel(config).state_dict().items() if value.ndim == 2}
    tower = "vision" if case.graph == "vision" else "qllama"
    sites = [site for site in model_sites(config) if site.tower == tower]
    decisions = [
        Decision(
            site=site,
            alpha=None,
            smoothing=None,
            smoothing_errors={},
            clips={case.graph: clip},
            quantized=True,
            reason="stand-in",
            prescription="",
        )
        for site in sites
    ]
    linears = {
        path: LinearWeights(scale=torch.full((rows[f"{path}.weight"],), STAND_IN_SCALE))
        for site in sites
        for path in site.linears
    }
    quantized = QUANTIZED["fp8" if precision == FP8_ATTENTION else precision]
    rules = Rules(precision=quantized, dtype="float16", fp8_attention=bool(attention))
    return Recipe(rules=rules, decisions=tuple(decisions), linears=linears, attention=attention)


def attach_stand_ins(model: ir.Model, folder: Path) -> None:
    """Point every weight of `model` to a place of its own in the random file of its type."""
    waiting = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is None or isinstance(value.const_value, ir.ExternalTensor)
    ]
    for index, value in enumerate(waiting):
        assert value.shape is not None
        assert value.dtype is not None
        nbytes = math.prod(value.shape.numpy()) * int(value.dtype.itemsize)
        name = "codes.bin" if value.dtype.itemsize == 1 else "vectors.bin" if len(value.shape) < 2 else "matrices.bin"
        offset = index * STAGGER_BYTES
        _grow(folder / name, offset + nbytes)
        value.const_value = ir.ExternalTensor(
            name, offset, nbytes, value.dtype, shape=value.shape, name=str(value.name)
        )


def _grow(path: Path, nbytes: int) -> None:
    """Write a random file of at least `nbytes`, whose values are finite in FP8 or fp16.

    Vectors are positive, as scales must be; matrices have both signs, so that a graph that is run does not overflow.
    """
    rng = np.random.default_rng(path.stat().st_size if path.exists() else 0)
    with path.open("ab") as file:
        while (held := file.tell()) < nbytes:
            count = min(1 << 24, nbytes - held + (nbytes - held) % 2)
            if path.name == "codes.bin":
                file.write(rng.integers(0, 0x7F, count, np.uint8).tobytes())  # 0x7f is NaN in E4M3
            else:
                low, high = (0.5, 1) if path.name == "vectors.bin" else (-0.5, 0.5)
                file.write(rng.uniform(low, high, count // 2).astype(np.float16).tobytes())
