"""The blueprint of a build: a file that lists all ONNX files from which the plans of a bundle are built.

Each graph is in the dialect of the target, and cut into parts where it is too large. `export.plans.lower_graph` writes
these files and needs onnx_ir; building from them needs TensorRT only, so that a device can build from a kit.
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
    """One part of a graph: consecutive nodes in one ONNX file, for one plan."""

    name: str
    """Name of the part: ``vision``, or ``vision.0``, ``vision.1`` if the graph is cut."""
    file: str
    """Path of the ONNX file relative to the blueprint's folder; its weights are beside it."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphParts:
    """Parts of one graph in the dialect of the target."""

    graph_sha256: str
    """Digest of the canonical graph from which the parts were written."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """Graphs of a bundle in the dialect of one target."""

    target: str
    sm: int
    flags: Mapping[str, Any]
    """Fields of the dialect, and the digest of the program's code under ``code``."""
    graphs: Mapping[str, GraphParts]
    schema: int = BLUEPRINT_SCHEMA

    def save(self, folder: Path) -> None:
        """Write the blueprint into `folder`."""
        (folder / BLUEPRINT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Blueprint":
        """Read the blueprint of a kit.

        Raises:
            BundleError: the blueprint is missing or damaged.
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
