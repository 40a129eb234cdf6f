"""What every check of this folder is marked with."""

import pytest

GPU = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]
"""A check may build dozens of plans first; torch warns of devices newer or older than its own kernels, none of which
run here."""
