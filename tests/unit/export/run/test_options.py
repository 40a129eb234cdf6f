"""Options of an export, checked before the checkpoint is open."""

from pathlib import Path
from typing import Any

import pytest

from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.errors import ExportError

QUANTIZED = {"precision": "int8", "data": "random"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(("option", "flag"), [("atol", "--atol"), ("max_drop", "--max-drop")])
def test_a_limit_is_a_number(option: str, flag: str, value: float) -> None:
    told: dict[str, Any] = {**QUANTIZED, option: value}
    with pytest.raises(ExportError, match=f"{flag} {value}: not a"):
        ExportOptions(checkpoint="c", output=Path("b"), **told)
