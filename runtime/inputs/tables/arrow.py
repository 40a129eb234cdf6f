"""Import pyarrow, which is optional."""

import importlib
from typing import Any

from internvl_edge.runtime.errors import BackendError


def pyarrow_parquet() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        BackendError: pyarrow is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BackendError(
            "Parquet: pyarrow is not installed; pip install 'internvl-edge[parquet]', or use .jsonl and .npy"
        ) from error
