"""`engine.json`: what the plans of one target are, and whether they are for this bundle, device and library."""

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
"""min, opt and max of one input."""
Profile = Mapping[str, Shapes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One plan: a whole graph, or one of the segments that it was cut into."""

    file: str
    """Beside `engine.json`."""
    bytes: int
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    """What the build took."""
    peak_bytes: int
    """Resident memory of the process that built it, from the kernel."""
    plugins: tuple[tuple[str, str], ...] = ()
    """Name and version of what must be registered before it is opened; plugins whose kernels lie in it need nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEngines:
    """The plans of one graph, in the order in which they run."""

    graph_sha256: str
    """Of the bundle's ONNX file that they were built from."""
    key: str
    """Digest of all that the plans depend on: a build with an equal one is skipped."""
    profiles: tuple[Profile, ...]
    plans: tuple[PlanRecord, ...]
    gave_up: tuple[str, ...] = ()
    """What was lowered because memory ran out while building."""
    fell_back: str = ""
    """Why the attention kernels that were predicted to win were left out; empty if they were not."""
    form: Mapping[str, Any] | None = None
    """The dialect that a search chose for this graph, with launches and bytes of its middle block; None: no search."""

    @property
    def max_rows(self) -> int | None:
        """The rows that every input of some profile may have; None where no size is free."""
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
    """Of the machine that built them, where it has one."""
    flags: Mapping[str, Any]
    """How graphs were lowered and the builder was set."""
    weights: Mapping[str, str]
    """Weight file -> SHA-256."""
    scales_sha256: str | None
    """Of what quantization decided; None where nothing is quantized."""
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
    """Return the record of the plans in `folder` if they are for this bundle, library and device.

    This is asked before TensorRT, whose own refusals do not say what differs.

    Raises:
        BundleError: all that differs, with the command that mends it.
    """
    record = EngineRecord.load(folder)
    wrong = [*_foreign(record, flavour, version, sm), *_stale(record, bundle), *_damaged(record, folder)]
    if wrong:
        raise BundleError(
            f"{folder}: {'; '.join(wrong)}; run `internvl-edge build {bundle.path} --target {record.target}` here"
        )
    return record


def scales_digest(bundle: Bundle) -> str | None:
    """Return the digest of what quantization decided; None where nothing is quantized."""
    info = bundle.manifest.files.get("calibration/vectors.safetensors")
    return info.sha256 if info is not None else None


def weight_digests(bundle: Bundle) -> dict[str, str]:
    """Return the digest of every weight file that the graphs refer to, by its name beside them."""
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
    """Yield what is wrong with one plan's file."""
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
    """Return a plan's record as JSON holds it."""
    lists = {"inputs": tuple(entry["inputs"]), "outputs": tuple(entry["outputs"])}
    return PlanRecord(**{**entry, **lists, "plugins": plugins_of(entry.get("plugins", ()))})


def plugins_of(entry: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Return name and version of plugins as JSON holds them."""
    return tuple((name, version) for name, version in entry)


def profile_of(entry: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
    """Return a profile as JSON holds it with its shapes as tuples."""
    return {name: tuple(tuple(shape) for shape in shapes) for name, shapes in entry.items()}  # type: ignore[misc]
