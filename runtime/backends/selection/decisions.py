"""Store decisions of `auto` in small files, so that nothing is measured twice."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.cache_folder import cache_folder
from internvl_edge.runtime.replace_file import replace_file

logger = logging.getLogger(__name__)

_FOLDER = "backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The backend that runs a graph, and the reason in one line."""

    backend: str
    because: str


def decision_key(facts: Mapping[str, Any]) -> str:
    """Return the key of a decision, a digest of the facts that it depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def read_decision(key: str) -> Decision | None:
    """Return the decision with this key; None if there is none or, with a warning, if it cannot be read."""
    try:
        path = _path(key)
        content = json.loads(path.read_text(encoding="utf-8"))
        return Decision(backend=str(content["backend"]), because=str(content["because"]))
    except (FileNotFoundError, RuntimeError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: cannot be read (%s); the backends are measured again", path, error)
        return None


def write_decision(key: str, decision: Decision) -> None:
    """Store a decision. If the folder cannot be written, the next process measures again."""
    try:
        replace_file(_path(key), json.dumps(asdict(decision), ensure_ascii=False).encode())
    except (OSError, RuntimeError) as error:
        logger.info("the choice of a backend is not kept (%s); set INTERNVL_EDGE_CACHE to a folder", error)


def _path(key: str) -> Path:
    return cache_folder() / _FOLDER / f"{key}.json"
