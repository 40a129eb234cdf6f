"""Trace one graph of the model to ONNX under fake tensors: no weight is read, none is allocated."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset23 as op
from torch._subclasses import FakeTensorMode

from internvl_edge.export.canonical.axes import name_axes
from internvl_edge.export.canonical.opset import OPSET
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.export.models.graph_modules.specs import GraphInput
from internvl_edge.export.models.graphs import GraphSpec, graph_spec
from internvl_edge.export.models.internvl import InternVLModel
from internvl_edge.runtime.errors import ExportError, first_line
from internvl_edge.runtime.progress import Advance

_EXAMPLE_SIZES = {"batch": 2, "texts": 2, "length": 5, "past": 11, "total": 16}
"""Sizes of dynamic axes while tracing: above 1, which torch.export would take for a constant; total = past + length."""


_TO_BLOCKS = 0.4
"""Part of the time that torch takes to trace the blocks; writing them as ONNX takes the rest."""


def trace_graph(
    name: str,
    config: ModelConfig,
    dtype: torch.dtype,
    feature_layers: Sequence[int] = (),
    advance: Advance = lambda part: None,
) -> ir.Model:
    """Return graph `name` in ONNX as the exporter gives it; initializers carry official keys but no values.

    `advance` is told the parts of the graph that are done, 1 in all, block by block where torch traces them.

    Raises:
        ExportError: torch cannot trace the graph.
    """
    with FakeTensorMode(), _default_dtype(dtype), _quiet():
        spec = graph_spec(name, config, InternVLModel(config), dtype, feature_layers)
        try:
            with _telling_blocks(spec.module, lambda part: advance(_TO_BLOCKS * part)):
                program = _to_onnx(spec)
        except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError) as error:
            raise ExportError(
                f"{name}: torch cannot trace the graph ({first_line(error)}); report this with the config"
            ) from error
    advance(1 - _TO_BLOCKS)
    model = program.model
    model.graph.name = name
    name_axes(model, spec.inputs)
    for value in model.graph.initializers.values():
        value.const_value = None  # a fake tensor has no values; the weight store attaches the real ones
    return model


@contextmanager
def _telling_blocks(module: torch.nn.Module, advance: Advance) -> Iterator[None]:
    """Tell `advance` of each block as it is traced, and of the rest at the end: 1 in all."""
    blocks = [block for layers in module.modules() if isinstance(layers, torch.nn.ModuleList) for block in layers]
    traced: set[int] = set()

    def tell(block: torch.nn.Module, *_: object) -> None:
        if id(block) not in traced:
            traced.add(id(block))
            advance(1 / len(blocks))

    hooks = [block.register_forward_hook(tell) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    advance(1 - len(traced) / len(blocks) if blocks else 1.0)


def _to_onnx(spec: GraphSpec) -> torch.onnx.ONNXProgram:
    exported = torch.export.export(
        spec.module.eval(),
        tuple(_example(item) for item in spec.inputs),
        dynamic_shapes=_dynamic_shapes(spec),
        strict=False,
    )
    program = torch.onnx.export(
        exported,
        dynamo=True,
        opset_version=OPSET,
        input_names=[item.name for item in spec.inputs],
        output_names=list(spec.outputs),
        custom_translation_table={torch.ops.internvl_edge.select_rows.default: _select_rows},
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program


def _select_rows(x: Any, index: Any) -> Any:
    axes: Any = op.Constant(value_ints=[1])
    return op.GatherND(x, op.Unsqueeze(index, axes), batch_dims=1)


def _example(item: GraphInput) -> torch.Tensor:
    return torch.zeros([_EXAMPLE_SIZES[d] if isinstance(d, str) else d for d in item.shape], dtype=item.dtype)


def _dynamic_shapes(spec: GraphSpec) -> tuple[object, ...]:
    """Return torch.export's description of the dynamic axes; a `*args` forward takes the rest as one tuple."""
    dims = [
        {axis: torch.export.Dim.DYNAMIC for axis, d in enumerate(item.shape) if isinstance(d, str)}
        for item in spec.inputs
    ]
    taken = inspect.signature(spec.module.forward).parameters.values()
    named = sum(parameter.kind is not inspect.Parameter.VAR_POSITIONAL for parameter in taken)
    return tuple(dims) if named == len(taken) else (*dims[:named], tuple(dims[named:]))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself (an absent torchvision, its own deprecations)."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)
