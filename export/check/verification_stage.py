"""The stage of an export that compares its graphs with torch, and rewrites parts that overflow to fp32."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from internvl_edge.calib.choose import Precision
from internvl_edge.export.canonical.tensor_specs import graph_info
from internvl_edge.export.check.verification_inputs import VerificationInputs
from internvl_edge.export.check.verify_graph import OutputError, require_ok, verify_graph
from internvl_edge.export.numerics.calibrated import calibrated_reach
from internvl_edge.export.numerics.overflows import Fp32Parts, resolve_overflows
from internvl_edge.export.numerics.reach import Reach, most
from internvl_edge.export.run.export_run import ExportRun
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.export.run.staging import Staging, key_of
from internvl_edge.runtime.bundle.manifest import GraphInfo, ReachInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Result of verification, for the graphs as they ship."""

    errors: tuple[OutputError, ...]
    closest: Mapping[str, Reach | None]
    """Graph -> the 16-bit value that comes nearest to its limit; None if it has no 16-bit values."""
    kept: Mapping[str, Fp32Parts]

    def described(self, name: str, info: GraphInfo, folder: Path) -> GraphInfo:
        """Return `info` of a graph with the result of its verification, and with the types of rewritten borders."""
        kept, closest = self.kept[name], self.closest[name]
        if kept.nodes:
            info = graph_info(info.file, ir.load(folder / f"{name}.onnx"), info.use)
        return replace(
            info,
            closest=_reach_info(closest) if closest is not None else None,
            islands=tuple(_reach_info(island) for island in kept.islands),
            fp32_nodes=kept.nodes,
        )

    def report(self, samples: str) -> dict[str, Any]:
        """Return the content of ``reports/verification.json``."""
        closest = {name: asdict(_reach_info(reach)) for name, reach in self.closest.items() if reach is not None}
        kept = {name: asdict(held) for name, held in self.kept.items() if held.nodes}
        outputs = [asdict(error) for error in self.errors]
        return {"samples": samples, "outputs": outputs, "closest_to_limit": closest, "kept_in_fp32": kept}


def verify_graphs(
    run: ExportRun, staging: Staging, folder: Path, verification: VerificationInputs, precision: Precision | None
) -> Verified:
    """Compare every graph, with rounded intermediates, with torch; rewrite graphs that overflow and run them again.

    Raises:
        VerificationError: an output differs too much, or values overflow and `on_overflow` forbids fp32.
    """
    last: dict[str, dict[str, Any]] = {}
    files = {name: folder / f"{name}.onnx" for name in run.graphs}
    with run.progress.task("Verifying graphs", len(run.graphs), "graphs") as advance:

        def measure(name: str, kept: Fp32Parts) -> list[Reach]:
            again = name in last
            stage = f"verify {name} {key_of(kept)}" if kept.nodes else f"verify {name}"
            done = staging.finished(stage)
            if done is None:
                done = _measured(name, files[name], verification, run.options, precision)
                staging.finish(stage, done)
            last[name] = done
            if not again:
                advance(1)
            return [Reach(**reach) for reach in done["near"]]

        kept = resolve_overflows(files, measure, run.options.on_overflow)
    errors = tuple(OutputError(**error) for name in run.graphs for error in last[name]["errors"])
    require_ok(list(errors))
    closest = {name: Reach(**found) if (found := last[name]["closest"]) is not None else None for name in run.graphs}
    return Verified(errors=errors, closest=closest, kept=kept)


def _measured(
    name: str, file: Path, verification: VerificationInputs, options: ExportOptions, precision: Precision | None
) -> dict[str, Any]:
    """Return the errors of a graph's outputs and the reach of its 16-bit values, for its file as it is now."""
    inputs, expected = verification.inputs(name), verification.expected(name)
    errors, reached = verify_graph(name, file, inputs, expected, precision=options.bundle_precision, atol=options.atol)
    if precision is not None:
        reached = [*reached, *calibrated_reach(ir.load(file), precision.ranges, precision.recipe)]
    closest = most(reached)
    return {
        "errors": [asdict(error) for error in errors],
        "near": [asdict(reach) for reach in reached if reach.is_near],
        "closest": asdict(closest) if closest is not None else None,
    }


def _reach_info(found: Any) -> ReachInfo:
    return ReachInfo(place=found.place, largest=found.largest, limit=found.limit)
