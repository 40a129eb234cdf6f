"""Quantization by other tools and by ours, on the same graphs and data: `python benchmarks/quant_baselines.py FOLDER`.

Exports CHECKPOINT in fp32 below FOLDER, takes what each graph is fed on real pictures and captions, lets every tool
quantize the exported graphs on that, and evaluates each result on the test set. ModelOpt gets an environment of its own
(1.4 GB, made once). The output of each step goes to FOLDER/logs.

Every step is a process of its own that this file starts with itself as module; so this one must stay small: it loads no
model. Imports of `internvl_edge` stay inside functions: ModelOpt's environment has none.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from model_optimizer import MODELOPT, batch_reader, modelopt_graph, modelopt_python
from qdq_products import PRODUCTS, quantized_products
from steps import Cost, StepError, measured, step

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "emoji"
GRAPHS = ("vision", "query", "text", "decoder")
"""Graphs that the other tools quantize; `itm` is left out, since its head is not trained in the demo."""
SAMPLES = 128
BATCH_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Input of a tool, and the folder of its bundle."""

    checkpoint: Path
    data: Path
    fp32: Path
    inputs: Path
    environment: Path
    output: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Data and tasks on which bundles are evaluated."""

    data: Path
    sample_count: int
    """Number of pictures; 0: all."""
    tasks: str = "retrieval,zero_shot,captions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    tool: str
    means: tuple[float, ...] | None = None
    """Mean R@1, zero-shot accuracy and exact match of captions in percent, of those that were measured."""
    cost: Cost | None = None
    products: str = ""
    reason: str = ""


Tool = Callable[[Job], Cost]
"""Function that writes a bundle to `job.output` and returns the cost."""


# Tools


def onnxruntime_tool(method: str) -> Tool:
    """Return `quantize_static` with a calibration method: MinMax, Entropy, Percentile."""

    def tool(job: Job) -> Cost:
        return step("quant_baselines.onnxruntime_graphs", job.fp32, job.inputs, job.output, method, log=job.log)

    return tool


def modelopt_tool(precision: str, method: str) -> Tool:
    """Return ModelOpt's ONNX PTQ with a precision and a calibration method."""

    def tool(job: Job) -> Cost:
        python = modelopt_python(job.environment, job.log)
        given = (job.fp32, job.inputs, job.output, precision, method)
        return step("quant_baselines.modelopt_graphs", *given, log=job.log, python=str(python))

    return tool


def our_tool(precision: str, *options: str) -> Tool:
    """Return our own export as a user runs it, with tracing, calibration and accuracy gate."""

    def tool(job: Job) -> Cost:
        data = ["--data", str(job.data), "--calibration-samples", str(SAMPLES)]
        return measured(export_command(job, "--precision", precision, *data, *options), job.log)

    return tool


TOOLS: dict[str, Tool] = {
    "ort-minmax": onnxruntime_tool("MinMax"),
    "ort-entropy": onnxruntime_tool("Entropy"),
    "ort-percentile": onnxruntime_tool("Percentile"),
    "modelopt-max": modelopt_tool("int8", "max"),
    "modelopt-entropy": modelopt_tool("int8", "entropy"),
    "modelopt-fp8-max": modelopt_tool("fp8", "max"),
    "modelopt-fp8-entropy": modelopt_tool("fp8", "entropy"),
    "ours-int8": our_tool("int8"),
    "ours-fp8": our_tool("fp8"),
}


# Steps that run in a process of their own; arguments are strings


def onnxruntime_graphs(fp32: str, inputs: str, output: str, method: str) -> None:
    """Quantize as ONNX Runtime's manual says: pre-process, then `quantize_static` to QDQ.

    What it needed:

    - Symbolic shape inference fails on all four graphs (`assert len(shape_bias) == 1`: it takes LayerNormalization
      as its contrib op), so it is skipped; ONNX's own shape inference and the optimizer are run.
    - The optimizer does not find external data beside its temporary copy: the weights go into the file first.
    - Without the optimizer no weight is found: they reach MatMul through a Transpose, which it folds.
    - Outputs of products stay fp32, as TensorRT wants it: quantized as well, ONNX Runtime 1.24 refuses its own graph
      ("output_dtype INT8 does not match y_zero_point type UINT8", its rewrite of int8 to uint8 behind a Reshape).
    - Histograms want batches of one shape: each batch is collected alone (`CalibStridedMinMax`, for all methods).
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "CalibStridedMinMax": 1,
        "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
    }
    for name, file in quantized_graphs(Path(fp32), Path(output)):
        onnx.save(onnx.load(file), file)
        quant_pre_process(file, file, skip_symbolic_shape=True)
        quantization.quantize_static(
            file,
            file,
            batch_reader(Path(inputs) / name, quantization.CalibrationDataReader),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options=options,
        )


def modelopt_graphs(fp32: str, inputs: str, output: str, precision: str, method: str) -> None:
    """Quantize each graph with ModelOpt's defaults."""
    for name, file in quantized_graphs(Path(fp32), Path(output)):
        modelopt_graph(str(file), f"{inputs}/{name}", precision, method, "fp32")


def calibration_inputs(fp32: str, data: str, output: str) -> None:
    """Write the inputs of each graph for SAMPLES pictures and their captions, one batch in each ``GRAPH/0000.npz``.

    Captions take the languages in turn. A batch holds texts of one length, so that no padding is measured. The decoder
    is fed as generation feeds it, but with the true caption: the prompt, then a token at a time.
    """
    from internvl_edge.calib.data.dataset import open_data
    from internvl_edge.runtime import InternVL

    model = InternVL.open(fp32)
    content = open_data(Path(data)).subsample(SAMPLES)
    prompts, languages = content.prompts.caption_prompts, content.languages
    batches: dict[str, list[Mapping[str, np.ndarray]]] = {name: [] for name in GRAPHS}
    for index, language in enumerate(languages):
        rows = [row for row in content.rows[index :: len(languages)] if language in row.texts]
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            vision = {"pixel_values": model.preprocess([content.picture(row) for row in part])}
            query = {"vision_states": model.run_graph("vision", vision)["vision_states"]}
            batches["vision"].append(vision)
            batches["query"].append(query)
            captions = [row.texts[language][0] for row in part]
            batches["text"] += _by_length([model.tokenize([caption])[0] for caption in captions])
            ids = [model.tokenizer.encode_prompt(caption)[0, 1:] for caption in captions]
            prompt = model.tokenizer.encode_prompt(prompts[language])
            batches["decoder"] += _decoder_steps(model, model.run_graph("query", query), prompt, ids)
    for name, graph in batches.items():
        folder = Path(output) / name
        folder.mkdir(parents=True)
        for number, batch in enumerate(graph):
            np.savez(folder / f"{number:04}.npz", allow_pickle=True, **batch)


def evaluation(bundle: str, data: str, sample_count: str, tasks: str, output: str) -> None:
    """Write the figures of a bundle as JSON."""
    from internvl_edge.calib.data.dataset import open_data
    from internvl_edge.calib.evaluation import EvalOptions, evaluate
    from internvl_edge.runtime import InternVL

    model = InternVL.open(bundle)
    options = EvalOptions(sample_count=int(sample_count) or None, tasks=tuple(tasks.split(",")))
    report = evaluate(model, open_data(Path(data)), options)
    means = [report.mean_recall_at_1, report.mean_zero_shot, report.mean_exact_match]
    found = {"means": [mean for mean in means if mean is not None], "products": _products(Path(bundle))}
    Path(output).write_text(json.dumps({**found, "report": report.to_json()}))


# What the steps share


def export_command(job: Job, *options: str) -> list[str]:
    """Return the command that exports fp32 graphs to `job.output`, or quantized ones as `options` say."""
    command = [sys.executable, "-m", "internvl_edge.cli", "export", str(job.checkpoint), "-o", str(job.output)]
    return [*command, "--dtype", "fp32", *options]


def quantized_graphs(fp32: Path, output: Path) -> Iterator[tuple[str, Path]]:
    """Copy a bundle and yield the graphs to quantize: name and file, to be replaced where it lies."""
    shutil.copytree(fp32, output)
    graphs = json.loads((output / "manifest.json").read_text())["graphs"]
    for name in GRAPHS:
        yield name, output / graphs[name]["file"]


def seal(bundle: Path, precision: str) -> None:
    """Update the manifest for the changed files."""
    from internvl_edge.runtime.bundle.bundle import sha256_file
    from internvl_edge.runtime.bundle.manifest import FileInfo, Manifest

    manifest = Manifest.load(bundle / "manifest.json")
    files = {
        path.relative_to(bundle).as_posix(): FileInfo(bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    replace(manifest, precision=precision, files=files).save(bundle / "manifest.json")


def _by_length(texts: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    lengths = sorted({len(text) for text in texts})
    return [{"input_ids": np.stack([text for text in texts if len(text) == length])} for length in lengths]


def _decoder_steps(
    model: Any, query: Mapping[str, np.ndarray], prompt: np.ndarray, captions: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Return the inputs of the decoder for one batch; rows whose caption has ended are removed."""
    order = sorted(range(len(captions)), key=lambda row: -len(captions[row]))
    cache = {name: values[order] for name, values in query.items() if name.startswith("present.")}
    held = next(iter(cache.values())).shape[2]
    ids = np.repeat(prompt, len(order), axis=0)
    steps: list[dict[str, np.ndarray]] = []
    for position in range(max(map(len, captions)) + 1):
        rows, total = ids.shape[0], held + ids.shape[1]
        state = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, total), np.int64),
            "position_ids": np.broadcast_to(np.arange(held, total), ids.shape),
        }
        past = {
            name.replace("present", "past_key_values", 1): values[:rows]
            for name, values in cache.items()
            if name.startswith("present.")
        }
        steps.append({**state, **past})
        cache, held = model.run_graph("decoder", steps[-1]), total
        ids = np.array([[captions[row][position]] for row in order if len(captions[row]) > position], np.int64)
    return steps


def _products(bundle: Path) -> str:
    """Return the number of products with both inputs in 8 bits, and the number of all, as text."""
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    counts = [quantized_products(bundle / graphs[name]["file"]) for name in GRAPHS]
    return "/".join(str(sum(column)) for column in zip(*counts, strict=True))


# The table


def open_job(folder: Path, checkpoint: Path, data: Path, environment: Path) -> Job:
    """Return the job that makes the fp32 bundle below `folder`, which is emptied of an earlier run."""
    for name in ("bundles", "inputs", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "bundles").mkdir(parents=True)
    (folder / "logs").mkdir()
    fp32 = folder / "bundles" / "fp32"
    places = {"fp32": fp32, "output": fp32, "inputs": folder / "inputs", "log": folder / "logs" / "fp32.log"}
    return Job(checkpoint=checkpoint, data=data, environment=environment, **places)


def prepare(job: Job) -> tuple[Cost, Cost]:
    """Export the fp32 graphs and compute their inputs; return the cost of both."""
    exported = measured(export_command(job), job.log)
    return exported, step("quant_baselines.calibration_inputs", job.fp32, job.data, job.inputs, log=job.log)


def job_of(tool: str, job: Job) -> Job:
    """Return the job of a tool: a bundle and a log of its own."""
    name = re.sub(r"[^a-z0-9]+", "-", tool.lower())
    return replace(job, output=job.fp32.parent / name, log=job.log.parent / f"{name}.log")


def row_of(name: str, tool: Tool, job: Job, test: Test) -> Row:
    """Run a tool and return the row of its bundle."""
    try:
        cost = tool(job)
        if not name.startswith("ours"):
            seal(job.output, "fp8" if "fp8" in name else "int8")
        return replace(evaluated(name, job.output, test, job.log), cost=cost)
    except (StepError, OSError, subprocess.CalledProcessError) as error:
        return Row(tool=name, reason=str(error))


def evaluated(tool: str, bundle: Path, test: Test, log: Path) -> Row:
    """Return the figures of a bundle."""
    report = log.with_suffix(".json")
    step("quant_baselines.evaluation", bundle, test.data, test.sample_count, test.tasks, report, log=log)
    found = json.loads(report.read_text())
    return Row(tool=tool, means=tuple(found["means"]), products=found["products"])


def line(row: Row, fp32: Row) -> str:
    """Return a row in Markdown."""
    if row.means is None or fp32.means is None:
        return f"| {row.tool} | none: {row.reason} | | | | | |"
    pairs = zip(row.means, fp32.means, strict=True)
    figures = [f"{mean:.2f}" if row is fp32 else f"{mean:.2f} ({mean - other:+.2f})" for mean, other in pairs]
    cost = ["", ""] if row.cost is None else [f"{row.cost.seconds:.1f}", f"{row.cost.peak_mib:.0f}"]
    return f"| {' | '.join([row.tool, *figures, row.products, *cost])} |"


def chosen(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the names of the tools after checking that all are known."""
    names = tuple(value.split(","))
    if unknown := [name for name in names if name not in TOOLS]:
        raise click.BadParameter(f"{', '.join(unknown)}: unknown; choose from {', '.join(TOOLS)}")
    return names


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), default=EXAMPLE / "checkpoint")
@click.option("--data", type=click.Path(exists=True, path_type=Path), default=EXAMPLE / "data" / "calibration.jsonl")
@click.option("--test", type=click.Path(exists=True, path_type=Path), default=EXAMPLE / "data" / "test.jsonl")
@click.option("--sample-count", type=int, default=0, help="Number of test pictures; 0: all.")
@click.option("--tools", default=",".join(TOOLS), callback=chosen, show_default=True)
@click.option(
    "--environment", type=click.Path(path_type=Path), show_default="FOLDER/modelopt", help="Environment of ModelOpt."
)
def main(
    folder: Path,
    checkpoint: Path,
    data: Path,
    test: Path,
    sample_count: int,
    tools: tuple[str, ...],
    environment: Path | None,
) -> None:
    """Quantize CHECKPOINT with each tool below FOLDER and print a Markdown table."""
    job = open_job(folder, checkpoint, data, environment or folder / "modelopt")
    test_set = Test(data=test, sample_count=sample_count)
    exported, prepared = prepare(job)
    fp32 = evaluated("fp32", job.fp32, test_set, job.log)
    packages = ("onnxruntime", "onnx", "torch", "numpy")
    click.echo(f"{', '.join(f'{name} {version(name)}' for name in packages)}; ModelOpt: {' '.join(MODELOPT)}")
    click.echo(f"{os.cpu_count()} cores. Seconds and memory of quantization alone: all but ours also need")
    click.echo(
        f"the fp32 export ({exported.seconds:.1f} s, {exported.peak_mib:.0f} MiB) and its outputs as inputs", nl=False
    )
    click.echo(f" ({prepared.seconds:.1f} s).\n")
    click.echo("| tool | mean R@1 | zero-shot | captions | products in 8 bits | seconds | peak MiB |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    click.echo(line(fp32, fp32))
    for tool in tools:
        click.echo(line(row_of(tool, TOOLS[tool], job_of(tool, job), test_set), fp32))


if __name__ == "__main__":
    main()
