import pytest

from internvl_edge.export.canonical.quantized_kernels import require_quantized_kernels
from internvl_edge.runtime.errors import ExportError


def test_the_installed_runtime_computes_our_quantized_graphs() -> None:
    require_quantized_kernels()


def test_a_runtime_without_the_operator_is_refused_in_one_line() -> None:
    with pytest.raises(ExportError, match=r"onnxruntime \S+ does not compute QuantizeLinear of opset 999") as found:
        require_quantized_kernels(999)
    assert "\n" not in str(found.value)
