"""Write a kit: a bundle with its graphs in the dialect of one target, from which the device builds its plans.

The device needs the packages of the runtime and TensorRT. It runs ``internvl-edge build KIT``, or the kit's commands
for trtexec.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from internvl_edge.export.engine.blueprint import BLUEPRINT_FILE, Blueprint, GraphParts
from internvl_edge.export.engine.profiles import AxisRanges, profiles_for
from internvl_edge.export.engine.trtexec import trtexec_line
from internvl_edge.export.run.producer import code_digest
from internvl_edge.export.run.staging import staged
from internvl_edge.runtime.bundle.bundle import Bundle, sha256_file
from internvl_edge.runtime.bundle.manifest import FileInfo, GraphInfo
from internvl_edge.runtime.file_copy import copy_file
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.estimate import Limits, part_bytes

LINES_FILE = "trtexec.sh"
_MAJORS = (10, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class KitReport:
    """Description of a written kit."""

    target: Target
    folder: Path
    blueprint: Blueprint
    lines: tuple[str, ...]
    """trtexec commands for TensorRT 10.x, one for each plan; the kit's script has those for 11.x too."""


def make_kit(
    bundle: Bundle,
    target: Target,
    ranges: AxisRanges,
    limits: Limits,
    attention: str,
    output: Path | None,
    only: tuple[str, ...] | None = None,
) -> KitReport:
    """Write a kit of `bundle` for `target`; the folder appears whole or not at all.

    The device may have any TensorRT from 10.3 on, so the graphs need no newer one unless `attention` does. `only` names
    the graphs of the kit; None takes every graph of the bundle.

    Raises:
        EngineError: a range does not fit a graph.
    """
    from internvl_edge.export.dialects import dialect_for
    from internvl_edge.export.plans.lower_graph import lower_graph

    dialect = dialect_for(attention=attention == "op", wanted=attention)
    folder = output or bundle.path.with_name(f"{bundle.path.name}-{target.name}")
    flags = {**asdict(dialect), "code": code_digest()}
    key = {
        "the bundle": sha256_file(bundle.path / "manifest.json"),
        "the target": (target, ranges, limits, sorted(flags.items()), only),
        "the program's code": code_digest(),
    }
    graphs: dict[str, GraphParts] = {}
    with staged(folder, key, "a kit", BLUEPRINT_FILE) as staging:
        infos: dict[str, GraphInfo] = {}
        for name in only or tuple(bundle.manifest.graphs):
            info = bundle.manifest.graphs[name]
            place = str(Path(info.file).parent)
            whole = lower_graph(bundle, name, dialect, None, staging.folder, place, copy_file)
            cut = lower_graph(bundle, name, dialect, part_bytes(limits), staging.folder, place, copy_file)
            file = whole.parts[0].file
            infos[name] = replace(info, file=file)
            graphs[name] = replace(cut, graph_sha256=sha256_file(staging.folder / file))
        blueprint = Blueprint(target=target.name, sm=target.sm, flags=flags, graphs=graphs)
        blueprint.save(staging.folder)
        _copy_companions(bundle, staging.folder)
        lines = {major: tuple(_lines(bundle, blueprint, ranges, major)) for major in _MAJORS}
        (staging.folder / LINES_FILE).write_text(_script(target, lines), encoding="utf-8")
        replace(bundle.manifest, graphs=infos, files=_digests(bundle, staging.folder)).save(
            staging.folder / "manifest.json"
        )
    return KitReport(target=target, folder=folder, blueprint=blueprint, lines=lines[_MAJORS[0]])


def _lines(bundle: Bundle, blueprint: Blueprint, ranges: AxisRanges, major: int) -> Iterator[str]:
    for name, graph in blueprint.graphs.items():
        for part in graph.parts:
            profiles = profiles_for(name, part.inputs, bundle.manifest, ranges)
            yield trtexec_line(part.file, f"{part.name}.plan", profiles, major=major)


def _script(target: Target, lines: Mapping[int, tuple[str, ...]]) -> str:
    found = [f"# Plans for {target.name} (sm_{target.sm}) by trtexec, from this folder on the device itself."]
    for major, commands in lines.items():
        found += [f"\n# TensorRT {major}.x", *(line if major == _MAJORS[0] else f"# {line}" for line in commands)]
    return "\n".join(found) + "\n"


def _copy_companions(bundle: Bundle, folder: Path) -> None:
    """Copy all files that are neither graphs nor weights: tokenizer, preprocessor, reports, calibration."""
    for name in bundle.manifest.files:
        target = folder / name
        if not name.startswith(("onnx/", "engines/")):
            copy_file(bundle.path / name, target)


def _digests(bundle: Bundle, folder: Path) -> dict[str, FileInfo]:
    """Return size and digest of every file of the kit; those of weights come from the bundle's manifest."""
    known: Mapping[str, FileInfo] = bundle.manifest.files
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in ("stages.json", "manifest.json"):
            continue
        weights = name in known and name.startswith("onnx/") and not name.endswith(".onnx")
        found[name] = known[name] if weights else FileInfo(bytes=path.stat().st_size, sha256=sha256_file(path))
    return found
