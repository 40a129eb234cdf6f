"""What pyproject.toml says, for the tests that hold the code against it."""

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # the extra `dev` brings it there
    import tomli as tomllib

PYPROJECT: dict[str, Any] = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
