"""Forms whose values no verification has measured are not searched."""

import numpy as np
import pytest

from internvl_edge.export.plans.forms import FORMS
from internvl_edge.export.plans.search import verified_forms
from tests.unit.export.dialects.small_graphs import load

TEXT = "g (KIND[b, 8] x, KIND[8] w) => (KIND[b, 8] y) {\n  y = Mul(x, w)\n}"


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_scores_of_16_bits_are_not_scaled_behind_their_product(kind: str) -> None:
    """They would be sqrt(d) times as large there as what was measured."""
    forms = verified_forms(load(TEXT.replace("KIND", kind)).graph)
    assert [form for form in FORMS if form not in forms] == [form for form in FORMS if form.scale == "scores"]
    assert len(forms) == len(FORMS) - 1


def test_fp32_has_every_form() -> None:
    assert verified_forms(load(TEXT.replace("KIND", "float"), w=np.ones(8, np.float32)).graph) == FORMS
