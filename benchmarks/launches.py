"""Kernel launches and bytes of one block, our best form against plain exports: `python benchmarks/launches.py FOLDER`.

Plans for sm_89 are built on the CPU and read; nothing runs on a GPU. What a plan looks like does not depend on the
values of weights, so none are made: all weights of a graph lie, staggered, in a few files of random numbers in FOLDER.
ModelOpt, in an environment of its own (1.4 GB, made once), calibrates by running the graph: 15 GB and minutes for three
layers of QLLaMA. So it gets the blocks at narrow width and one random batch, and its Q/DQ graph is widened.
"""

import json
import logging
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import torch
from export_scale import machine
from model_optimizer import MODELOPT, modelopt_python
from qdq_products import quantized_products
from random_checkpoint import PRESETS
from steps import StepError, step
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from widen import full_widths, narrow, widen

from internvl_edge.calib.decide import Clip, Decision, Rules
from internvl_edge.calib.formats import FORMATS
from internvl_edge.calib.qdq import quantize_graph
from internvl_edge.calib.recipe import LinearWeights, Recipe
from internvl_edge.export.axes import name_axes
from internvl_edge.export.config import ModelConfig, config_from_json
from internvl_edge.export.dialects import Dialect
from internvl_edge.export.dialects.cut_blocks import BLOCKS, Range, Shapes, axes_profile
from internvl_edge.export.dialects.forms import Form, block_cost, leanest, search_forms
from internvl_edge.export.engine.builder import build_plan
from internvl_edge.export.engine.targets import find_target
from internvl_edge.export.models.graphs import GraphInput
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.export.models.qllama import Context, RotaryTable
from internvl_edge.export.passes import canonicalize
from internvl_edge.export.passes.name_nodes import NameNodesPass
from internvl_edge.export.sites import model_sites
from internvl_edge.export.xray.launches import launches_of
from internvl_edge.export.xray.schedule import read_plan
from internvl_edge.runtime.errors import EngineError

TARGET = "sm_89"
PLAIN_OPSETS = (17, 20, 23)
MODELOPT_OPSET = 20
"""Of the plain export that it quantizes."""
PRECISIONS = ("fp16", "int8", "fp8")
MODELOPT_PRECISIONS = ("int8", "fp8")
DTYPE = torch.float16
CANONICAL_OPSET = 23
TORCH_OPSET = 18
"""The oldest that torch's exporter writes. Older ones come of a conversion that forgets the names by which kernels are
counted, and fails for RMSNorm: 17 is counted as 18."""
GRAPH = "plain.onnx"
STAGGER_BYTES = 4096
"""Between the beginnings of two weights in the file: equal weights would let the builder merge their products."""
STAND_IN_SCALE = 1 / 64
"""Of activations and weights in 8 bits; any value gives the same plan."""
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
    """QLLaMA's layers alone; `use` says which graph they are in."""

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
    """One block that is judged."""

    title: str
    preset: str
    graph: str
    block: str
    """The one that counts: it has a block on either side."""
    layers: int
    ranges: Mapping[str, Range]
    wanted: Mapping[str, int]
    """Precision -> most launches; elsewhere fewer than the plain exports."""
    narrow: bool = False
    """Whether widths are cut, for a tool that runs the graph."""


CASES = {
    "6b": Case(
        title="InternViT-6B",
        preset="internvit-6b",
        graph="vision",
        block="vision_model.encoder.layers.1",
        layers=BLOCKS,
        ranges={"batch": (1, 1, 8)},
        wanted={"fp16": 10, "int8": 11, "fp8": 10},
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    launches: int | None
    bytes: int | None
    remark: str


def config_of(case: Case) -> ModelConfig:
    """Return the preset cut to the layers that are judged, and to narrow width where the case says so."""
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
    text = config.qllama
    assert text is not None
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
    """Rotate by plain torch operations: no graph that a user exports calls ONNX operators from torch."""

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


def stand_in_recipe(case: Case, precision: str) -> Recipe:
    """Return a recipe that quantizes every linear of the blocks as calibration would, with stand-in scales."""
    config = config_of(case)
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
    rules = Rules(form=FORMATS[precision], dtype="float16")
    return Recipe(rules=rules, decisions=tuple(decisions), linears=linears)


def attach_stand_ins(model: ir.Model, folder: Path) -> None:
    """Point every weight of `model` into the random file of its kind, each at a place of its own."""
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
    """Make a random file at least `nbytes` long: codes that are numbers in FP8, or fp16.

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


def plain_row(case: Case, opset: int, folder: Path) -> Row:
    """Build a plain export and count its block."""
    model = plain_model(case, opset, folder)
    found = model.opset_imports[""]
    remark = "" if found == opset else f"as opset {found}, the oldest that torch writes"
    return counted_row(f"{case.title}: plain, opset {opset}", case, model, folder, remark)


def modelopt_row(case: Case, precision: str, folder: Path, environment: Path) -> Row:
    """Let ModelOpt quantize a plain export, build the result and count its block."""
    what = f"{case.title}: ModelOpt Q/DQ, {precision}"
    try:
        model = modelopt_model(case, precision, folder, environment)
    except (StepError, OSError, subprocess.CalledProcessError) as error:
        return Row(what=what, launches=None, bytes=None, remark=_one_line(error))
    quantized, products = quantized_products(folder / GRAPH)
    return counted_row(what, case, model, folder, f"{quantized} of the graph's {products} products in 8 bits")


def modelopt_model(case: Case, precision: str, folder: Path, environment: Path) -> ir.Model:
    """Return ModelOpt's Q/DQ graph of a plain export, written to `folder` with stand-in weights.

    Raises:
        StepError: ModelOpt cannot be installed, or fails.
    """
    small, inputs, log = replace(case, narrow=True), folder / "inputs", folder / "modelopt.log"
    write_inputs(small, plain_model(small, MODELOPT_OPSET, folder), inputs)
    given = (folder / GRAPH, inputs, precision, "max", "fp16")
    step("model_optimizer.modelopt_graph", *given, log=log, python=str(modelopt_python(environment, log)))
    model = ir.load(folder / GRAPH)
    widen(model, full_widths(config_of(small), config_of(case)))
    attach_stand_ins(model, folder)
    ir.save(model, folder / GRAPH)
    return model


def plain_model(case: Case, opset: int, folder: Path) -> ir.Model:
    """Return a plain export, written to `folder` with stand-in weights."""
    model = traced(case, opset, plain=True)
    attach_stand_ins(model, folder)
    ir.save(model, folder / GRAPH)
    return model


def counted_row(what: str, case: Case, model: ir.Model, folder: Path, remark: str) -> Row:
    """Build the graph in `folder`, which has the inputs of `model`, and count its block."""
    profiles, plan = _profiles(case, model), folder / "plain.plan"
    try:
        build_plan(folder / GRAPH, plan, target=find_target(TARGET), profiles=profiles)
        cost = block_cost(plan, case.block, profiles)[0]
    except EngineError as error:
        return Row(what=what, launches=None, bytes=None, remark=_one_line(error))
    unnamed = unnamed_launches(plan, case.block)
    remarks = [remark, f"not counted: {unnamed} inside that name no block" if unnamed else ""]
    return Row(what=what, launches=cost.launches, bytes=cost.bytes, remark="; ".join(filter(None, remarks)))


def unnamed_launches(plan: Path, block: str) -> int:
    """Return how many launches of no block run between the first and the last of `block`.

    Nodes that ModelOpt adds are named by tensors, so a kernel that only quantizes names none; nor does one that
    TensorRT adds to change a layout.
    """
    blocks = [launch.block for launch in launches_of(read_plan(plan).schedules[0])]
    last = len(blocks) - blocks[::-1].index(block)
    return blocks[blocks.index(block) : last].count("")


def write_inputs(case: Case, model: ir.Model, folder: Path) -> None:
    """Write one random batch for calibration, in the shapes that plans are tuned for; positions are 0."""
    rng, shapes = np.random.default_rng(0), _profiles(case, model)[0]
    batch: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        name, usual = str(value.name), shapes[str(value.name)][1]
        numbers = rng.standard_normal(usual) if value.dtype.is_floating_point() else np.zeros(usual)
        batch[name] = numbers.astype(value.dtype.numpy())
    folder.mkdir(exist_ok=True)
    np.savez(folder / "0000.npz", **batch)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def best_form(case: Case, precision: str, folder: Path, most_launches: int | None) -> Form:
    """Search the forms of the canonical graph, quantized where asked; the leanest with few enough launches."""
    model = canonicalize(traced(case, CANONICAL_OPSET, plain=False))
    if precision != "fp16":
        quantize_graph(model, stand_in_recipe(case, precision))
    attach_stand_ins(model, folder)
    profiles = _profiles(case, model)
    forms = search_forms(model, case.block, folder, target=find_target(TARGET), profiles=profiles)
    return leanest(forms, most_launches)


def _profiles(case: Case, model: ir.Model) -> list[Mapping[str, Shapes]]:
    return [axes_profile(model, case.ranges)]


def rows_of(case: Case, folder: Path, environment: Path) -> Iterator[Row]:
    """Yield the plain exports, then ModelOpt's graphs, then ours in every precision, judged against them."""
    plain = [plain_row(case, opset, folder) for opset in PLAIN_OPSETS]
    yield from plain
    modelopt = {precision: modelopt_row(case, precision, folder, environment) for precision in MODELOPT_PRECISIONS}
    yield from modelopt.values()
    for precision in PRECISIONS:
        form = best_form(case, precision, folder, most_launches(case, precision, plain))
        verdicts = [verdict(case, precision, form, "plain", plain)]
        if precision in modelopt:
            verdicts.append(verdict(case, precision, form, "ModelOpt", [modelopt[precision]]))
        yield Row(
            what=f"{case.title}: ours, {precision}",
            launches=form.launches,
            bytes=form.bytes,
            remark="; ".join([*verdicts, form_text(form)]),
        )


def most_launches(case: Case, precision: str, rivals: Sequence[Row]) -> int:
    """Return the bound of `case`, or else the fewest launches among `rivals`."""
    return case.wanted.get(precision, min((row.launches for row in rivals if row.launches is not None), default=0))


def verdict(case: Case, precision: str, form: Form, title: str, rivals: Sequence[Row]) -> str:
    """Return what was wanted against the rows `rivals`, and whether it is so.

    A case with bounds of its own wants fewer bytes; elsewhere fewer launches at no more bytes suffice.
    """
    launches = [row.launches for row in rivals if row.launches is not None]
    moved = [row.bytes for row in rivals if row.bytes is not None]
    if not launches or not moved:
        return f"no figures of {title}"
    most, strict = most_launches(case, precision, rivals), bool(case.wanted)
    bound = min(moved) if strict or form.launches >= min(launches) else min(moved) + 1
    reached = form.launches <= most and form.bytes is not None and form.bytes < bound
    wanted = f"{'fewer bytes' if strict else 'better'} than {title}"
    return f"<= {most} launches, {wanted}: {'reached' if reached else 'MISSED'}"


def form_text(form: Form) -> str:
    """Return how attention is written, and what differs from that form's defaults."""
    dialect = form.dialect
    standard = asdict(Dialect(attention=dialect.attention))
    differing = (f"{field} {value}" for field, value in asdict(dialect).items() if value != standard[field])
    return ", ".join([f"attention {dialect.attention}", *differing])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Default: all.")
@click.option("--environment", type=click.Path(path_type=Path), help="ModelOpt's; default: FOLDER/modelopt.")
def main(folder: Path, cases: tuple[str, ...], environment: Path | None) -> None:
    """Count launches and bytes below FOLDER and print a Markdown table."""
    click.echo(f"{machine()}; plans for {TARGET}; ModelOpt: {' '.join(MODELOPT)}\n")
    click.echo("| what | launches of the block | MB moved | remark |\n| --- | ---: | ---: | --- |")
    for name in cases or CASES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for row in rows_of(CASES[name], place, environment or folder / "modelopt"):
            moved = f"{row.bytes / 1e6:.1f}" if row.bytes is not None else ""
            click.echo(f"| {row.what} | {row.launches or ''} | {moved} | {row.remark} |")
            sys.stdout.flush()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
