"""The opset of canonical graphs is the first with all operators that they are made of."""

import onnx
import pytest

from internvl_edge.export.canonical.opset import OPSET


@pytest.mark.parametrize("operator", ["Attention", "RMSNormalization", "RotaryEmbedding"])
def test_the_opset_is_the_first_with_every_operator(operator: str) -> None:
    assert onnx.defs.get_schema(operator, OPSET).since_version <= OPSET
    with pytest.raises(onnx.defs.SchemaError):
        onnx.defs.get_schema(operator, OPSET - 1)
