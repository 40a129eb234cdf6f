"""Read and write `engine.json`, the record of the plans of one target, and check that the plans can be used here."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.outputs.strict_json import json_text

ENGINE_SCHEMA = 1
"""Version of the layout of `engine.json` that this code writes and reads."""
ENGINE_FILE = "engine.json"

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Shapes min, opt and max of one input."""
Profile = Mapping[str, Shapes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One plan: a whole graph, or one of the segments that it was cut into."""

    file: str
    """Name of the plan's file in the folder of `engine.json`."""
    bytes: int
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    """Seconds that the build took."""
    peak_bytes: int
    """Peak resident memory of the process that built the plan, as the kernel counts it."""
    plugins: tuple[tuple[str, str], ...] = ()
    """Name and version of plugins that must be registered before the plan is opened, which those with kernels inside
    the plan need not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEngines:
    """The plans of one graph, in the order in which they run."""

    graph_sha256: str
    """SHA-256 of the bundle's ONNX file that the plans were built from."""
    key: str
    """Digest of everything that the plans depend on. A build with an equal key is skipped."""
    profiles: tuple[Profile, ...]
    plans: tuple[PlanRecord, ...]
    gave_up: tuple[str, ...] = ()
    """Builder settings that were lowered because memory ran out while building."""
    fell_back: str = ""
    """Reason why the attention kernels that were predicted to be faster were not used; empty if they were used."""
    form: Mapping[str, Any] | None = None
    """Dialect that a search chose for this graph, with launches and bytes of its middle block; None without a
    search."""

    @property
    def max_rows(self) -> int | None:
        """Return the most rows that all inputs may have in some profile; None where no axis is dynamic."""
        return max(
            (min(shapes[2][0] for shapes in profile.values()) for profile in self.profiles if profile), default=None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """All plans of one target."""

    target: str
    sm: int
    flavour: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    version: str
    driver: str | None
    """CUDA version of the driver on the machine that built the plans; None where it has no driver."""
    flags: Mapping[str, Any]
    """Settings of the lowering and of the builder."""
    weights: Mapping[str, str]
    """SHA-256 of each weight file, by its name."""
    scales_sha256: str | None
    """SHA-256 of the file with the scales of the quantization; None where nothing is quantized."""
    graphs: Mapping[str, GraphEngines] = field(default_factory=dict)
    schema: int = ENGINE_SCHEMA

    def save(self, folder: Path) -> None:
        """Write the record into the plans' folder."""
        text = json_text(asdict(self)) + "\n"
        temporary = folder / f"{ENGINE_FILE}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / ENGINE_FILE)

    @classmethod
    def load(cls, folder: Path) -> "EngineRecord":
        """Read the record of the plans in `folder`.

        Raises:
            BundleError: it is absent, damaged, or of another schema.
        """
        path = folder / ENGINE_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != ENGINE_SCHEMA:
                raise BundleError(
                    f"{path}: has schema {content['schema']}, this code reads {ENGINE_SCHEMA}; build the plans again"
                )
            graphs = {name: _graph(entry) for name, entry in content.pop("graphs").items()}
            return cls(**content, graphs=graphs)
        except FileNotFoundError as error:
            raise BundleError(f"{folder}: has no {ENGINE_FILE}; run `internvl-edge build` for this target") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{path}: cannot be read ({error}); build the plans again") from error


def require_engines(bundle: Bundle, folder: Path, *, flavour: str, version: str, sm: int) -> EngineRecord:
    """Return the record of the plans in `folder` if they were built for this bundle, library and device.

    This check comes before TensorRT's own, whose messages do not name what differs.

    Raises:
        BundleError: the plans do not fit. The message names all differences and the command that rebuilds the plans.
    """
    record = EngineRecord.load(folder)
    wrong = [*_foreign(record, flavour, version, sm), *_stale(record, bundle), *_damaged(record, folder)]
    if wrong:
        raise BundleError(f"{folder}: {'; '.join(wrong)}; run `{build_command(bundle, record.target)}` here")
    return record


def build_command(bundle: Bundle, target: str) -> str:
    """Return the command that builds the plans of `bundle` for `target`."""
    return f"internvl-edge build {bundle.path} --target {target}"


def scales_digest(bundle: Bundle) -> str | None:
    """Return the SHA-256 of the file with the scales of the quantization; None where nothing is quantized."""
    info = bundle.manifest.files.get("calibration/vectors.safetensors")
    return info.sha256 if info is not None else None


def weight_digests(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of every weight file that the graphs refer to, by the file's name."""
    folders = {str(Path(graph.file).parent) for graph in bundle.manifest.graphs.values()}
    return {
        Path(name).name: info.sha256
        for name, info in sorted(bundle.manifest.files.items())
        if str(Path(name).parent) in folders and not name.endswith(".onnx")
    }


def _foreign(record: EngineRecord, flavour: str, version: str, sm: int) -> Iterator[str]:
    if record.flavour != flavour:
        yield f"built by {record.flavour}, here is {flavour}"
    elif record.version != version:
        yield f"built by {flavour} {record.version}, here is {version}"
    if record.sm != sm:
        yield f"built for sm_{record.sm}, this device is sm_{sm}"


def _stale(record: EngineRecord, bundle: Bundle) -> Iterator[str]:
    if record.weights != weight_digests(bundle):
        yield "built from other weights than the bundle holds now"
    if record.scales_sha256 != scales_digest(bundle):
        yield "built with other scales than the bundle holds now"
    files = bundle.manifest.files
    for name, engines in record.graphs.items():
        graph = bundle.manifest.graphs.get(name)
        if graph is None or files[graph.file].sha256 != engines.graph_sha256:
            yield f"{name} was built from another graph than the bundle holds now"


def _damaged(record: EngineRecord, folder: Path) -> Iterator[str]:
    for engines in record.graphs.values():
        for plan in engines.plans:
            yield from plan_findings(plan, folder)


def plan_findings(plan: PlanRecord, folder: Path) -> Iterator[str]:
    """Yield the differences between the file of a plan and its record."""
    path = folder / plan.file
    if not path.is_file():
        yield f"{plan.file} is missing"
    elif path.stat().st_size != plan.bytes:
        yield f"{plan.file} has {path.stat().st_size} bytes instead of {plan.bytes}"
    elif sha256_file(path) != plan.sha256:
        yield f"{plan.file} is not as it was built"


def _graph(entry: Mapping[str, Any]) -> GraphEngines:
    plans = tuple(plan_of(plan) for plan in entry["plans"])
    profiles = tuple(profile_of(profile) for profile in entry["profiles"])
    return GraphEngines(**{**entry, "profiles": profiles, "plans": plans, "gave_up": tuple(entry["gave_up"])})


def plan_of(entry: Mapping[str, Any]) -> PlanRecord:
    """Return the record of a plan from its JSON object."""
    lists = {"inputs": tuple(entry["inputs"]), "outputs": tuple(entry["outputs"])}
    return PlanRecord(**{**entry, **lists, "plugins": plugins_of(entry.get("plugins", ()))})


def plugins_of(entry: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Return names and versions of plugins from their JSON array."""
    return tuple((name, version) for name, version in entry)


def profile_of(entry: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
    """Return a profile from its JSON object, with shapes as tuples."""
    return {name: tuple(tuple(shape) for shape in shapes) for name, shapes in entry.items()}  # type: ignore[misc]
