"""The folder in which all processes of this program keep what they measured or compiled on a machine."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$INTERNVL_EDGE_CACHE``, or the folder of this program in the user's cache.

    Raises:
        RuntimeError: the user has no home directory.
    """
    if own := os.environ.get("INTERNVL_EDGE_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "internvl-edge"
