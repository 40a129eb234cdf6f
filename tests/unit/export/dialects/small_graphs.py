"""Small graphs in ONNX text for the dialects' passes: read, run, and compared before and after."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

HEADER = '<ir_version: 10, opset_import: ["": 23]>\n'

FP32_ATOL = 2e-6
"""Of values near 1 in fp32: another order of the same few operations moves the last bits (2^-23 = 1.2e-7)."""


def load(text: str, **initializers: np.ndarray) -> ir.Model:
    """Return the graph with the inputs named in `initializers` made constants."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEADER + text)))
    for value in [value for value in model.graph.inputs if value.name in initializers]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(initializers[str(value.name)], name=value.name)
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs on ONNX Runtime as the graph is written: nothing is fused back."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)  # type: ignore[no-any-return]


def ops(model: ir.Model) -> list[str]:
    """Return the operators in order."""
    return [node.op_type for node in model.graph]


def require_same_outputs(
    text: str,
    graph_pass: ir.passes.InPlacePass,
    feeds: dict[str, np.ndarray],
    atol: float = FP32_ATOL,
    **initializers: np.ndarray,
) -> ir.Model:
    """Return the graph rewritten by `graph_pass`: modified once, never twice, with equal outputs and output names."""
    before = run(load(text, **initializers), feeds)
    model = load(text, **initializers)
    names = [value.name for value in model.graph.outputs]
    assert graph_pass(model).modified
    after = run(model, feeds)
    assert [value.name for value in model.graph.outputs] == names
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), atol=atol, rtol=0)
    written = str(ir.to_proto(model))
    assert not graph_pass(model).modified
    assert str(ir.to_proto(model)) == written
    return model


def require_untouched(text: str, graph_pass: ir.passes.InPlacePass, **initializers: np.ndarray) -> None:
    """Check that `graph_pass` leaves the graph as it is, and says so."""
    model = load(text, **initializers)
    written = str(ir.to_proto(model))
    assert not graph_pass(model).modified
    assert str(ir.to_proto(model)) == written
