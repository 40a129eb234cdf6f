"""Turn a checkpoint into a bundle: the stages of `internvl-edge export` in their order."""

import logging
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir
import torch

from internvl_edge.calib.choose import Precision
from internvl_edge.calib.gate.result import GateResult
from internvl_edge.calib.ranges.stored import save_info
from internvl_edge.calib.recipes.recipe import Recipe, save_recipe
from internvl_edge.calib.report.content import build_report
from internvl_edge.calib.report.page import render_html
from internvl_edge.export.blockwise.threads import fitting_threads
from internvl_edge.export.canonical.forked import Forked
from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.check.fp16_room import fitting_dtype
from internvl_edge.export.check.verification_inputs import Tokenizers, VerificationInputs
from internvl_edge.export.check.verification_stage import Verified, verify_graphs
from internvl_edge.export.check.verify_graph import OutputError
from internvl_edge.export.checkpoint import Checkpoint
from internvl_edge.export.checkpoint.store.source_scan import SourceScan
from internvl_edge.export.checkpoint.store.weight_sources import Source, readable_in_place
from internvl_edge.export.checkpoint.store.weight_store import attach_placeholders, shared_files
from internvl_edge.export.models.graphs import graph_rows
from internvl_edge.export.models.model_info import ChatParts, model_info
from internvl_edge.export.numerics.overflows import Fp32Parts
from internvl_edge.export.plans.build import BuildOptions, BuildReport, build
from internvl_edge.export.plans.kit import KitReport
from internvl_edge.export.quantization import RANGES, quantize_run, run_gate
from internvl_edge.export.run.export_run import ExportRun, open_run
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.export.run.producer import producer
from internvl_edge.export.run.run_key import conversation_parts, export_key
from internvl_edge.export.run.staging import Staging, staged
from internvl_edge.export.store_graphs import TRACED, Stored, store_graphs
from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, Manifest
from internvl_edge.runtime.bundle.preprocessor_file import save_preprocessing
from internvl_edge.runtime.errors import VerificationError
from internvl_edge.runtime.outputs.strict_json import json_text
from internvl_edge.runtime.progress import Advance, Progress, Silent
from internvl_edge.runtime.targets.targets import find_target, require_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Result of an export: what was written, how exact it is, and how long each stage took."""

    output: Path
    precision: str
    graphs: tuple[str, ...]
    errors: tuple[OutputError, ...]
    seconds: Mapping[str, float]
    """Name of each stage -> seconds that it took in this run."""
    samples: str
    shared_tensors: int
    """Number of tensors that are read from files shared with the checkpoint: by common blocks, or by hard links."""
    hard_linked: bool
    written_tensors: int
    store_bytes: int
    built: BuildReport | KitReport | None
    """Report of the plans, or of the kit to build them from; None without a target."""
    ignored: tuple[str, ...]
    dtype_reason: str | None = None
    """Why the type of the bundle is what it is, where the values of a language model decided; else None."""
    without_llm: str | None = None
    """Why the checkpoint's language model has no graph; None if it has one, or if the checkpoint has none."""
    absent_files: tuple[str, ...] = ()
    """Missing shards of the checkpoint that no graph needs."""
    gate_result: GateResult | None = None
    """Accuracy that quantization cost; None where it was not measured."""
    kept_high: tuple[str, ...] = ()
    """Names of the sites that are not quantized."""
    fp32_parts: Mapping[str, Fp32Parts] = field(default_factory=dict)
    """Graph -> its parts that compute in fp32, because 16 bits would overflow."""


def export_bundle(options: ExportOptions, progress: Progress | None = None) -> ExportReport:
    """Write the bundle of `options.checkpoint` to `options.output`; either the whole bundle appears or none.

    With a target, its plans are then built from that bundle, as `internvl-edge build` does.

    Raises:
        EdgeError: the checkpoint, an option or a graph is not valid.
    """
    run = open_run(options, progress or Silent())
    with ExitStack() as stack:
        key = export_key(run.checkpoint, run.config, options, run.samples) | conversation_parts(run.conversation)
        staging = stack.enter_context(staged(options.output, key))
        inputs = _verification_inputs(run, run.model.sources)
        run, reason = _typed(run, staging, inputs)
        folder = staging.folder / "onnx" / run.options.bundle_precision
        folder.mkdir(parents=True, exist_ok=True)
        shared = shared_files(run.tensors, run.dtype, run.weights, folder)
        clock = _Clock()
        stack.enter_context(fitting_threads(run.tensors))
        tracing = stack.enter_context(_tracing(run, staging))  # forks, so it comes before the scan starts a thread
        scan = stack.enter_context(_source_scan(run, shared))
        _trace(run, staging, tracing)
        clock.stage("trace")
        precision = _precision(run, staging)
        recipe = precision.recipe if precision is not None else None
        clock.stage("calibrate")
        stored = store_graphs(run, staging, folder, recipe, shared, scan)
        clock.stage("weights")
        verified = _verify(run, staging, folder, stored, precision, inputs)
        clock.stage("verify")
        result = _gate(run, staging, folder, precision)
        clock.stage("gate")
        _describe(run, staging, folder, stored, verified, clock)
    built = build(options.output, BuildOptions(target=options.target), run.progress) if options.target else None
    clock.stage("plans")
    return ExportReport(
        output=options.output,
        precision=run.options.bundle_precision,
        dtype_reason=reason,
        graphs=run.graphs,
        errors=verified.errors,
        seconds=clock.seconds,
        samples=run.samples.source,
        shared_tensors=len(stored.plan.shared),
        hard_linked=run.weights == "link" and bool(stored.plan.files),
        written_tensors=len(stored.plan.written),
        store_bytes=sum(place.nbytes for place in stored.plan.placements.values()),
        built=built,
        ignored=run.checkpoint.ignored,
        without_llm=run.config.without_llm,
        absent_files=run.checkpoint.absent_files,
        gate_result=result,
        kept_high=tuple(d.site.name for d in recipe.decisions if not d.quantized) if recipe is not None else (),
        fp32_parts=verified.kept,
    )


def _typed(run: ExportRun, staging: Staging, inputs: VerificationInputs) -> tuple[ExportRun, str | None]:
    """Return the run with the type of its bundle, and the reason where the values of a language model decided.

    Raises:
        EngineError: the target cannot compute in that type.
    """
    if run.options.dtype is not None or run.conversation is None:
        return run, None
    done = staging.finished("type")
    if done is None:
        rows = graph_rows(run.config)
        spoken = [name for name in run.graphs if rows[name].embeds is not None]
        largest = {path: value for name in spoken for path, value in inputs.largest(name).items()}
        dtype, reason = fitting_dtype(largest)
        done = {"dtype": dtype, "reason": reason}
        staging.finish("type", done)
    if run.options.target is not None:
        require_precision(find_target(run.options.target), run.options.precision or done["dtype"])
    return replace(run, options=replace(run.options, dtype=done["dtype"])), done["reason"]


class _Clock:
    """Stopwatch for consecutive stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def stage(self, name: str) -> None:
        """Record the time since the last call under `name`."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


def _source_scan(run: ExportRun, shared: Collection[Path]) -> SourceScan:
    """Return a scan of the shared files; tensors that are written to the store are checked as they are written."""
    return SourceScan(t for t in run.tensors if readable_in_place(t, run.dtype) and t.file in shared)


def _tracing(run: ExportRun, staging: Staging) -> Forked:
    """Return the processes that trace the graphs which no earlier run has traced."""
    folder = staging.folder / TRACED
    folder.mkdir(exist_ok=True)

    def trace(name: str, advance: Advance) -> None:
        dtype = getattr(torch, run.dtype)
        model = canonicalize(trace_graph(name, run.config, dtype, run.feature_layers, advance))
        logger.info("%s: traced, %d nodes", name, len(model.graph))
        attach_placeholders(model)
        ir.save(model, folder / f"{name}.onnx")

    return Forked(trace, [name for name in run.graphs if staging.finished(_traced(name)) is None])


def _trace(run: ExportRun, staging: Staging, tracing: Forked) -> None:
    """Wait until every graph is traced, and record each."""
    with run.progress.task("Tracing graphs", len(run.graphs), "graphs") as advance:
        advance(sum(staging.finished(_traced(name)) is not None for name in run.graphs))
        for name in tracing.done(advance):
            staging.finish(_traced(name), {})


def _traced(name: str) -> str:
    """Return the name of the stage in which graph `name` is traced."""
    return f"trace {name}"


def _precision(run: ExportRun, staging: Staging) -> Precision | None:
    """Return how the graphs are quantized; None if they are not."""
    if run.options.precision is None:
        return None
    chosen = quantize_run(run, staging, _verification_inputs(run, run.model.sources).inputs)
    save_recipe(chosen.recipe, staging.folder / "calibration")
    save_info(staging.folder / "calibration", chosen.ranges.info)
    return chosen


def _verify(
    run: ExportRun,
    staging: Staging,
    folder: Path,
    stored: Stored,
    precision: Precision | None,
    inputs: VerificationInputs,
) -> Verified:
    """Compare the written graphs with torch, and write the differences; `inputs` are those without a recipe."""
    if precision is not None:
        inputs = _verification_inputs(run, stored.sources, precision.recipe)
    verified = verify_graphs(run, staging, folder, inputs, precision)
    _write_json(staging.folder / "reports" / "verification.json", verified.report(run.samples.source))
    return verified


def _gate(run: ExportRun, staging: Staging, folder: Path, precision: Precision | None) -> GateResult | None:
    """Measure what the written graphs lose, and write the report.

    Raises:
        VerificationError: more than --max-drop; the report lies beside where the bundle would have been.
    """
    if precision is None:
        return None
    options = run.options
    result = run_gate(precision.gate, folder, run.progress) if precision.gate is not None else None
    report = build_report(
        precision.recipe, precision.ranges, precision.damages, result, options.max_drop, precision.notes
    )
    missed = result is not None and not result.drop <= options.max_drop  # NaN is a miss
    place = options.output.with_name(f"{options.output.name}.rejected") if missed else staging.folder / "reports"
    _write_json(place / "quantization.json", report)
    (place / "quantization.html").write_text(render_html(report), encoding="utf-8", errors="backslashreplace")
    if result is not None and missed:
        raise VerificationError(
            f"{options.output}: {options.precision} loses {result.drop:.2f} points on {result.pictures} pictures, "
            f"--max-drop is {options.max_drop:g}; see {place / 'quantization.html'}, keep more layers high "
            "(--budget-layers, --keep-high) or allow it"
        )
    return result


def _describe(
    run: ExportRun, staging: Staging, folder: Path, stored: Stored, verified: Verified, clock: _Clock
) -> None:
    """Copy the files that the runtime needs, delete the intermediate ones, and write the manifest."""
    graphs = {name: verified.described(name, graph, folder) for name, graph in stored.graphs.items()}
    _copy_companions(run, staging.folder)
    _write_json(staging.folder / "reports" / "export.json", {"seconds": clock.seconds})
    shutil.rmtree(staging.folder / TRACED)
    shutil.rmtree(staging.folder / RANGES, ignore_errors=True)
    manifest = Manifest(
        schema=SCHEMA,
        producer=producer(),
        model=model_info(run.config, _logit_scale(run.checkpoint), _chat(run, stored)),
        precision=run.options.bundle_precision,
        graphs=graphs,
        files=_digests(staging.folder, stored.files),
        accepted_config=run.accepted_fields,
    )
    manifest.save(staging.folder / "manifest.json")


def _verification_inputs(
    run: ExportRun, sources: Mapping[str, Source], recipe: Recipe | None = None
) -> VerificationInputs:
    """Return the inputs and expected outputs of all graphs on the samples of this run."""
    tokenizers = Tokenizers(texts=run.model.tokenizer, conversation=run.conversation)
    return VerificationInputs(run.config, sources, run.samples, tokenizers, run.feature_layers, recipe)


def _copy_companions(run: ExportRun, folder: Path) -> None:
    """Copy the tokenizer and write the settings of preprocessing."""
    if run.model.tokenizer is not None and run.checkpoint.tokenizer_file is not None:
        shutil.copyfile(run.checkpoint.tokenizer_file, folder / "tokenizer.model")
    if run.conversation is not None:
        run.conversation.copy_to(folder)
    save_preprocessing(run.config.pictures, folder)


def _chat(run: ExportRun, stored: Stored) -> ChatParts | None:
    """Return what the manifest states of the language model besides its sizes; None if it is not exported."""
    if run.conversation is None or stored.embedding is None:
        return None
    return ChatParts(embedding=stored.embedding, max_context=run.max_context, conversation=run.conversation.chat)


def _logit_scale(checkpoint: Checkpoint) -> float | None:
    scale = checkpoint.tensors.get("logit_scale")
    return float(scale.torch()) if scale is not None else None


def _digests(folder: Path, known: Mapping[str, FileInfo]) -> dict[str, FileInfo]:
    """Return size and digest of every file of the bundle; those in `known` are not read again."""
    files = dict(known)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files and path.name != "stages.json":
            files[name] = FileInfo(bytes=path.stat().st_size, sha256=sha256_file(path))
    return files


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_text(content) + "\n", encoding="utf-8")
