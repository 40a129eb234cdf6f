"""What a build needs and nothing else: the graphs in their target's dialect, in parts.

Drawing one takes onnx_ir (`export.draw`); building from one takes TensorRT alone. So a device can build from a kit.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.manifest import TensorSpec
from internvl_edge.runtime.errors import BundleError

BLUEPRINT_FILE = "kit.json"
BLUEPRINT_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive nodes of a graph: one ONNX file, one plan."""

    name: str
    """``vision``, or ``vision.0``, ``vision.1`` where the graph is cut."""
    file: str
    """Relative to the blueprint's folder; its weights lie beside it."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphParts:
    """One graph in its target's dialect."""

    graph_sha256: str
    """Of the canonical graph that it was lowered from."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """All graphs of a bundle for one target."""

    target: str
    sm: int
    flags: Mapping[str, Any]
    """The dialect."""
    graphs: Mapping[str, GraphParts]
    schema: int = BLUEPRINT_SCHEMA

    def save(self, folder: Path) -> None:
        """Write the blueprint into `folder`."""
        (folder / BLUEPRINT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Blueprint":
        """Read the blueprint of a kit.

        Raises:
            BundleError: `folder` is no kit, or its blueprint is damaged.
        """
        path = folder / BLUEPRINT_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != BLUEPRINT_SCHEMA:
                raise BundleError(f"{path}: has schema {content['schema']}, this code reads {BLUEPRINT_SCHEMA}")
            return cls(**{**content, "graphs": {name: _graph(entry) for name, entry in content["graphs"].items()}})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{path}: cannot be read ({error}); make the kit again") from error


def _graph(entry: Mapping[str, Any]) -> GraphParts:
    return GraphParts(graph_sha256=entry["graph_sha256"], parts=tuple(_part(part) for part in entry["parts"]))


def _part(entry: Mapping[str, Any]) -> Part:
    inputs = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in entry["inputs"])
    return Part(**{**entry, "inputs": inputs, "outputs": tuple(entry["outputs"])})
