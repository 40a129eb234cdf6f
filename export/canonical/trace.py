"""Trace one graph of the model to ONNX with fake tensors, so that no weight is read or allocated."""

import inspect
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
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

logger = logging.getLogger(__name__)

_EXAMPLE_SIZES = {"batch": 2, "texts": 2, "length": 5, "past": 11, "total": 16}
"""Sizes of dynamic axes while tracing: above 1, which torch.export would take for a constant; total = past + length."""


_TO_BLOCKS = 0.5
"""Fraction of the time that torch needs to trace the blocks; writing the ONNX graph takes the rest."""


def trace_graph(
    name: str,
    config: ModelConfig,
    dtype: torch.dtype,
    feature_layers: Sequence[int] = (),
    advance: Advance = lambda part: None,
) -> ir.Model:
    """Return graph `name` in ONNX from torch's exporter; initializers have official names and no values.

    Progress is reported to `advance` block by block, in parts that add up to 1.

    Raises:
        ExportError: torch cannot trace the graph.
    """
    with _default_dtype(dtype), _quiet():
        try:
            with FakeTensorMode():
                spec = graph_spec(name, config, InternVLModel(config), dtype, feature_layers)
                with _reporting_blocks(spec.module, lambda part: advance(_TO_BLOCKS * part)):
                    exported = _exported(spec)
            program = _to_onnx(spec, exported)
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
def _reporting_blocks(module: torch.nn.Module, advance: Advance) -> Iterator[None]:
    """Report each traced block of `module` to `advance`, and the rest at the end, in parts that add up to 1."""
    blocks = [block for layers in module.modules() if isinstance(layers, torch.nn.ModuleList) for block in layers]
    traced: set[int] = set()

    def report(block: torch.nn.Module, *_: object) -> None:
        if id(block) not in traced:
            traced.add(id(block))
            advance(1 / len(blocks))

    hooks = [block.register_forward_hook(report) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    advance(1 - len(traced) / len(blocks) if blocks else 1.0)


def _exported(spec: GraphSpec) -> torch.export.ExportedProgram:
    return torch.export.export(
        spec.module.eval(),
        tuple(_example(item) for item in spec.inputs),
        dynamic_shapes=_dynamic_shapes(spec),
        strict=False,
    )


def _to_onnx(spec: GraphSpec, exported: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    """Return the graph without decomposition, or with it where this version of torch has no translation otherwise."""
    translatable = _Translatable(
        exported.graph_module,
        exported.graph,
        exported.graph_signature,
        exported.state_dict,
        exported.range_constraints,
        exported.module_call_graph,
        exported.example_inputs,
        exported.constants,
    )
    try:
        return _translated(spec, translatable)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        logger.info("%s: decomposed first, because torch cannot translate it as it is: %s", spec.name, reason)
        return _translated(spec, exported)


def _translated(spec: GraphSpec, program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    translated = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[item.name for item in spec.inputs],
        output_names=list(spec.outputs),
        custom_translation_table=_TRANSLATIONS,
        optimize=False,
        verbose=False,
    )
    assert translated is not None
    return translated


class _Translatable(torch.export.ExportedProgram):
    """A program whose operators all have a translation to ONNX, those of `_TRANSLATIONS` among them.

    The exporter decomposes every program, which traces it a second time and takes as long as the first. Nothing of
    ours needs it: what it would replace are `to`, `flatten` and `&`, which are translated as they are.
    """

    def run_decompositions(self, *_: object, **__: object) -> "_Translatable":
        """Return the program as it is."""
        return self


def _select_rows(x: Any, index: Any) -> Any:
    axes: Any = op.Constant(value_ints=[1])
    return op.GatherND(x, op.Unsqueeze(index, axes), batch_dims=1)


def _floats(beside: Any, values: Any) -> Any:
    return op.Constant(value_floats=list(values))


def _to(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False) -> Any:
    return op.Cast(x, to=dtype)


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Reshape to a constant target, which torch's own translation computes at run time; axes behind must be known."""
    end = end_dim % len(x.shape) + 1
    sizes = [size if isinstance(size, int) else None for size in x.shape]
    merged = [size for size in sizes[start_dim:end] if size is not None]
    product = math.prod(merged) if len(merged) == end - start_dim else -1
    target = [*sizes[:start_dim], product, *sizes[end:]]
    if target.count(None) + target.count(-1) <= 1:  # one size is inferred; a 0 is a size, as where torch decomposes
        return op.Reshape(x, _constant(-1 if size is None else size for size in target), allowzero=1)
    return op.Reshape(x, _constant(0 if size is None else size for size in target))


def _constant(sizes: Iterable[int]) -> Any:
    return op.Constant(value_ints=list(sizes))


def _and(x: Any, y: Any) -> Any:
    return op.And(x, y)


_TRANSLATIONS: dict[Any, Any] = {
    torch.ops.internvl_edge.select_rows.default: _select_rows,
    torch.ops.internvl_edge.constant.default: _floats,
    torch.ops.aten.to.dtype: _to,
    torch.ops.aten.flatten.using_ints: _flatten,
    torch.ops.aten.__and__.Tensor: _and,
}
"""Operator of torch -> what writes it in ONNX, where torch's exporter has nothing or something longer."""


def _example(item: GraphInput) -> torch.Tensor:
    return torch.zeros([_EXAMPLE_SIZES[d] if isinstance(d, str) else d for d in item.shape], dtype=item.dtype)


def _dynamic_shapes(spec: GraphSpec) -> tuple[object, ...]:
    """Return the dynamic axes for torch.export; inputs for the ``*args`` of a forward are one nested tuple."""
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
    """Silence the exporter's messages about a missing torchvision and its own deprecations."""
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
