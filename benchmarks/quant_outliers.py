"""The demo and two copies of it with outliers, quantized, in one table: `python benchmarks/quant_outliers.py FOLDER`.

Each model is compared with its own fp32 graphs. Plain MinMax is ONNX Runtime's `quantize_static`; beside it are our own
exports without the measures against outliers.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import click
from outliers import plant_massive, scale_folds
from quant_baselines import EXAMPLE, Row, Test, evaluated, job_of, onnxruntime_tool, open_job, our_tool, prepare, row_of

MODELS: dict[str, Callable[[Path, Path], None]] = {"folded": scale_folds, "massive": plant_massive}
"""Name -> function that writes a copy of a checkpoint; the unchanged demo comes first."""
TOOLS = {
    "plain MinMax int8": onnxruntime_tool("MinMax"),
    "ours int8, max, no smoothing": our_tool("int8", "--method", "max", "--smooth", "off", "--max-drop", "100"),
    "ours int8": our_tool("int8"),
    "ours fp8": our_tool("fp8"),
}


def rows(checkpoint: Path, folder: Path, data: Path, test: Test) -> dict[str, Row]:
    """Return the rows of `checkpoint`: fp32, then every tool."""
    job = open_job(folder, checkpoint, data, folder)
    prepare(job)
    found = {"fp32": evaluated("fp32", job.fp32, test, job.log)}
    for name, tool in TOOLS.items():
        found[name] = row_of(name, tool, job_of(name, job), test)
        shutil.rmtree(job_of(name, job).output, ignore_errors=True)
    return found


def cell(row: Row, fp32: Row) -> str:
    """Return R@1 and zero-shot accuracy, with the difference to fp32, and the products in 8 bits."""
    if row.means is None or fp32.means is None:
        return row.reason
    pairs = list(zip(row.means[:2], fp32.means[:2], strict=True))
    if row is fp32:
        return " / ".join(f"{mean:.2f}" for mean, _ in pairs)
    figures = " / ".join(f"{mean:.2f} ({mean - was:+.2f})" for mean, was in pairs)
    return f"{figures}, {row.products}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sample-count", type=int, default=0, help="Number of test pictures; 0: all.")
def main(folder: Path, sample_count: int) -> None:
    """Quantize the demo and its copies below FOLDER and print a Markdown table."""
    data = EXAMPLE / "data" / "calibration.jsonl"
    test = Test(data=EXAMPLE / "data" / "test.jsonl", sample_count=sample_count, tasks="retrieval,zero_shot")
    checkpoints = {"demo": EXAMPLE / "checkpoint"}
    for name, write in MODELS.items():
        checkpoints[name] = folder / name / "checkpoint"
        write(EXAMPLE / "checkpoint", checkpoints[name])
    table = {name: rows(path, folder / name, data, test) for name, path in checkpoints.items()}
    click.echo(
        "Mean R@1 / zero-shot accuracy, in brackets the difference to the same model in fp32; products in 8 bits.\n"
    )
    click.echo(f"| | {' | '.join(table)} |\n| --- |{' ---: |' * len(table)}")
    for tool in ("fp32", *TOOLS):
        cells = [cell(found[tool], found["fp32"]) for found in table.values()]
        click.echo(f"| {tool} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
